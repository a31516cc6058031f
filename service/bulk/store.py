"""Folders and objects of an object store, by pyarrow, which reads and writes the tables anyway.

pyarrow finds keys, region and endpoint as every tool of the store does: `AWS_ACCESS_KEY_ID`,
`AWS_REGION`, `AWS_ENDPOINT_URL`, a role of the pod.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple
from uuid import uuid4

from pyarrow import fs

from service.bundle.source import shown
from service.errors import BulkError

SCHEMES = ("s3", "gs")
MOST_BYTES = 5 * 2**30  # of an object that S3 copies at once, which renaming is
# What a store says of one object that may not be read; every other fault is one of the store.
DENIED = ("ACCESS_DENIED", "PERMISSION_DENIED", "HTTP 403")


class Entry(NamedTuple):
    """Something in a folder; neither file nor folder is, for example, a pipe."""

    name: str
    is_folder: bool
    is_file: bool


class Address:
    """A folder or an object, with the part of `Path` that a run needs."""

    def __init__(self, files: Any, path: str, scheme: str) -> None:
        """`files`: a file system of pyarrow. `path`: bucket and key, without the scheme."""
        self._files, self._path, self._scheme = files, path.strip("/"), scheme

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads an address, for example s3://bucket/pictures.

        Raises:
            BulkError: it has another scheme, names no folder, or its store cannot be reached.
        """
        scheme, plain = text.partition("://")[0], shown(text)
        if scheme not in SCHEMES:
            schemes = " or ".join(f"{known}://" for known in SCHEMES)
            raise BulkError(
                f"{plain} begins with {scheme}://; images and tables are at a path or at "
                f"{schemes}: name one of these"
            )
        with _sentences(plain):
            files, path = fs.FileSystem.from_uri(text)
        if "/" not in path.strip("/"):
            raise BulkError(f"{plain} names a bucket alone: name a folder in it, {plain}/pictures")
        return cls(files, path, scheme)

    def __str__(self) -> str:
        return f"{self._scheme}://{self._path}"

    def __truediv__(self, name: str) -> "Address":
        return Address(self._files, f"{self._path}/{name}", self._scheme)

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.rpartition("/")[2]

    def with_name(self, name: str) -> "Address":
        """The address beside this one."""
        return Address(self._files, f"{self._path.rpartition('/')[0]}/{name}", self._scheme)

    def exists(self) -> bool:
        """True of an object, and of a folder that holds some."""
        with _sentences(self):
            return bool(self._files.get_file_info(self._path).type != fs.FileType.NotFound)

    def entries(self) -> list[Entry]:
        """What lies in this folder, in no order; nothing in one that is missing."""
        selector = fs.FileSelector(self._path, allow_not_found=True)
        with _sentences(self):
            found = self._files.get_file_info(selector)
        kinds = fs.FileType
        return [
            Entry(one.base_name, one.type == kinds.Directory, one.type == kinds.File)
            for one in found
        ]

    def read(self, most_bytes: int | None = None) -> bytes:
        """The object, or its first `most_bytes`.

        Raises:
            OSError: it is missing, or may not be read.
            BulkError: the store does not answer.
        """
        try:
            with self._files.open_input_file(self._path) as file:
                return bytes(file.read(most_bytes))
        except FileNotFoundError:
            raise
        except OSError as error:
            if any(word in str(error) for word in DENIED):
                raise
            raise _silent(self, error) from None

    def source(self) -> Any:
        """A file of pyarrow, which reads the object at any offset."""
        with _sentences(self):
            return self._files.open_input_file(self._path)

    @contextmanager
    def replacing(self) -> Iterator[IO[bytes]]:
        """A stream to an object that gets this name when it is complete, and not before.

        Raises:
            BulkError: the store does not answer, or the object has more than MOST_BYTES.
        """
        # pyarrow completes an upload that is given up, and so under a name of its own.
        new = self.with_name(f".{self.name}.{uuid4().hex[:8]}")
        try:
            with _sentences(self), new.sink() as stream:
                yield stream
                length = stream.tell()
            new.rename(self, length)
        except BaseException:
            new.remove()
            raise

    def sink(self) -> Any:
        """A stream of pyarrow to the object."""
        return self._files.open_output_stream(self._path)

    def rename(self, to: "Address", length: int) -> None:
        """Gives the object, of `length` bytes, the name `to`.

        Raises:
            BulkError: it has more than MOST_BYTES, or the store does not answer.
        """
        if length > MOST_BYTES:
            raise BulkError(
                f"{to} has {length:,} bytes; a store renames {MOST_BYTES:,} at most: "
                "make more tables, with --shard"
            )
        with _sentences(to):
            self._files.move(self._path, str(to).partition("://")[2])

    def remove(self) -> None:
        """Removes the object, if it is there."""
        with _sentences(self), suppress(FileNotFoundError):
            self._files.delete_file(self._path)

    def remove_folder(self) -> None:
        """Removes the folder and all in it, if it is there."""
        with _sentences(self), suppress(FileNotFoundError):
            self._files.delete_dir(self._path)


@contextmanager
def _sentences(place: object) -> Iterator[None]:
    """Turns what pyarrow raises into a sentence; a missing file stays an error of its own."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise _silent(place, error) from None


def _silent(place: object, error: Exception) -> BulkError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return BulkError(
        f"{place} cannot be used ({reason[0]}): check the address, the keys and the network; what "
        "is done is kept, and the same command continues"
    )
