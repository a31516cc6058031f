"""The places of a bulk run: paths of this machine, and addresses in an object store.

pictures, /data/pictures    a path; a file gets its name when it is whole and on the disk
s3://bucket/pictures        an address (`service.bulk.store`)
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

from service.bulk.store import Address, Entry
from service.errors import BodyTooLarge

MOST_BYTES = 2**28  # of an image file: every thread holds several
# Objects that a thread has under way: a store takes tens of milliseconds, for many at once.
READ_AHEAD = 16
PARTS_AHEAD = 4  # the same of parts of a table, which may be large
READERS = 64  # threads that wait for a store

Place = Path | Address


class File(NamedTuple):
    """An image file: the `path` of its row, and a function that reads its bytes.

    The function raises OSError if the file cannot be read, BodyTooLarge if it is too long, and
    BulkError if its store does not answer.
    """

    path: str
    read: Callable[[], bytes]


def place_of(text: str | Path) -> Place:
    """The place that `text` names.

    Raises:
        BulkError: an address has another scheme, names no folder, or its store cannot be reached.
    """
    return Address.parse(str(text)) if "://" in str(text) else Path(text)


def identity(place: Place) -> str:
    """The name of a place, wherever a run was started."""
    return str(place.resolve() if isinstance(place, Path) else place)


def entries(folder: Place) -> list[Entry]:
    """What lies in a folder, sorted by name. A link to a folder is neither folder nor file."""
    if isinstance(folder, Address):
        return sorted(folder.entries())
    with os.scandir(folder) as found:
        return sorted(
            Entry(one.name, one.is_dir(follow_symlinks=False), _is_file(one)) for one in found
        )


def names(folder: Place) -> set[str]:
    """The names of what lies in a folder; none if it is missing."""
    with suppress(FileNotFoundError):
        return {entry.name for entry in entries(folder)}
    return set()


def images(folder: Place, paths: Sequence[str]) -> Iterator[File]:
    """The image files `paths` below `folder`; a store sends some of them ahead."""
    if isinstance(folder, Path):
        # A Path takes as long to make as a small file to open.
        for path in paths:
            yield File(_printable(path), partial(_content, f"{folder}/{path}"))
        return
    for path, content in zip(paths, _ahead(folder, paths, READ_AHEAD, MOST_BYTES + 1), strict=True):
        yield File(path, content.result)


def contents(folder: Place, paths: Sequence[str]) -> Iterator[bytes]:
    """The bytes of files below `folder`, one after the other.

    Raises:
        OSError: one cannot be read.
        BulkError: the store does not answer.
    """
    if isinstance(folder, Path):
        yield from ((folder / path).read_bytes() for path in paths)
    else:
        yield from (content.result() for content in _ahead(folder, paths, PARTS_AHEAD))


def source(place: Place) -> Any:
    """What pyarrow reads a file from, at any offset."""
    return place if isinstance(place, Path) else place.source()


def write(place: Place, content: bytes) -> None:
    """Writes a file, and the folders above it."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return
    with place.replacing() as stream:
        stream.write(content)


@contextmanager
def replacing(place: Place) -> Iterator[IO[bytes]]:
    """A file that gets its name when it is complete, and on the disk, and not before."""
    if isinstance(place, Address):
        with place.replacing() as stream:
            yield stream
        return
    new = place.with_name(f".{place.name}.{uuid4().hex[:8]}")
    try:
        with new.open("wb") as file:
            yield file
            # On the disk before it gets its name: after a crash, a file with the name is whole.
            file.flush()
            os.fsync(file.fileno())
        new.replace(place)
    finally:
        new.unlink(missing_ok=True)


def remove(place: Place) -> None:
    """Removes a file, if it is there."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    else:
        place.remove()


def remove_folder(folder: Place) -> None:
    """Removes a folder and all in it."""
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.remove_folder()


def check_length(length: int) -> None:
    """Checks the number of bytes of an image file.

    Raises:
        BodyTooLarge: there are more than MOST_BYTES.
    """
    if length > MOST_BYTES:
        raise BodyTooLarge(
            f"the file has more than {MOST_BYTES:,} bytes, the limit: make the image smaller"
        )


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        check_length(os.fstat(file.fileno()).st_size)
        return file.readall()


def _ahead(
    folder: Address, paths: Sequence[str], ahead: int, most_bytes: int | None = None
) -> Iterator[Future[bytes]]:
    """The bytes of objects, in order, at most `ahead` of which are under way."""
    coming = deque[Future[bytes]]()
    for path in paths:
        coming.append(_readers().submit((folder / path).read, most_bytes))
        if len(coming) == ahead:
            yield coming.popleft()
    yield from coming


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="store")


def _printable(name: str) -> str:
    """A file's name as UTF-8 text; bytes that are none are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """True for a file, and for a broken link: its row has the error."""
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:  # a link to itself
        return True
