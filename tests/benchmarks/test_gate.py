"""`scripts/bench gate` passes a tree beside itself, and fails one that was slowed."""

import subprocess
import sys

import pytest

from support.servers import ROOT

pytestmark = pytest.mark.benchmark
SLOW_FUNCTION = "def open_header(body: bytes, max_pixels: int"


@pytest.fixture
def tree(tmp_path):
    """A second working tree of HEAD."""
    folder = tmp_path / "tree"
    subprocess.run(["git", "worktree", "add", "--detach", folder], cwd=ROOT, check=True)
    yield folder
    subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def gate(folder):
    command = [sys.executable, "-m", "benchmarks.gate", "HEAD", "--rounds", "5", "--seconds", "1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1800)
def test_a_tree_beside_itself_passes(tree):
    done = gate(tree)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is worse." in done.stdout


@pytest.mark.timeout(1800)
def test_a_tree_with_a_sleep_in_it_fails(tree):
    decode = tree / "service" / "image" / "decode.py"
    source = decode.read_text()
    assert source.count(SLOW_FUNCTION) == 1
    slowed = "import time\n_open = open_header\n\ndef open_header(*arguments, **named):\n"
    slowed += "    time.sleep(0.05)\n    return _open(*arguments, **named)\n"
    decode.write_text(f"{source}\n{slowed}")
    done = gate(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    (worse,) = [line for line in done.stdout.splitlines() if line.startswith("Worse: ")]
    assert "/predict, 1 connection: p50, ms" in worse
    assert "memory" not in worse
