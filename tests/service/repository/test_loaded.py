"""A version that leaves takes everything with it."""

import asyncio
import ctypes
import gc
import threading
import weakref

import pytest

from service.api.models.opening import Opener
from service.repository.agreement import Agreement
from service.repository.catalogue import Catalogue
from service.repository.shelf import Shelf
from service.runtime import weights
from service.schedule.resources import Resources
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers import memory
from support.servers import eventually
from support.versions import make_version

SWAPS = 2  # after the first one
KIBIBYTES = 200  # that a swap may leave: counts of the version, 60 were measured


class Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated():
    """The KiB that are allocated, from glibc and in mappings of their own."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library does not tell what is allocated")
    libc.mallinfo2.restype = Heap
    gc.collect()
    memory.trim()
    heap = libc.mallinfo2()
    return (heap.uordblks + heap.hblkhd) / 2**10


def running():
    """The threads that a version starts: its lanes, and those that share rows of a batch."""
    return [t for t in threading.enumerate() if t.name.startswith(("lane", "rows"))]


def references(answers):
    """Weak references to the parts of what answers."""
    parts = answers.pipeline, answers.pipeline.engine, answers.inference, answers.calls
    return [weakref.ref(part) for part in parts]


@pytest.fixture
def shelf(tmp_path):
    """Versions of one model, each of another digest, and the first one in memory."""
    for number in range(SWAPS + 2):
        make_version(tmp_path / "cats" / str(number), temperature=1.0 + number)
    settings, metrics = Settings(device="cpu"), Metrics()
    catalogue = Catalogue("cats", {"cats": tmp_path / "cats"})
    opener = Opener(settings, metrics, Resources(settings, metrics), "cats")
    return Shelf(catalogue, Agreement(None, 0, 1), opener, opener.prove, 2**30, metrics.loads)


def test_a_version_that_has_left_leaves_nothing(shelf):
    async def swap(version):
        """Serves `version`, and waits until nothing of the one before is held or runs."""
        # A pool starts its threads when they are needed, so their number alone says nothing.
        gone = references(shelf.default.answers)
        threads = set(running()) - others
        new = shelf.load(version)
        leaving = shelf.let_go(shelf.default, "replaced")
        shelf.default = shelf.put(new)
        await leaving
        # The thread that freed it may have the last reference for a moment.
        await eventually(lambda: not any(part() for part in gone))
        await eventually(lambda: not any(thread.is_alive() for thread in threads))

    others = set(running())  # of tests before this one: nothing lets their lanes go
    shelf.start()
    _, first, *further = shelf.catalogue.versions("cats")  # the greatest number is served
    asyncio.run(swap(first))
    blocks, before = weights.blocks(), allocated()
    for version in further:
        asyncio.run(swap(version))
        assert weights.blocks() <= blocks
    left = (allocated() - before) / len(further)
    assert left <= KIBIBYTES, f"{left:.0f} KiB a swap"
