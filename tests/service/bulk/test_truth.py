"""Folders called like classes give a bulk run an accuracy, and its worst mistakes."""

import io
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.stats import binomtest

from service.__main__ import main
from service.bulk.truth import Mistake, judge, wilson
from service.settings import EMBEDDED_BUNDLE


def table(path, *rows):
    """A table of (path, label, probability, error_code)."""
    names = ("path", "label", "probability", "error_code")
    pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), path)
    return path


def test_the_nearest_folder_that_is_called_like_a_class_is_the_truth(tmp_path, embedded):
    rows = table(
        tmp_path / "t.parquet",
        ("test/cat/1.jpg", "cat", 0.9, None),
        ("test/Cat/2.jpg", "dog", 0.6, None),
        ("dog/cat/3.jpg", "dog", 0.8, None),
        ("ship/holidays/4.jpg", "ship", 0.7, None),
        ("cat.jpg", "cat", 0.7, None),
        ("cat/5.jpg", None, None, "undecodable_picture"),
    )
    verdict = judge(rows, embedded.manifest)
    assert (verdict.right, verdict.count, verdict.classes, verdict.others) == (2, 4, 2, 1)
    assert verdict.worst == (
        Mistake("dog/cat/3.jpg", "cat", "dog", 0.8),
        Mistake("test/Cat/2.jpg", "cat", "dog", 0.6),
    )
    of_one_class = ("familiarity", "distribution", "prediction_sets")
    plain = {"entropy_power": 0.0, "class_temperatures": ()} | dict.fromkeys(of_one_class)
    assert judge(rows, replace(embedded.manifest, head="sigmoid", **plain)) is None


def test_labels_of_several_words_may_have_underscores(tmp_path, embedded):
    labels = ("great white shark", *embedded.manifest.labels[1:])
    manifest = replace(embedded.manifest, labels=labels)
    rows = table(tmp_path / "t.parquet", ("Great_White_Shark/1.jpg", labels[0], 0.9, None))
    assert judge(rows, manifest).right == 1


def test_a_flat_folder_has_no_verdict(tmp_path, embedded):
    rows = table(tmp_path / "t.parquet", ("a/1.jpg", "cat", 0.9, None))
    assert judge(rows, embedded.manifest) is None


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (3, 4), (50, 50), (940, 1000)])
def test_the_interval_is_that_of_scipy(hits, count):
    ends = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits, count) == pytest.approx((ends.low, ends.high), abs=1e-6)


def test_the_command_prints_the_accuracy_and_draws_the_mistakes(tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out.parquet"
    for name, truth in (("ship", "ship"), ("airplane", "airplane"), ("automobile", "frog")):
        (folder / truth).mkdir(parents=True)
        shutil.copy(EMBEDDED_BUNDLE / f"{name}.webp", folder / truth)
    shutil.copy(EMBEDDED_BUNDLE / "ball.webp", folder)
    done = CliRunner().invoke(main, ["predict", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "4 files, 0 of them with an error" in done.stdout
    assert "accuracy 66.7% (95 % interval 20.8% to 93.9%): 2 of 3 images right" in done.stdout
    assert "not counted: 1 image in no folder called like a class" in done.stdout
    assert "mistakes: 1; all, with a map of the wrong class" in done.stdout
    assert "frog/automobile.webp: automobile, " in done.stdout
    (drawn,) = (tmp_path / "out.parquet.mistakes").iterdir()
    assert drawn.name == "01-frog-as-automobile.png"
    with Image.open(io.BytesIO(drawn.read_bytes())) as image:
        assert image.height > image.width > 200, "with its legend"
