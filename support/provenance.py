"""The line that stands above every table of docs/benchmarks.md: command · machine · day · commit.

`scripts/bench` prints it before a benchmark runs.
"""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import click
import onnxruntime as ort

from support import trees


def headline(arguments: Sequence[str]) -> str:
    """The line for `scripts/bench ARGUMENT…`, of today."""
    command = f"`scripts/bench {shlex.join(arguments)}`"
    crowd = f"load {os.getloadavg()[0]:.1f}"
    return " · ".join((command, f"{machine()}, {crowd}", today(), *_commit()))


def machine() -> str:
    """The processor, its cores, and the versions that count."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    versions = f"onnxruntime {ort.__version__}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count() or 1} cores, {versions}"


def today() -> str:
    """The day where it runs."""
    return date.today().isoformat()  # noqa: DTZ011 - the day where it runs


def _commit() -> list[str]:
    """HEAD, with a plus if files have changed since; nothing without git or a repository."""
    with suppress(click.ClickException, OSError):
        return [trees.commit_of("HEAD")[:7] + "+" * bool(trees.changed())]
    return []


def _cpuinfo() -> list[str]:
    source = Path("/proc/cpuinfo")
    return source.read_text().splitlines() if source.exists() else []


if __name__ == "__main__":
    print(headline(sys.argv[1:]) + "\n")
