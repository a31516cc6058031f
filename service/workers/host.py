"""What the processes of the service have and take of the machine: cores, memory, its limit, processor time. As Linux tells it; elsewhere it
is unknown.

A limit is the smallest that a control group of this process has, of either version, or what the machine has where none has one.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 writes a number near 2**63 where there is no limit
USER_TICKS, SYSTEM_TICKS = 11, 12  # of /proc/PID/stat, counted after the name
MOST_WORKERS = 64  # of one service
Limit = TypeVar("Limit", int, float)


def cores(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """How many cores this process may use: those that the cpuset of its container, or `taskset`, leaves it, and no more than the time
    that a quota of its container gives it, a part of a core counted whole (`docker run --cpus`, a limit of Kubernetes).
    """
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError):
        quotas = _limits(proc, groups, {"": _quota, "cpu": _quota_of_version_1})
        return min([may, *(math.ceil(quota) for quota in quotas)])
    return may


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes have in use, pages that they share counted for each."""
    return sum(int(text.split()[1]) for text in _told(pids, "statm")) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that these processes have had."""
    fields = (text.rpartition(")")[2].split() for text in _told(pids, "stat"))
    return sum(int(of[USER_TICKS]) + int(of[SYSTEM_TICKS]) for of in fields) / os.sysconf(
        "SC_CLK_TCK"
    )


def memory_limit_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """The most that this process and those beside it in its control group may use."""
    with suppress(OSError):
        limits = _limits(proc, groups, {"": _memory, "memory": _memory_of_version_1})
        return min([*limits, _machine_bytes(proc)])
    return None


def _told(pids: Iterable[int], file: str) -> Iterator[str]:
    for pid in pids:
        with suppress(OSError):  # it has ended
            yield (PROC / str(pid) / file).read_text()


def _limits(
    proc: Path, groups: Path, readers: Mapping[str, Callable[[Path], Limit]]
) -> Iterator[Limit]:
    """What the `readers` find in the groups of this process and in all above them, by controller; version 2 has one tree, of no name."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in set(controllers.split(",")) & readers.keys():
            root: Path = groups / name
            group: Path = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    with suppress(OSError, ValueError):  # not there, or no limit
                        yield readers[name](folder)


def _memory(folder: Path) -> int:
    return int((folder / "memory.max").read_text())


def _memory_of_version_1(folder: Path) -> int:
    limit = int((folder / "memory.limit_in_bytes").read_text())
    if limit >= UNLIMITED:
        raise ValueError(limit)
    return limit


def _quota(folder: Path) -> float:
    """Cores' worth of time: microseconds in a period."""
    most, period = (folder / "cpu.max").read_text().split()
    return int(most) / int(period)


def _quota_of_version_1(folder: Path) -> float:
    most, period = (
        int((folder / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    if most <= 0:  # -1 says that there is none
        raise ValueError(most)
    return most / period


def _machine_bytes(proc: Path) -> int:
    line = next(
        line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    return int(line.split()[1]) * 1024
