"""A worker's heaps give large allocations back."""

import subprocess
import sys

FREED = """
import numpy as np
from service.workers import host, memory
memory.limit_heaps()
freed, kept = [], []
for megabytes in (30, 20, 25, 22, 27):
    large = np.ones(megabytes << 17)
    kept.append(np.ones(60_000))  # behind it, if both are in a heap
    before = host.resident_bytes([host.os.getpid()])
    del large
    freed.append(before - host.resident_bytes([host.os.getpid()]) >= (megabytes << 20) - 2**20)
assert all(freed), freed
"""


def test_a_large_allocation_leaves_no_hole_in_a_heap():
    subprocess.run([sys.executable, "-c", FREED], check=True)
