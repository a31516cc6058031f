"""BENTOML_HOME, the folder of one server's files: metrics, shared state, ports.

Other users may not write there, or they could swap a file for a link; and two servers may not share
it, because each erases the other's metrics when it starts.
"""

import fcntl
import os
import stat
import tempfile
from pathlib import Path

from service.errors import HomeError

LOCK = "server.lock"
NAME = "BENTOML_HOME"


def private(port: int) -> Path:
    """The folder of the server on `port`, which is made if it is missing; others cannot open it.

    Raises:
        HomeError: it is not a folder, belongs to another user, or others may write to it.
    """
    path = Path(tempfile.gettempdir()) / f"candor-{os.getuid()}-{port}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()  # /tmp is everyone's: another user may have made it, or a link
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise HomeError(f"{path} is not a folder of user {os.getuid()}: {_remedy()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HomeError(
            f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):o}): {_remedy()}"
        )
    path.chmod(0o700)
    return path


def lock(folder: Path) -> None:
    """Reserves `folder` for this process until it ends, also if it becomes another program.

    Raises:
        HomeError: another server has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never closed: the lock ends with the last process that has it.
    place = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(place, 20).decode(errors="replace")
        os.close(place)
        if owner == str(os.getpid()):  # `service serve` locked it and became `bentoml serve`
            return
        raise HomeError(
            f"{NAME}={folder} is in use by the server of process {owner}: stop that one, or set "
            f"{NAME} to a folder of its own"
        ) from None
    os.ftruncate(place, 0)
    os.write(place, str(os.getpid()).encode())
    os.set_inheritable(place, True)


def _remedy() -> str:
    return f"remove it, or set {NAME} to a folder of your own"
