"""Before the first step a table shows the splits, with a word on what is odd about them."""

import shutil

import numpy as np

from service.image.resize import Input
from support.images import COLOURS, draw, encode
from training.data import read, table
from training.data.images import Images
from training.data.read import Dataset

SPEC = Input(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def write(root, counts):
    for colour, count in zip(COLOURS, counts, strict=True):
        (root / colour).mkdir(parents=True)
        for seed in range(count):
            (root / colour / f"{seed:03}.png").write_bytes(encode(draw(colour, 8, seed=seed)))


def test_the_table_counts_classes_by_splits(tmp_path):
    write(tmp_path, (300, 70, 30))
    (tmp_path / "red" / "x.png").write_bytes(b"")
    lines = table.describe_dataset(read.read(str(tmp_path), SPEC)).splitlines()
    assert lines[:7] == [
        "1 file is no image of the data set:",
        "  red/x.png: is empty",
        "class      train  validation     test",
        "blue         243          27       30",
        "green         57           6        7",
        "red           24           3        3",
        "all          324          36       40",
    ]
    assert lines[7].startswith("validation and test: drawn from the training images")
    assert lines[8].startswith("uneven: blue has 10.1 times as many training images as red: judge")
    assert lines[9].startswith("few: red has 24 training images")


def test_an_even_data_set_with_all_splits_needs_no_word(tmp_path):
    write(tmp_path / "train", (50, 50, 50))
    for split in ("val", "test"):
        write(tmp_path / split, (2, 2, 2))
        for path in (tmp_path / split).rglob("*.png"):
            path.write_bytes(encode(255 - draw(size=8, seed=hash(path) % 2**32)))
    lines = table.describe_dataset(read.read(str(tmp_path), SPEC)).splitlines()
    assert [line.split()[0] for line in lines] == ["class", "blue", "green", "red", "all"]


def test_duplicates_across_splits_are_counted_with_an_example(tmp_path):
    write(tmp_path / "train", (60, 60, 60))
    write(tmp_path / "test", (2, 2, 2))
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(encode(255 - draw(size=8, seed=1000)))
    shutil.copy(tmp_path / "train" / "red" / "007.png", tmp_path / "test" / "red" / "a.png")
    text = table.describe_dataset(read.read(str(tmp_path), SPEC, 3))
    assert (
        "1 of 7 test images look like a training image, 1 of them equal in every pixel "
        "(first: test/red/a.png, train/red/007.png)" in text
    )


def test_a_table_of_many_classes_is_cut(tmp_path):
    part = Images(np.zeros((100, 1, 1, 3), np.uint8), np.arange(100))
    data = Dataset("many", tuple(f"{n:03}" for n in range(100)), part, part, part, "0")
    text = table.describe_dataset(data)
    assert "… and 60 more classes" in text
    assert len(text.splitlines()) < 50


def test_a_long_list_of_skipped_files_is_cut():
    skipped = tuple((f"{number}.jpg", "is empty") for number in range(1200))
    text = read.describe([read.Skipped(*item) for item in skipped])
    assert text.startswith("1,200 files are no images of the data set:\n  0.jpg: is empty")
    assert text.endswith("… and 1,180 more")
