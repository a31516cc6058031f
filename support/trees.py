"""Trees of this repository: the working tree, and a commit checked out beside it.

Each has an interpreter that has what its service needs.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from support.servers import ROOT

MAINS = ("main", "origin/main")
REQUIREMENTS = Path("requirements") / "service.txt"
BUNDLES = ("service/model", "service/imagenet")


@dataclass(frozen=True)
class Tree:
    """The folder of a tree, and its interpreter."""

    folder: Path
    python: str = sys.executable


WORKING = Tree(ROOT)


def git(*arguments: str) -> str:
    """What git prints about this repository.

    Raises:
        ClickException: git fails. The message quotes it.
    """
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def commit_of(name: str) -> str:
    """The short hash of a commit, a branch or a tag."""
    return git("rev-parse", "--verify", "--short=12", f"{name}^{{commit}}")


def changed() -> list[str]:
    """The tracked files of the working tree that differ from HEAD."""
    return git("diff", "HEAD", "--name-only").splitlines()


def parent() -> str:
    """The commit that the working tree is compared with if none is named.

    On a branch that is where it left main; on main HEAD if files have changed, else HEAD~1.
    """
    for main in MAINS:
        if git("for-each-ref", f"refs/heads/{main}", f"refs/remotes/{main}"):
            base = commit_of(git("merge-base", "HEAD", main))
            if base != commit_of("HEAD"):
                return base
    return commit_of("HEAD" if changed() else "HEAD~1")


@contextmanager
def checked_out(commit: str) -> Iterator[Tree]:
    """The files of a commit in a temporary folder, ready to serve.

    The interpreter is this one, unless the service of the commit needs other packages; then an
    environment is made in the folder, which takes minutes.
    """
    packed = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory(prefix="candor-tree-") as name:
        folder = Path(name)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(folder, filter="data")
        same = (folder / REQUIREMENTS).read_bytes() == (ROOT / REQUIREMENTS).read_bytes()
        tree = Tree(folder) if same else _with_environment(folder)
        derive(tree)
        yield tree


def derive(tree: Tree) -> None:
    """Completes the embedded bundles, which git holds in part."""
    _run([tree.python, "-m", "training", "derive", *BUNDLES], tree.folder)


def _with_environment(folder: Path) -> Tree:
    click.echo(f"{REQUIREMENTS} was another: an environment is made", err=True)
    _run(["env", f"PYTHON={Path(sys.executable).resolve()}", "scripts/setup", "service"], folder)
    return Tree(folder, str(folder / ".venv" / "bin" / "python"))


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.stderr.strip()}")
