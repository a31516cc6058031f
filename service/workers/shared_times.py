"""Times by name that the workers of one service share: a table of fixed size in a file.

Each row has the digest of a name and COLUMNS times, in seconds of `time.perf_counter`, one clock
for all processes of a Linux machine. A name without a row has times long past.
If all rows near the place of a new name are taken, the one with the earliest times is forgotten.
"""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COLUMNS = 2
ROW = struct.Struct(f"<8s{COLUMNS}d")
ROWS = 4_096
NEAR = 8  # rows in which a name may lie


class SharedTimes:
    """The table in the file `path`; a lone worker needs no file."""

    def __init__(self, path: Path | None = None) -> None:
        # The process keeps the file open to its end.
        self._file = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if self._file is not None:
            os.truncate(self._file, ROWS * ROW.size)
        self._table = mmap.mmap(-1 if self._file is None else self._file, ROWS * ROW.size)

    def advance(self, name: str, column: int, seconds: float, now: float, latest: float) -> float:
        """Moves a time on by `seconds`, from `now` if it has passed, unless it is beyond `latest`.

        Returns the time as it was.
        """
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        with self._locked():
            offset, times = self._find(digest)
            before = times[column]
            if before <= latest and seconds:
                times[column] = max(before, now) + seconds
                ROW.pack_into(self._table, offset, digest, *times)
        return before

    def _find(self, digest: bytes) -> tuple[int, list[float]]:
        """The offset of the row for `digest`, and its times."""
        first = int.from_bytes(digest, "little")
        candidates = []
        for number in range(first, first + NEAR):
            offset = number % ROWS * ROW.size
            known, *times = ROW.unpack_from(self._table, offset)
            if known == digest:
                return offset, times
            candidates.append((max(times), offset))
        return min(candidates)[1], [0.0] * COLUMNS

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps the other workers out for a few microseconds; the system ends a dead one's lock."""
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
