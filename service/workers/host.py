"""Cores, memory and processor time of the workers, as Linux gives them; elsewhere they are unknown.

A limit is the smallest that a control group of this process has, of either version, or else what
the machine has.
"""

import math
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 writes a number near 2**63 where there is no limit
USER_TICKS, SYSTEM_TICKS = 11, 12  # fields of /proc/PID/stat, from the one after the name
MOST_WORKERS = 64  # of one service
Limit = TypeVar("Limit", int, float)


def cores(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """The number of cores that this process may use.

    Those of its container's cpuset or of `taskset`, and no more than a quota of processor time is
    worth, a part of a core counted whole (`docker run --cpus`, a limit of Kubernetes).
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with suppress(OSError):
        quotas = _limits(proc, groups, {"": _quota, "cpu": _quota_of_version_1})
        return min([allowed, *(math.ceil(quota) for quota in quotas)])
    return allowed


def raise_file_limit() -> int:
    """Raises the number of files that this process may have open to the most that it may choose.

    The usual limit is 1,024, which 1,024 idle connections exhaust.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS names no limit, and refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that these processes have in use; pages that they share count for each."""
    return sum(int(text.split()[1]) for text in _read(pids, "statm")) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time that these processes have used."""
    rows = (text.rpartition(")")[2].split() for text in _read(pids, "stat"))
    ticks = sum(int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS]) for fields in rows)
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_limit_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """The memory that this process and those beside it in its control group may use together."""
    with suppress(OSError):
        limits = _limits(proc, groups, {"": _memory, "memory": _memory_of_version_1})
        return min([*limits, _machine_bytes(proc)])
    return None


def _read(pids: Iterable[int], file: str) -> Iterator[str]:
    for pid in pids:
        with suppress(OSError):  # it has ended
            yield (PROC / str(pid) / file).read_text()


def _limits(
    proc: Path, groups: Path, readers: Mapping[str, Callable[[Path], Limit]]
) -> Iterator[Limit]:
    """The limits that `readers`, by controller, find in the groups of this process and in all
    above them.
    """
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)  # version 2 has one tree, of no name
        for name in set(controllers.split(",")) & readers.keys():
            root: Path = groups / name
            group: Path = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    with suppress(OSError, ValueError):  # the file is missing, or sets no limit
                        yield readers[name](folder)


def _memory(folder: Path) -> int:
    return int((folder / "memory.max").read_text())


def _memory_of_version_1(folder: Path) -> int:
    limit = int((folder / "memory.limit_in_bytes").read_text())
    if limit >= UNLIMITED:
        raise ValueError(limit)
    return limit


def _quota(folder: Path) -> float:
    """The cores that a quota of version 2 is worth: microseconds in a period."""
    most, period = (folder / "cpu.max").read_text().split()
    return int(most) / int(period)


def _quota_of_version_1(folder: Path) -> float:
    most, period = (
        int((folder / name).read_text()) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    if most <= 0:  # -1 stands for no quota
        raise ValueError(most)
    return most / period


def _machine_bytes(proc: Path) -> int:
    line = next(
        line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    return int(line.split()[1]) * 1024
