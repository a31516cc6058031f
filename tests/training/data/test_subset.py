"""A drawn subset has the images of its source, byte for byte, each in one split."""

import tarfile

import pytest
from click.testing import CliRunner

from training.__main__ import main

CLASSES = {"cat": 6, "dog": 5, "eel": 2}


@pytest.fixture
def source(tmp_path):
    """Two splits, and two files of one name in each class."""
    root = tmp_path / "animals"
    for label, count in CLASSES.items():
        for number in range(count):
            split = "test" if number == 0 else "train"
            folder = root / split / label / ("deep" if number == 1 else "")
            place = folder / f"{0 if number == 1 else number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(f"{label} {number}".encode())
    return root


def draw(source, out, *arguments):
    return CliRunner().invoke(
        main, ["subset", "--data", str(source), "--out", str(out), *map(str, arguments)]
    )


def contents(folder):
    return {
        f"{path.parent.parent.name}/{path.parent.name}": sorted(
            other.read_bytes() for other in path.parent.iterdir()
        )
        for path in folder.rglob("*.png")
    }


def test_each_class_gets_as_many_training_images_and_the_rest_is_the_test(source, tmp_path):
    done = draw(source, tmp_path / "small", "--each", 3, "--classes", "cat,dog")
    assert done.exit_code == 0, done.output
    assert "6 training images and 5 test images" in done.output
    written = contents(tmp_path / "small")
    assert {place: len(files) for place, files in written.items()} == {
        "train/cat": 3,
        "test/cat": 3,
        "train/dog": 3,
        "test/dog": 2,
    }
    for label in ("cat", "dog"):
        both = sorted(written[f"train/{label}"] + written[f"test/{label}"])
        assert both == sorted(f"{label} {number}".encode() for number in range(CLASSES[label]))


def test_a_seed_draws_the_same_images_from_a_folder_and_from_a_tar_of_it(source, tmp_path):
    with tarfile.open(tmp_path / "animals.tar", "w") as archive:
        archive.add(source, "animals")
    places = [tmp_path / name for name in ("folder", "tar", "other")]
    for data, place, seed in zip(
        (source, tmp_path / "animals.tar", source), places, (1, 1, 2), strict=True
    ):
        assert draw(data, place, "--each", 1, "--seed", seed).exit_code == 0
    first, second, third = map(contents, places)
    assert first == second
    assert first != third


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--each", 2), "eel has 2 images, and 2 are to be drawn"),
        (("--each", 1, "--classes", "cat,cow"), "no images of cow: the classes are cat, dog, eel"),
        (("--each", 1, "--classes", "cat"), "one class, cat"),
    ],
)
def test_what_cannot_be_drawn_is_said(source, tmp_path, arguments, words):
    done = draw(source, tmp_path / "small", *arguments)
    assert done.exit_code == 1
    assert words in done.output


def test_a_folder_with_files_is_left_alone(source, tmp_path):
    done = draw(source, source, "--each", 1)
    assert done.exit_code == 1
    assert "holds files" in done.output
