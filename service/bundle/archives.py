"""Archives with a bundle in them: .zip and .tar, read without being unpacked.

No path in an archive leads anywhere, and no file is taken that the manifest does not name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.bundle.manifest import MANIFEST
from service.errors import DeliveryError, ManifestError

MOST_BYTES = 2**35
PART = 2**20  # bytes that are copied at once


def opened(
    address: str, kind: tuple[str, str | None], named: str, scratch: Path
) -> tuple[Any, str]:
    """A file system of fsspec in the archive at `address`, and the folder of the bundle in it.

    `kind` is what fsspec calls it, with the compression of the whole; `named` stands for it in
    messages. A plain copy goes to `scratch`.

    Raises:
        DeliveryError: it has more than MOST_BYTES.
        ManifestError: it holds no bundle.
    """
    files = in_archive(address, kind, named, scratch)
    folder = folder_of(files.find(""))
    if folder is None:
        raise ManifestError(f"{named} holds no {MANIFEST}: pack the folder of a bundle")
    return files, folder


def in_archive(address: str, kind: tuple[str, str | None], named: str, scratch: Path) -> Any:
    """A file system of fsspec in the archive at `address`, as in `opened`.

    Raises:
        DeliveryError: it has more than MOST_BYTES.
    """
    from fsspec import filesystem  # noqa: PLC0415 - 0.1 s

    form, compression = kind
    plain = scratch / "archive"
    _unpack(address, compression, named, plain)
    return filesystem(form, fo=str(plain), skip_instance_cache=True)


def folder_of(names: Iterable[str]) -> str | None:
    """The folder of the manifest that lies highest among the files `names`; None if none does."""
    found = [name for name in names if name.rpartition("/")[2] == MANIFEST]
    if not found:
        return None
    return min(found, key=lambda name: name.count("/")).rpartition("/")[0]


def _unpack(address: str, compression: str | None, named: str, to: Path) -> None:
    """Copies an archive, which is read at many places, without its compression as a whole."""
    import fsspec  # noqa: PLC0415 - 0.1 s

    with fsspec.open(address, compression=compression) as packed, to.open("wb") as plain:
        while part := packed.read(PART):
            plain.write(part)
            if plain.tell() > MOST_BYTES:
                raise DeliveryError(
                    f"{named} has more than {MOST_BYTES:,} bytes: "
                    "deliver the folder instead, of which only the bundle's files are copied"
                )
