"""A bundle from an archive or an address, copied into the cache.

The manifest is read first, and then no more than the files that it names, each of the length that
it says. A copy is whole and verified, or it is not there.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.bundle import archives
from service.bundle.folder import MAX_MANIFEST_BYTES, load
from service.bundle.manifest import MANIFEST, Manifest
from service.bundle.source import BUNDLE, DIGEST, archive_of, in_cache, place_of, shown
from service.errors import BundleError, DeliveryError, DigestError, ManifestError, MissingFileError

# The extra of ours with the package that each needs; https takes none.
SCHEMES = {"s3": "s3", "gs": "gs", "hf": "hf", "oci": "oci", "https": None}

log = logging.getLogger("candor")


def fetch(source: str, digest: str | None = None) -> tuple[Path, str]:
    """The folder in the cache with the bundle at `source`, and a sentence of what was fetched.

    `digest` is that of the manifest. A copy in the cache that is whole is not fetched again.

    Raises:
        DeliveryError: the archive or the address cannot be read.
        BundleError: what is there is no bundle, or not the pinned one.
    """
    if digest is not None and (kept := place_of(digest)).is_dir() and _is_whole(kept, digest):
        return kept, in_cache(source, kept)
    started = time.monotonic()
    with _sentences(source), tempfile.TemporaryDirectory() as scratch:
        place, size = _copied(*_opened(source, Path(scratch)), source, digest)
    seconds = time.monotonic() - started
    return (
        place,
        f"the bundle of {shown(source)}: {size / 1e6:.1f} MB in {seconds:.1f} s, in {place}",
    )


def _opened(source: str, scratch: Path) -> tuple[Any, str]:
    """A file system of fsspec, or what opens files as one does; the folder of the bundle in it."""
    if source.startswith("oci://"):
        from service.bundle import registry  # noqa: PLC0415 - for few

        return registry.opened(source, scratch)
    from fsspec.core import url_to_fs  # noqa: PLC0415 - 0.1 s

    address = source if "://" in source else f"file://{Path(source).resolve()}"
    kind = archive_of(urlsplit(address).path)
    if kind is not None:
        return archives.opened(address, kind, shown(source), scratch)
    files, path = url_to_fs(address)
    return files, path.rstrip("/")


def _copied(files: Any, root: str, source: str, digest: str | None) -> tuple[Path, int]:
    """The place of the bundle in the folder `root` of `files`, and its bytes if it was copied."""
    try:
        text = _read(files, root, MANIFEST, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise ManifestError(
            f"{shown(source)} has no {MANIFEST}, or does not answer: name the folder of a bundle"
        ) from None
    manifest = Manifest.parse(text)
    if digest not in (None, manifest.digest):
        raise DigestError(
            f"{shown(source)} has the digest {manifest.digest}; {DIGEST} is {digest}: "
            "deliver the bundle that was pinned, or pin this one"
        )
    place = place_of(manifest.digest)
    damaged = place.is_dir()  # of a pinned one it is known
    if damaged and digest is None and _is_whole(place, manifest.digest):
        return place, 0
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        (new / MANIFEST).write_bytes(text)
        for name, file in manifest.files.items():
            try:
                # One byte more than the manifest says is enough to see that it is another one.
                (new / name).write_bytes(_read(files, root, name, file.length + 1))
            except FileNotFoundError:
                raise MissingFileError(
                    f"{shown(source)} has no {name}, which its manifest names: "
                    "deliver every file of the bundle"
                ) from None
        load(new, digest)
        if damaged:
            with suppress(FileNotFoundError):  # another process has moved it
                place.rename(Path(scratch) / "damaged")
        _put(new, place)
    return place, sum(file.length for file in manifest.files.values())


def _is_whole(place: Path, digest: str) -> bool:
    """True if the copy at `place` is what its digest says; a line of the log says what is wrong."""
    try:
        load(place, digest)
    except BundleError as error:
        log.warning("the copy in the cache is damaged, and is fetched anew: %s", error)
        return False
    return True


def _put(new: Path, place: Path) -> None:
    """Moves a folder to `place`: whole or not at all, for another process may look for it now."""
    try:
        new.rename(place)
    except OSError:
        if not place.is_dir():  # else another process brought it meanwhile
            raise


def _read(files: Any, root: str, name: str, most_bytes: int) -> bytes:
    with files.open(f"{root}/{name}" if root else name, "rb") as file:
        return bytes(file.read(most_bytes))


@contextmanager
def _sentences(source: str) -> Iterator[None]:
    """Turns what the packages of fsspec raise into sentences."""
    scheme = source.partition("://")[0] if "://" in source else None
    if scheme not in (None, *SCHEMES):
        raise DeliveryError(
            f"{BUNDLE} is {shown(source)!r}; bundles are fetched from {', '.join(SCHEMES)}: "
            "name one of these, or mount the bundle and name its folder"
        )
    try:
        yield
    except ImportError as error:
        extra = SCHEMES.get(scheme or "")
        remedy = f"install candor[{extra}]" if extra else "install candor again"
        raise DeliveryError(
            f"{shown(source)} takes packages that are not installed ({error}): {remedy}"
        ) from None
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - each package has errors of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DeliveryError(
            f"{shown(source)} cannot be read ({reason[0]}): check the address, the keys and the "
            "network"
        ) from None
