"""The numbers of prometheus_client's multi-process mode, written with less ado: a request changes two dozen of them.

A number is eight bytes in a file of its process. prometheus_client asks before every change for the number of the process, in case it has
been forked, and looks for the place of the number; our processes do not fork once they count, and the place does not change.
"""

import struct
from threading import Lock
from typing import Any

from prometheus_client import values

_lock = Lock()
_write = struct.Struct("=d").pack_into
_Kept: Any = values.MultiProcessValue()  # type: ignore[no-untyped-call]


class Value(_Kept):  # type: ignore[misc] # made by a function that has no types
    """One number; what it takes to make and to read it is prometheus_client's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place: int = self._file._positions[self._key]  # noqa: SLF001 - as much ours as the format of the file

    def inc(self, amount: float) -> None:
        """Adds `amount`."""
        with _lock:
            self._value += amount
            _write(self._file._m, self._place, self._value)  # noqa: SLF001 - the same

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Becomes `value`; the timestamp is for modes that we do not use."""
        assert timestamp is None
        with _lock:
            self._value = value
            _write(self._file._m, self._place, value)  # noqa: SLF001 - the same


def use() -> None:
    """Lets metrics that are made from now on keep their numbers so."""
    values.ValueClass = Value
