"""Memory that callers can make grow, as budgets of bytes: one for images that are decoded, one for
bodies that are read.

A process charges a `Budget` before it takes the memory, and gives the bytes back by the `Lease`.
What can never fit is an error of the caller (413). What does not fit now waits for its turn, or is
rejected (429). Small holders, of at most a sixteenth of the budget, pass larger ones that wait, and
larger ones leave a quarter of the budget to them: so no large image delays a small one.

Costs are peaks of resident memory, measured with Pillow 12 and libjpeg-turbo 3 on images of 25
million pixels.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from prometheus_client import Counter, Gauge

from service.errors import TooManyRequests
from service.workers import host, memory

IMAGES, BODIES = "images", "bodies"
TOO_LARGE, FULL, LATE = "too_large", "full", "deadline"  # reasons of rejections
# Bytes a pixel while an image is decoded and fitted to the network. Pixels take 3, their copy in
# Pillow 4; libjpeg keeps the coefficients of an image in several scans, 2 each; libwebp two
# canvases of 4, and Pillow two more; libavif planes of up to 16 bits and a canvas; libtiff a tile.
PLAIN_BYTES, SCANS_BYTES, CMYK_SCANS_BYTES = 7.5, 10.5, 12.5
BYTES_A_PIXEL = {
    "PNG": PLAIN_BYTES,
    "WEBP": 16.5,
    "AVIF": 16.5,
    "GIF": PLAIN_BYTES,
    "BMP": PLAIN_BYTES,
    "TIFF": 12.5,
}
MASK_BYTES = 9
OVERLAY_BYTES = 15  # a pixel of an overlay, from its ground to its PNG file
LEGEND_BYTES = 2_600  # a pixel of an overlay's width
# What an overlay takes in an answer: as a file, as base64, and as base64 in the document.
ANSWER_COPIES = 4
MAX_SIDE = 16_384  # pixels; on longer sides the steps of a resize take more than the image
MAX_PIXELS = 50_000_000  # in an image, where memory allows
MOST_WAITING = 128  # two of the largest requests

LARGEST, SMALL = 3 / 4, 1 / 16  # shares of a budget
IMAGES_SHARE, BODIES_SHARE = 0.4, 0.15  # of the memory that is left once the model is loaded
SUPERVISOR_BYTES = 2**27
LEAST_BYTES = 2**25  # of a budget
ASSUMED_BYTES = 2**32  # of a system that names no limit


class BudgetMetrics(NamedTuple):
    """The metrics of one budget; `rejected` by reason."""

    used: Gauge
    limit: Gauge
    rejected: Mapping[str, Counter]


class Lease:
    """Bytes of a budget, held until `release`, or until the end of a `with` block."""

    def __init__(self, budget: "Budget", held_bytes: int) -> None:
        self._budget = budget
        self.held_bytes = held_bytes

    def grow(self, more_bytes: int) -> None:
        """Takes `more_bytes`.

        Raises:
            TooManyRequests: they do not fit now.
        """
        self._budget.grow(self, more_bytes)

    def release(self) -> None:
        """Gives all bytes back; a second call does nothing."""
        if self.held_bytes:
            self._budget.shrink(self)

    def __enter__(self) -> "Lease":  # noqa: PYI034 - beartype takes no Self of an undecorated class
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Waiter(NamedTuple):
    """A lease that is wanted; `wake` is called once it is held."""

    lease: Lease
    want_bytes: int
    wake: Callable[[], object]


class Budget:
    """At most `limit_bytes` at once, of which one holder has at most `largest_bytes`; one of more
    than `small_bytes` is large.

    Safe for coroutines and threads.
    """

    def __init__(self, name: str, limit_bytes: int, metrics: BudgetMetrics | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.largest_bytes = int(limit_bytes * LARGEST)
        self._name, self._metrics = name, metrics
        self.small_bytes = int(limit_bytes * SMALL)
        self._used = self._used_by_large = 0
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        if metrics is not None:
            metrics.limit.set(limit_bytes)

    @property
    def used_bytes(self) -> int:
        """The bytes that are held."""
        return self._used

    def take(self, want_bytes: int = 0) -> Lease:
        """A lease of `want_bytes`, at once.

        Raises:
            TooManyRequests: they do not fit now.
        """
        lease = Lease(self, 0)
        self.grow(lease, want_bytes)
        return lease

    async def hold(self, want_bytes: int, deadline: float) -> Lease:
        """A lease of `want_bytes` when its turn comes, by `deadline` (`time.perf_counter`).

        Raises:
            TooManyRequests: too many wait, or the deadline passed.
        """
        loop, turn = asyncio.get_running_loop(), asyncio.Event()
        waiter = _Waiter(Lease(self, 0), want_bytes, lambda: loop.call_soon_threadsafe(turn.set))
        if not self._enter(waiter, MOST_WAITING):
            try:
                async with asyncio.timeout(deadline - time.perf_counter()):
                    await turn.wait()
            except TimeoutError:
                self._leave(waiter)
                raise self.rejection(LATE) from None
            except asyncio.CancelledError:
                self._leave(waiter)
                raise
        return waiter.lease

    def wait(self, want_bytes: int) -> Lease:
        """A lease of `want_bytes`, for which the thread waits."""
        turn = threading.Event()
        waiter = _Waiter(Lease(self, 0), want_bytes, turn.set)
        if not self._enter(waiter):
            turn.wait()
        return waiter.lease

    def grow(self, lease: Lease, more_bytes: int) -> None:
        """Adds `more_bytes` to `lease`.

        Raises:
            TooManyRequests: they do not fit now.
        """
        with self._lock:
            if fits := self._fits(lease.held_bytes, more_bytes):
                self._set(lease, lease.held_bytes + more_bytes)
        if not fits:
            raise self.rejection(FULL)

    def shrink(self, lease: Lease) -> None:
        """Takes all bytes from `lease`, and wakes those that wait for them."""
        with self._lock:
            self._set(lease, 0)
            self._wake()

    def rejection(self, reason: str) -> TooManyRequests:
        """A counted 429."""
        self.count(reason)
        return TooManyRequests(
            f"{self._used / 1e6:,.4g} MB of memory for {self._name} are in use; the limit is "
            f"{self.limit_bytes / 1e6:,.4g} MB: retry later",
            reason=f"memory_{reason}",
        )

    def count(self, reason: str) -> None:
        """Counts a rejection."""
        if self._metrics is not None:
            self._metrics.rejected[reason].inc()

    def _enter(self, waiter: _Waiter, most_waiting: int | None = None) -> bool:
        """True if `waiter` has its lease; else it waits.

        Raises:
            TooManyRequests: `most_waiting` wait.
        """
        assert waiter.want_bytes <= self.largest_bytes, "it would wait for ever"
        with self._lock:
            first = not self._waiting or waiter.want_bytes <= self.small_bytes
            if first and self._fits(0, waiter.want_bytes):
                self._set(waiter.lease, waiter.want_bytes)
                return True
            if most_waiting is None or len(self._waiting) < most_waiting:
                self._waiting.append(waiter)
                return False
        raise self.rejection(FULL)

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._wake()
                return
        waiter.lease.release()  # its turn came together with the end of its wait

    def _wake(self) -> None:
        """Gives leases in the order of arrival; small ones pass a large one that does not fit."""
        kept: deque[_Waiter] = deque()
        for waiter in self._waiting:
            first = not kept or waiter.want_bytes <= self.small_bytes
            if first and self._fits(0, waiter.want_bytes):
                self._set(waiter.lease, waiter.want_bytes)
                waiter.wake()
            else:
                kept.append(waiter)
        self._waiting = kept

    def _fits(self, held_bytes: int, more_bytes: int) -> bool:
        large = self._large(held_bytes + more_bytes) - self._large(held_bytes)
        return (
            self._used + more_bytes <= self.limit_bytes
            and self._used_by_large + large <= self.largest_bytes
        )

    def _set(self, lease: Lease, held_bytes: int) -> None:
        self._used += held_bytes - lease.held_bytes
        self._used_by_large += self._large(held_bytes) - self._large(lease.held_bytes)
        lease.held_bytes = held_bytes
        if self._metrics is not None:
            self._metrics.used.set(self._used)

    def _large(self, held_bytes: int) -> int:
        return held_bytes if held_bytes > self.small_bytes else 0


class Budgets(NamedTuple):
    """The budgets of a process."""

    images: Budget
    bodies: Budget


def left_bytes(workers: int) -> int:
    """The memory that the models of `workers` processes leave to each, by the size of this one."""
    limit = host.memory_limit_bytes() or ASSUMED_BYTES
    memory.trim()  # what loading needed is free
    loaded = host.resident_bytes([os.getpid()])
    return max(0, (limit - SUPERVISOR_BYTES) // workers - loaded)


def images_bytes(given_bytes: int, workers: int) -> int:
    """The budget of decoded images: `given_bytes`, or if it is 0 a share of the memory left."""
    return given_bytes or max(LEAST_BYTES, int(IMAGES_SHARE * left_bytes(workers)))


def bodies_bytes(given_bytes: int, max_body_bytes: int, workers: int) -> int:
    """The budget of bodies, by the same rule; it has a place for one of the largest."""
    derived = max(LEAST_BYTES, int(BODIES_SHARE * left_bytes(workers)))
    return max(given_bytes or derived, int(max_body_bytes / LARGEST) + 1)


def most_pixels(given: int, budget: Budget) -> int:
    """The largest image: `given`, or if it is 0 the largest that fits the `budget` at all."""
    return given or min(MAX_PIXELS, int(budget.largest_bytes / PLAIN_BYTES))


def image_bytes(
    width: int, height: int, bytes_a_pixel: float, *, input_width: int, drawn_pixels: int = 0
) -> int:
    """The peak of decoding an image and fitting it to a network's input.

    `drawn_pixels`: the most that an overlay has; 0 if none is drawn.
    """
    pixels, longer = width * height, max(width, height)
    # A resize holds rows that have their new width and their old height.
    fitted = 4 * input_width * longer
    ground = 4 * (min(pixels, drawn_pixels) * pixels) ** 0.5
    return int(pixels * bytes_a_pixel + max(fitted, ground)) + 3 * min(pixels, drawn_pixels)


def overlay_bytes(width: int, height: int, drawn_pixels: int) -> int:
    """The peak of drawing an overlay of at most `drawn_pixels`, with a legend."""
    return OVERLAY_BYTES * min(width * height, drawn_pixels) + LEGEND_BYTES * max(width, height)
