"""Control groups for tests: processes in limited memory, as a pod has it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.servers import descendants

GROUPS = Path("/sys/fs/cgroup")
# By version 1 and 2: the folder, the file of the limit, and the file that counts kills.
VERSIONS = (
    (GROUPS / "memory", "memory.limit_in_bytes", "memory.oom_control"),
    (GROUPS, "memory.max", "memory.events"),
)


class MemoryGroup:
    """A control group with a limit of memory."""

    def __init__(self, folder: Path, events: str) -> None:
        self.members = folder / "cgroup.procs"
        self._events = folder / events

    def command(self, *command: str) -> list[str]:
        """`command`, run in the group."""
        return ["sh", "-c", f'echo $$ > {self.members} && exec "$@"', "sh", *command]

    def kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        lines = (line.split() for line in self._events.read_text().splitlines())
        return next(int(count) for name, count in lines if name == "oom_kill")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup | None]:
    """A group with the limit; None where this machine allows none."""
    for root, limit, events in VERSIONS:
        folder = root / f"candor-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(limit_bytes))
        except OSError:
            continue
        try:
            yield MemoryGroup(folder, events)
        finally:
            _remove(folder)
        return
    yield None


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
