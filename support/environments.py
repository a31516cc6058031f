"""Environments of clients whose dependencies do not go with ours: made once by uv from tests/clients/*.txt, kept under .venv/clients."""

import fcntl
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import ROOT

CACHE = Path(sys.prefix) / "clients"
UNREACHABLE = re.compile(
    r"dns error|error sending request|connect|timed out|network|offline", re.IGNORECASE
)


def python_of(client):
    """The interpreter of an environment that holds `client`, a name of tests/clients/*.txt; without a network the test is skipped."""
    requirements = ROOT / "tests" / "clients" / f"{client}.txt"
    folder = CACHE / f"{client}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    python, done = folder / "bin" / "python", folder / "done"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _uv("venv", "--clear", "--python", sys.executable, folder)
            _uv("pip", "install", "--python", python, "--require-hashes", "-r", requirements)
            done.touch()
    return python


def _uv(*arguments):
    command = [Path(sys.prefix) / "bin" / "uv", *arguments, "--quiet"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if made.returncode and UNREACHABLE.search(made.stderr):
        pytest.skip(f"no network: {made.stderr.strip().splitlines()[-1]}")
    assert made.returncode == 0, made.stderr
