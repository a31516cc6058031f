"""Exemplars: the trace of the latest request in each bucket of candor_request_duration_seconds.

prometheus_client keeps none where several processes count (its multiprocess mode), so each worker
has a table of fixed size in a file of its own, beside the metrics files: a slot a bucket that a
traced request has fallen into, with the ids of its trace, its seconds and the time. A scrape takes
the newest of each bucket from all files, those of ended workers included. A slot carries a
checksum: one that is half written is left out. Without a folder, in a lone process, none are kept.
"""

import mmap
import os
import struct
import time
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from service.telemetry.account import Trace

SUFFIX = ".exemplars"
MOST = 512  # slots of a worker; later buckets get none
KEY_BYTES = 400  # of the text before a bucket's value; a longer one gets none
PAYLOAD = struct.Struct("<16s8sdd")  # the trace, the span, seconds, seconds since 1970
SLOT = struct.Struct(f"<IH{KEY_BYTES}s{PAYLOAD.size}s")  # CRC-32, the bytes of the key, both


class Exemplar(NamedTuple):
    """A request: its trace in hex, the seconds it took, and when it ended (seconds since 1970)."""

    trace_id: str
    span_id: str
    seconds: float
    at: float

    def text(self) -> str:
        """What OpenMetrics has behind the value of a bucket."""
        labels = f'trace_id="{self.trace_id}",span_id="{self.span_id}"'
        return f" # {{{labels}}} {self.seconds:.9g} {self.at:.3f}"


class Exemplars:
    """The exemplars of one histogram, of all workers that keep theirs in `folder`.

    `line` gives the text before a bucket's value, of the labels of its histogram and its bound.
    """

    def __init__(
        self,
        folder: Path | None,
        bounds: Sequence[float],
        line: Callable[[tuple[tuple[str, str], ...], float], str],
    ) -> None:
        """Makes the table of this process; `bounds` are those of the buckets, ascending."""
        self._folder = folder
        self._bounds = (*bounds, float("inf"))
        self._slots: dict[str, tuple[int, bytes]] = {}
        self._key = cache(lambda labels, bound: line(labels, self._bounds[bound]))
        if folder is not None:
            with (folder / f"{os.getpid()}{SUFFIX}").open("a+b") as file:
                file.truncate(MOST * SLOT.size)
                self._own = mmap.mmap(file.fileno(), MOST * SLOT.size)

    def note(self, labels: tuple[tuple[str, str], ...], seconds: float, trace: Trace) -> None:
        """Notes a traced request of the histogram with these `labels`."""
        if self._folder is None:
            return
        slot = self._slot_of(self._key(labels, bisect_left(self._bounds, seconds)))
        if slot is not None:
            offset, key = slot
            ids = bytes.fromhex(trace.trace_id), bytes.fromhex(trace.span_id)
            payload = PAYLOAD.pack(*ids, seconds, time.time())
            SLOT.pack_into(self._own, offset, zlib.crc32(key + payload), len(key), key, payload)

    def latest(self) -> dict[str, str]:
        """The text of the newest exemplar of each bucket, by the text before its value."""
        newest: dict[str, Exemplar] = {}
        for key, found in self._read():
            if key not in newest or newest[key].at < found.at:
                newest[key] = found
        return {key: exemplar.text() for key, exemplar in newest.items()}

    def _slot_of(self, key: str) -> tuple[int, bytes] | None:
        """The offset of the slot of a bucket, and its key as bytes; None if there is no room."""
        if key not in self._slots:
            written = key.encode()
            if len(self._slots) == MOST or len(written) > KEY_BYTES:
                return None
            self._slots[key] = (len(self._slots) * SLOT.size, written)
        return self._slots[key]

    def _read(self) -> Iterator[tuple[str, Exemplar]]:
        paths = [] if self._folder is None else self._folder.glob(f"*{SUFFIX}")
        for path in paths:
            table = path.read_bytes()
            for crc, length, key, payload in SLOT.iter_unpack(
                table[: len(table) // SLOT.size * SLOT.size]
            ):
                if not length:
                    break
                if crc == zlib.crc32(key[:length] + payload):
                    trace, span, seconds, at = PAYLOAD.unpack(payload)
                    yield key[:length].decode(), Exemplar(trace.hex(), span.hex(), seconds, at)
