"""Memory of a worker: what loading took goes back to the system, and so does what a large image
took, once it is freed.

glibc alone has the functions; elsewhere nothing is done (docs/benchmarks.md, memory).
"""

import asyncio
import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
ARENAS = 2
LARGE_BYTES = 2**22  # an allocation from here on is a mapping of its own
KEPT_BYTES = 2**24  # free at the end of a heap
TRIM_SECONDS = 30.0


def limit_heaps() -> None:
    """Lets all threads share two heaps, and keeps large allocations out of them.

    glibc would give each thread a heap that never shrinks, and after the first large allocation
    that is freed it would take the next from a heap, too. Small ones then settle in the hole that
    it leaves, the one after finds no place, and the heap grows: after large images of several kinds
    a worker had 800 MB of holes, and its control group of 1 GiB killed it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def settle() -> None:
    """Frees what loading needed (40 MB), and hides what it loaded from the garbage collector.

    A collection that walks over all of it was the p99 of a request: 167 ms, 8 ms without.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)
    trim()


def trim() -> None:
    """Returns free memory within glibc's heaps to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


async def keep_trimming() -> None:
    """Trims every TRIM_SECONDS, for ever."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(trim)
