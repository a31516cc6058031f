"""The commit to compare with, and its files beside the working tree."""

import subprocess

import click
import pytest

from support import trees


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A function that runs git in a repository of two commits on `main`."""
    monkeypatch.setattr(trees, "ROOT", tmp_path)

    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=n@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet", "--initial-branch=main")
    for number in range(2):
        (tmp_path / "file").write_text(f"{number}")
        git("add", "file")
        git("commit", "--quiet", "--message", "A step")
    return git


def test_a_branch_is_compared_with_where_it_left_main(repository):
    left = trees.commit_of("HEAD")
    repository("checkout", "--quiet", "-b", "branch")
    repository("commit", "--quiet", "--allow-empty", "--message", "A step")
    assert trees.parent() == left


def test_main_is_compared_with_its_last_commit_if_changed_else_with_the_one_before(
    repository, tmp_path
):
    assert trees.parent() == trees.commit_of("HEAD~1")
    (tmp_path / "file").write_text("changed")
    assert trees.changed() == ["file"]
    assert trees.parent() == trees.commit_of("HEAD")


def test_a_commit_that_does_not_exist_is_named():
    with pytest.raises(click.ClickException, match=r"git rev-parse .* nothing\^"):
        trees.commit_of("nothing")


def test_a_commit_is_checked_out_ready_to_serve_and_leaves_nothing():
    with trees.checked_out("HEAD") as tree:
        assert (tree.folder / "service" / "model" / "gradient.onnx").stat().st_size > 1e6
        assert tree.python == trees.WORKING.python
    assert not tree.folder.exists()
