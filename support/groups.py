"""Control groups for tests: processes in limited memory, as a pod has it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import descendants

GROUPS = Path("/sys/fs/cgroup")
# By version 1 and 2: the folder, and the files of the limit, of the kills and of the peak.
VERSIONS = (
    (GROUPS / "memory", "memory.limit_in_bytes", "memory.oom_control", "memory.max_usage_in_bytes"),
    (GROUPS, "memory.max", "memory.events", "memory.peak"),
)


class MemoryGroup:
    """A control group with a limit of memory."""

    def __init__(self, folder: Path, limit: str, events: str, peak: str) -> None:
        self.members = folder / "cgroup.procs"
        self._limit, self._events, self._peak = (folder / name for name in (limit, events, peak))

    def command(self, *command: str) -> list[str]:
        """`command`, run in the group."""
        return ["sh", "-c", f'echo $$ > {self.members} && exec "$@"', "sh", *command]

    def kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        lines = (line.split() for line in self._events.read_text().splitlines())
        return next(int(count) for name, count in lines if name == "oom_kill")

    def limit_bytes(self) -> int:
        """The limit."""
        return int(self._limit.read_text())

    def limit(self, limit_bytes: int) -> None:
        """Sets another limit."""
        self._limit.write_text(str(limit_bytes))

    def peak_bytes(self) -> int:
        """The most memory that it has held at once, the kernel's cache of files included."""
        return int(self._peak.read_text())


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup | None]:
    """A group with the limit; None where this machine allows none."""
    for root, *files in VERSIONS:
        folder = root / f"candor-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / files[0]).write_text(str(limit_bytes))
        except OSError:
            continue
        try:
            yield MemoryGroup(folder, *files)
        finally:
            _remove(folder)
        return
    yield None


def group_of(pid: int) -> MemoryGroup:
    """The group that limits the memory of a process."""
    places = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
    one, two = VERSIONS
    if "memory" in places:
        return MemoryGroup(one[0] / places["memory"].lstrip("/"), *one[1:])
    return MemoryGroup(two[0] / places[""].lstrip("/"), *two[1:])


def peak_bytes(pid: int) -> int:
    """The sum of the peaks of resident memory of a process's descendants."""
    texts = [Path(f"/proc/{one}/status").read_text() for one in descendants(pid)]
    return 1024 * sum(
        int(line.split()[1])
        for text in texts
        for line in text.splitlines()
        if line.startswith("VmHWM")
    )


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.1)  # its last process is about to end
        else:
            return
