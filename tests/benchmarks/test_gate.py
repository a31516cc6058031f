"""`scripts/bench gate` passes a tree beside itself and records it, and fails a slowed one."""

import subprocess
import sys

import pytest

from benchmarks import history
from support import trees

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
SLOWED = """
import time
_open = open_header


def open_header(*arguments, **named):
    time.sleep(0.05)
    return _open(*arguments, **named)
"""


@pytest.fixture
def tree(tmp_path):
    """A second working tree of HEAD."""
    folder = tmp_path / "tree"
    trees.git("worktree", "add", "--detach", str(folder))
    yield folder
    trees.git("worktree", "remove", "--force", str(folder))


def gate(folder, *options):
    command = [sys.executable, "-m", "benchmarks.gate", "HEAD", "--rounds", "5", "--seconds", "1"]
    return subprocess.run(
        [*command, *options], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_tree_beside_itself_passes_and_is_recorded(tree):
    done = gate(tree, "--record")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is worse." in done.stdout
    (entry,) = history.read(tree / history.NAME)
    assert entry.commit == entry.against
    assert entry.readings["/predict, 1 connection: requests/s"].value > 1
    assert entry.readings["integrated_gradients in a process: maps/s"].value > 0.1


def test_a_tree_with_a_sleep_in_it_fails_and_is_not_recorded(tree):
    decode = tree / "service" / "image" / "decode.py"
    decode.write_text(f"{decode.read_text()}\n{SLOWED}")
    done = gate(tree, "--record")
    assert (done.returncode, done.stdout) == (2, "")
    assert "service/image/decode.py has changed: commit it" in done.stderr
    done = gate(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    (worse,) = [line for line in done.stdout.splitlines() if line.startswith("Worse: ")]
    assert "/predict, 1 connection: p50, ms" in worse
    assert "memory" not in worse
