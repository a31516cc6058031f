"""A bundle from an archive or an address, copied into the cache.

The manifest is read first, and then no more than the files that it names, each of the length that
it says. A copy is whole and verified, or it is not there.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.bundle.folder import MAX_MANIFEST_BYTES, load
from service.bundle.manifest import MANIFEST, Manifest
from service.bundle.source import BUNDLE, DIGEST, archive_of, place_of, shown
from service.errors import BundleError, DeliveryError, DigestError, ManifestError

# The extra of ours with the package that fsspec needs; https takes none.
SCHEMES = {"s3": "s3", "gs": "gs", "hf": "hf", "https": None}
MOST_ARCHIVE_BYTES = 2**35
PART = 2**20  # bytes that are copied at once


def fetch(source: str, digest: str | None = None) -> tuple[Path, str]:
    """The folder in the cache with the bundle at `source`, and a sentence of what was fetched.

    `digest` is that of the manifest.

    Raises:
        DeliveryError: the archive or the address cannot be read.
        BundleError: what is there is no bundle, or not the pinned one.
    """
    started = time.monotonic()
    with _sentences(source), tempfile.TemporaryDirectory() as scratch:
        place, size = _copied(*_opened(source, Path(scratch)), source, digest)
    seconds = time.monotonic() - started
    return (
        place,
        f"the bundle of {shown(source)}: {size / 1e6:.1f} MB in {seconds:.1f} s, in {place}",
    )


def _opened(source: str, scratch: Path) -> tuple[Any, str]:
    """A file system of fsspec, and the folder of the bundle in it."""
    from fsspec import filesystem  # noqa: PLC0415 - 0.1 s
    from fsspec.core import url_to_fs  # noqa: PLC0415

    address = source if "://" in source else f"file://{Path(source).resolve()}"
    archive = archive_of(urlsplit(address).path)
    if archive is None:
        files, path = url_to_fs(address)
        return files, path.rstrip("/")
    kind, compression = archive
    plain = scratch / "archive"
    _unpack(address, compression, plain)
    files = filesystem(kind, fo=str(plain), skip_instance_cache=True)
    found = [name for name in files.find("") if name.rpartition("/")[2] == MANIFEST]
    if not found:
        raise ManifestError(f"{shown(source)} holds no {MANIFEST}: pack the folder of a bundle")
    return files, min(found, key=lambda name: name.count("/")).rpartition("/")[0]


def _unpack(address: str, compression: str | None, to: Path) -> None:
    """Copies an archive, which is read at many places, without its compression as a whole."""
    import fsspec  # noqa: PLC0415 - 0.1 s

    with fsspec.open(address, compression=compression) as packed, to.open("wb") as plain:
        while part := packed.read(PART):
            plain.write(part)
            if plain.tell() > MOST_ARCHIVE_BYTES:
                raise DeliveryError(
                    f"{shown(address)} has more than {MOST_ARCHIVE_BYTES:,} bytes: "
                    "deliver the folder instead, of which only the bundle's files are copied"
                )


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
    if place.is_dir():
        return place, 0
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        (new / MANIFEST).write_bytes(text)
        for name, file in manifest.files.items():
            with suppress(FileNotFoundError):  # `load` names it
                # One byte more than the manifest says is enough to see that it is another one.
                (new / name).write_bytes(_read(files, root, name, file.length + 1))
        load(new, digest)
        try:
            new.rename(place)  # whole or not at all, for another process may look for it now
        except OSError:
            if not place.is_dir():  # else another process brought it meanwhile
                raise
    return place, sum(file.length for file in manifest.files.values())


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
