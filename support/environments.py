"""Environments of clients whose dependencies do not go with ours.

uv makes each of them once from requirements/clients/*.txt and keeps it under .venv/clients.
"""

import fcntl
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import ROOT

CACHE = Path(sys.prefix) / "clients"
# No network, or a package that its author has taken back.
UNAVAILABLE = re.compile(
    r"dns error|error sending request|failed to fetch|connection|timed out|offline"
    r"|not found in the package registry|there is no version of",
    re.IGNORECASE,
)


def python_of(client: str) -> Path:
    """The interpreter of an environment that holds `client`, a name in requirements/clients.

    Without a network the test is skipped; in CI that is a failure (tests/conftest.py).
    """
    requirements = ROOT / "requirements" / "clients" / f"{client}.txt"
    folder = CACHE / f"{client}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "done"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{client}.lock").open("w") as lock:
        # Test processes share the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            uv("venv", "--clear", "--python", sys.executable, folder)
            uv("pip", "install", "--python", python, "--require-hashes", "-r", requirements)
            done.touch()
    return python


def uv(*arguments: str | Path) -> None:
    """Runs `uv ARGUMENT…`; without a network or the package the test is skipped."""
    command = [Path(sys.prefix) / "bin" / "uv", *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode and UNAVAILABLE.search(done.stderr):
        pytest.skip(f"no network, or no such package: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
