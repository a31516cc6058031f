"""What lies in the folders of models."""

import shutil
from pathlib import Path

import pytest

from service.errors import BundleError
from service.repository.catalogue import Catalogue
from service.settings import EMBEDDED_BUNDLE, Settings
from support.versions import make_version, point


@pytest.fixture
def cats(tmp_path):
    """A model of three versions, whose folders are numbers."""
    folder = tmp_path / "cats"
    for number in (2, 9, 10):
        make_version(folder / str(number), temperature=float(number))
    return folder


def test_the_greatest_number_is_current(cats):
    catalogue = Catalogue("cats", {"cats": cats})
    assert catalogue.current("cats").label == "10"
    assert [version.label for version in catalogue.versions("cats")] == ["10", "2", "9"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_pointer_names_the_current_one(cats, kind):
    catalogue = Catalogue("cats", {"cats": cats})
    if kind == "file":
        point(cats, "2")
    else:
        (cats / "current").symlink_to("2")
    found = catalogue.current("cats")
    assert (found.label, found.folder) == ("2", (cats / "2").resolve())
    assert len(catalogue.versions("cats")) == 3


def test_a_link_that_moves_on_leaves_what_it_named(tmp_path):
    first, second = (
        make_version(tmp_path / name, temperature=t) for name, t in (("a", 1.0), ("b", 2.0))
    )
    link = tmp_path / "bundle"
    link.symlink_to("a")
    catalogue = Catalogue("cats", {"cats": link})
    before = catalogue.current("cats")
    link.unlink()
    link.symlink_to("b")
    after = catalogue.current("cats")
    assert (before.short, after.short) == (first, second)
    assert before.folder == (tmp_path / "a").resolve()


def test_a_version_is_found_by_label_and_by_digest(cats):
    catalogue = Catalogue("cats", {"cats": cats})
    for called in ("9", catalogue.find("cats", "9").short, catalogue.find("cats", "9").digest):
        assert catalogue.find("cats", called).label == "9"
    assert catalogue.find("cats", "11") is None


def test_a_manifest_that_changed_is_read_again(tmp_path):
    make_version(tmp_path / "cats", temperature=1.0)
    catalogue = Catalogue("cats", {"cats": tmp_path / "cats"})
    before = catalogue.current("cats").digest
    shutil.rmtree(tmp_path / "cats")
    make_version(tmp_path / "cats", temperature=2.0)
    assert catalogue.current("cats").digest != before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.exists, "no bundles in folders named by a number"),
        (lambda folder: (folder / "current").write_text("7"), "names '7'"),
        (lambda folder: (folder / "current").write_bytes(b"\xff" * 5_000), "name one of"),
        (lambda folder: (folder / "current").symlink_to("gone"), "named by a number"),
        (
            lambda folder: (
                (folder / "1").mkdir(),
                (folder / "1" / "manifest.json").write_text("{"),
            ),
            "manifest",
        ),
    ],
    ids=["empty", "unknown", "bytes", "dangling", "damaged"],
)
def test_a_folder_that_names_nothing_says_so(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(BundleError, match=words):
        Catalogue("cats", {"cats": tmp_path}).current("cats")


def test_models_are_the_folders_in_a_folder(tmp_path):
    make_version(tmp_path / "cats")
    make_version(tmp_path / "dogs" / "1")
    for name in (".hidden", "-bad", "no.dots"):
        (tmp_path / name).mkdir()
    catalogue = Catalogue.of(Settings(models=tmp_path))
    assert catalogue.names == ("cifar10", "cats", "dogs")
    assert catalogue.current("dogs").model == "dogs"
    assert not catalogue.has("no.dots")
    assert not catalogue.has("../cats")
    make_version(tmp_path / "eels")
    assert catalogue.has("eels")


def test_the_default_model_is_that_of_the_bundle():
    assert Catalogue.of(Settings()).current("cifar10").folder == EMBEDDED_BUNDLE.resolve()
    assert Catalogue.of(Settings(model_name="zoo")).names == ("zoo",)
