"""What the processes of the service have and take of the machine: cores, memory, its limit, processor time. As Linux tells it; elsewhere it
is unknown.

The limit is the smallest that a control group of this process has, of either version, or the machine's memory where none has one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 writes a number near 2**63 where there is no limit
USER_TICKS, SYSTEM_TICKS = 11, 12  # of /proc/PID/stat, counted after the name


def cores() -> int:
    """How many cores this process may run on: those that the cpuset of its container, or `taskset`, leaves it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes have in use, pages that they share counted for each."""
    return sum(int(text.split()[1]) for text in _told(pids, "statm")) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that these processes have had."""
    fields = (text.rpartition(")")[2].split() for text in _told(pids, "stat"))
    return sum(int(of[USER_TICKS]) + int(of[SYSTEM_TICKS]) for of in fields) / os.sysconf("SC_CLK_TCK")


def memory_limit_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """The most that this process and those beside it in its control group may use."""
    with suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text().splitlines()
        limits = [limit for line in lines for limit in _limits(line, groups)]
        return min([*limits, _machine_bytes(proc)])
    return None


def _told(pids: Iterable[int], file: str) -> Iterator[str]:
    for pid in pids:
        with suppress(OSError):  # it has ended
            yield (PROC / str(pid) / file).read_text()


def _limits(line: str, groups: Path) -> Iterator[int]:
    """The limits of the group in a line of /proc/self/cgroup, and of all above it."""
    _, controllers, path = line.split(":", 2)
    roots = {"": (groups, "memory.max"), "memory": (groups / "memory", "memory.limit_in_bytes")}
    if controllers not in roots:
        return
    root, file = roots[controllers]
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            with suppress(OSError, ValueError):  # not there, or "max"
                limit = int((folder / file).read_text())
                if limit < UNLIMITED:
                    yield limit


def _machine_bytes(proc: Path) -> int:
    line = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) * 1024
