"""Environments of clients whose dependencies do not go with ours, and packages beside ours.

uv and npm make each of them once from its lock file, and keep it under .venv/clients.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
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

    def make(folder: Path, requirements: Path) -> None:
        python = folder / "bin" / "python"
        uv("venv", "--clear", "--python", sys.executable, folder)
        uv("pip", "install", "--python", python, "--require-hashes", "-r", requirements)

    return _made(client, make) / "bin" / "python"


def packages_of(name: str) -> Path:
    """A folder of packages for PYTHONPATH: those that requirements/clients names, no others.

    Without a network the test is skipped.
    """

    def make(folder: Path, requirements: Path) -> None:
        options = ("--target", folder, "--no-deps", "--require-hashes")
        uv("pip", "install", *options, "-r", requirements)

    return _made(name, make)


def _made(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The folder that `make` filled from the requirements `name`, once."""
    requirements = ROOT / "requirements" / "clients" / f"{name}.txt"
    folder = CACHE / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    done = folder / "done"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        # Test processes share the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder, requirements)
            done.touch()
    return folder


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of this machine, which `make` fills unless it did so for the same `key`."""
    folder, digest = CACHE / name, hashlib.sha256(key.encode()).hexdigest()
    done = folder / "done"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.write_text(digest)
    return folder


def npm(lock: Path) -> Path:
    """A folder with the node_modules that package-lock.json in the folder `lock` pins."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: scripts/packages npm")

    def install(folder: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(lock / name, folder)
        done = subprocess.run(
            ["npm", "ci", "--silent", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"npm cannot install {lock.name}: {done.stderr.strip()[-200:]}")

    return kept(f"npm-{lock.name}", (lock / "package-lock.json").read_text(), install)


def uv(*arguments: str | Path) -> None:
    """Runs `uv ARGUMENT…`; without a network or the package the test is skipped."""
    command = [Path(sys.prefix) / "bin" / "uv", *arguments, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode and UNAVAILABLE.search(done.stderr):
        pytest.skip(f"no network, or no such package: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
