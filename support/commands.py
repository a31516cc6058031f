"""Commands of the service, run as a user runs them."""

import subprocess
import sys
from pathlib import Path

from support.servers import ROOT, environment


def run(home: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`python -m service ARGUMENT…` with `home` as its BENTOML_HOME."""
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
