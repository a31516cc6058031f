"""A CSV gives each image any number of classes, or a sentence says why it does not."""

import numpy as np
import pytest

from service.image.resize import Input
from support.images import draw, encode
from training.data import DataError
from training.data.multi_label import read

SPEC = Input(8, (0.5,) * 3, (0.5,) * 3)
CLASSES = ("ball", "red, or so", "toy")


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(encode(draw("red", size=12)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path


def listed(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return read(path, SPEC, CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        'path,labels\nb.png,\na.png,"toy; red, or so"\nc.png,ball\n',
        'path;labels\nb.png;\na.png;"toy; red, or so"\nc.png;ball\n',
        '\ufeffpath,toy,"red, or so",ball\na.png,1,1,0\nb.png,0,0,\n\nc.png,no,False,yes\n',
    ],
)
def test_an_image_has_several_classes_or_none(folder, text):
    tagged, skipped = listed(folder, text)
    found = dict(zip(tagged.images.names, tagged.has.tolist(), strict=True))
    assert found == {
        "a.png": [False, True, True],
        "b.png": [False, False, False],
        "c.png": [True, False, False],
    }
    assert skipped == []
    assert tagged.images.pixels.shape == (3, 8, 8, 3)
    assert len(tagged) == 3


def test_what_is_no_image_is_skipped_with_its_reason(folder):
    text = "path,labels\nbroken.png,toy\nnotes.txt,toy\nmissing.png,toy\nc.png,ball\n"
    tagged, skipped = listed(folder, text)
    assert np.array_equal(tagged.has, [[True, False, False]])
    assert sorted(item.name for item in skipped) == ["broken.png", "missing.png", "notes.txt"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,labels\na.png,toy\n", "the first line must be path,labels, or path and a column"),
        ("path,toy,ball\na.png,1,1\n", "the first line must be path,labels"),
        ("path,labels\na.png,cat\n", "line 2: cat is no label of the model"),
        ("path,labels\na.png,toy\na.png,ball\n", "line 3: a.png is listed twice"),
        ("path,labels\na.png\n", "line 2 has 1 values; the first line names 2"),
        ('path,ball,"red, or so",toy\na.png,1,2,0\n', "line 2 has the value '2'; give 1 or 0"),
        ("path,labels\nbroken.png,toy\n", "lists no image that can be read"),
        ("", "begins with ''"),
    ],
)
def test_a_mistake_is_a_sentence(folder, text, words):
    with pytest.raises(DataError, match=words):
        listed(folder, text)
