"""The files of a source, a folder or a tar, by name and with a way to read each.

Nothing of a tar is unpacked under its own name. A packed one is copied, its images alone, to a file
without a name in the folder of temporary files: there any image can be read without those before.
"""

import io
import lzma
import os
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from service.image.kinds import HEIC_SUFFIXES, SUFFIXES
from training.data import DataError

MAX_FILE_BYTES = 100_000_000  # of one image; cameras write less
# of operating systems, in folders of images everywhere
# suffixes of images that are not read
OTHER_FORMATS = {*HEIC_SUFFIXES, ".jp2", ".jxl", ".psd"}
IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class File(NamedTuple):
    """A file of a source: its path in it, its size in bytes, and the function that reads it."""

    name: PurePosixPath
    size: int
    read: Callable[[], bytes]


class Skipped(NamedTuple):
    """A file that is no image of the data set, and the reason."""

    name: str
    reason: str


class Listing(NamedTuple):
    """The images of a source by their suffix, in the order of their names, and what is skipped."""

    files: list[File]
    skipped: list[Skipped]


def in_folder(root: Path) -> Listing:
    """The files below `root`; linked folders are followed."""
    return _listing(_walk(root))


def in_tar(path: Path) -> Listing:
    """The members of the tar `path`, packed or not.

    Raises:
        DataError: it is no tar or was cut off, or a member is larger than MAX_FILE_BYTES.
    """
    try:
        with tarfile.open(path) as archive:
            plain = isinstance(archive.fileobj, io.BufferedReader)
            return _listing(_members(archive, path, None if plain else _Scratch()))
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} is neither a folder nor a tar, or it was cut off ({reason})"
        ) from None


def on_disk(path: Path, name: PurePosixPath) -> File | Skipped:
    """The file `path` under a `name`, or the reason why it is none."""
    if not path.is_file():
        found = path.exists() or path.is_symlink()
        return Skipped(
            str(name),
            "is no file, but a pipe, a device or a broken link" if found else "does not exist",
        )
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        return Skipped(str(name), f"has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return File(name, size, path.read_bytes)


def is_image(name: PurePosixPath) -> bool:
    """True if the suffix of `name` is that of an image."""
    return name.suffix.lower() in SUFFIXES


def _listing(found: Iterator[File | Skipped]) -> Listing:
    files, skipped = [], []
    for item in found:
        name = PurePosixPath(item.name)
        if any(part.startswith(".") or part in IGNORED for part in name.parts):
            continue
        if isinstance(item, Skipped):
            skipped.append(item)
        elif not is_image(name):
            skipped.append(Skipped(str(name), _foreign(name)))
        elif not _is_text(str(name)):
            skipped.append(Skipped(ascii(str(name)), "has a name that is no UTF-8: rename it"))
        else:
            files.append(item)
    # in the order of names: that of the file system would change the fingerprint
    return Listing(sorted(files, key=lambda file: file.name), skipped)


def _foreign(name: PurePosixPath) -> str:
    if name.suffix.lower() in HEIC_SUFFIXES:
        return f"is {name.suffix}: convert it to JPEG, or install the extra candor[heic]"
    if name.suffix.lower() in OTHER_FORMATS:
        return f"is {name.suffix}: convert it to JPEG, PNG or WebP"
    return "is no image by its suffix"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # names end in reports, which are UTF-8
        return False
    return True


def _walk(root: Path) -> Iterator[File | Skipped]:
    for folder, folders, names in os.walk(root, followlinks=True):
        place = Path(folder)
        for name in list(folders):
            # a link to a folder above would lead round and round
            if (place / name).is_symlink() and place.resolve().is_relative_to(
                (place / name).resolve()
            ):
                folders.remove(name)
                yield Skipped(
                    str((place / name).relative_to(root)), "is a link to a folder above it"
                )
        if not folders and not names and place != root:
            yield Skipped(str(place.relative_to(root)), "is an empty folder")
        for name in names:
            yield on_disk(place / name, PurePosixPath((place / name).relative_to(root)))


class _Scratch:
    """A file without a name: the system deletes it with the process, however that ends."""

    def __init__(self) -> None:
        self._descriptor, name = tempfile.mkstemp(prefix="candor-")
        Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)

    def keep(self, content: bytes) -> int:
        """Appends `content`; returns the position of its first byte.

        Raises:
            DataError: there is no room for it.
        """
        try:
            with os.fdopen(os.dup(self._descriptor), "ab") as file:
                start = file.seek(0, io.SEEK_END)
                file.write(content)
        except OSError as error:
            raise DataError(
                f"{tempfile.gettempdir()} has no room for the images of a packed tar "
                f"({error.strerror}): set TMPDIR to another folder, or unpack it"
            ) from None
        return start

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start` on; several threads may read."""
        return os.pread(self._descriptor, size, start)


def _members(
    archive: tarfile.TarFile, path: Path, scratch: _Scratch | None
) -> Iterator[File | Skipped]:
    latest: dict[PurePosixPath, File | Skipped] = {}  # a later member replaces an earlier one
    for member in archive:
        _check_size(member)  # of any member: a packed one is unpacked to skip it
        name = PurePosixPath(member.name.lstrip("/"))
        if member.isfile():
            latest[name] = _member(archive, member, name, path, scratch)
        elif is_image(name) and not member.isdir():
            latest[name] = Skipped(str(name), "is a link, a pipe or a device in a tar")
    _check_end(archive, path)
    yield from latest.values()


def _member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    name: PurePosixPath,
    path: Path,
    scratch: _Scratch | None,
) -> File | Skipped:
    if member.issparse():
        return Skipped(str(name), "is a sparse file in a tar")
    if scratch is None:
        return File(name, member.size, partial(_part, path, member.offset_data, member.size))
    content = archive.extractfile(member) if is_image(name) else None
    start = 0 if content is None else scratch.keep(content.read())
    return File(name, member.size, partial(scratch.read, start, member.size))


def _part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _check_size(member: tarfile.TarInfo) -> None:
    if member.size > MAX_FILE_BYTES:
        raise DataError(
            f"{member.name} has {member.size:,} bytes; the limit is {MAX_FILE_BYTES:,}: "
            "leave it out"
        )


def _check_end(archive: tarfile.TarFile, path: Path) -> None:
    """Checks that a tar, all headers of which are read, ends with its mark, a block of zeros."""
    # tarfile takes an archive that is cut off for a smaller one.
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"{path} has no end mark, so it was cut off: copy it again")
