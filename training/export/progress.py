"""The steps of a long work, said with the seconds since its start."""

import time
from collections.abc import Callable

from service.workers import memory

Say = Callable[[str], object]


class Progress:
    """Says each step at its beginning, as "  12.3 s  proves gradient.onnx"."""

    def __init__(self, say: Say) -> None:
        """Starts the clock; `say` gets each line."""
        self._say, self._started = say, time.perf_counter()

    def __call__(self, step: str) -> None:
        """Says `step`, which begins now, and returns to the system what the last one freed."""
        memory.trim()
        self._say(f"{time.perf_counter() - self._started:6.1f} s  {step}")
