"""A CSV lists images with their classes, or a sentence names the line that is wrong."""

import pytest

from service.image.resize import Input
from support.images import draw, encode
from training.data import DataError, listed, read

SPEC = Input(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def write(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        (tmp_path / "pictures" / f"{number:02}.png").write_bytes(encode(draw(size=8, seed=number)))

    def _write(text, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text(text, encoding)
        return tmp_path / "labels.csv"

    return _write


def lines(separator=",", splits=None):
    for number in range(40):
        label = "cat" if number % 2 else "a, dog"
        values = [f"pictures/{number:02}.png", f'"{label}"', *([splits(number)] if splits else [])]
        yield separator.join(values)


@pytest.mark.parametrize(
    ("head", "separator", "encoding"),
    [
        ("path,label", ",", "utf-8"),
        ("Path, Label", ",", "utf-8"),
        ("path;label", ";", "utf-8-sig"),
    ],
)
def test_images_get_the_classes_of_their_lines(head, separator, encoding, write):
    source = write("\n".join([head, *lines(separator), ""]), encoding)
    data = read.read(str(source), SPEC)
    assert data.classes == ("a, dog", "cat")
    assert [len(part) for part in (data.training, data.validation, data.test)] == [32, 4, 4]
    for name, label in zip(data.training.names, data.training.labels, strict=True):
        assert int(name[-6:-4]) % 2 == label


def test_a_column_names_the_splits(write):
    splits = lambda number: ["train", "Valid", "test", "train"][number // 10]  # noqa: E731
    data = read.read(str(write("\n".join(["path,label,split", *lines(splits=splits)]))), SPEC)
    assert [len(part) for part in (data.training, data.validation, data.test)] == [20, 10, 10]
    assert data.drawn == ()


def test_lines_without_an_image_are_skipped_with_a_reason(write):
    more = ["pictures/99.png,cat", "pictures/00.png,", "labels.csv,cat", "pictures,cat", ""]
    source = write("\n".join(["path,label", *lines(), "pictures/01.png,cat", *more]))
    placed, skipped = listed.read(source)
    assert len(placed) == 40
    assert skipped == [
        ("pictures/99.png", "does not exist"),
        ("pictures/00.png", "has no label"),
        ("labels.csv", "is no image by its suffix"),
        ("pictures", "is no image by its suffix"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with '': the first line must be path,label"),
        ("pictures/00.png,cat\n", "the first line must be path,label or path,label,split"),
        ("path,label,path\n", "the first line must be"),
        ("path,label\npictures/00.png\n", "line 2 has 1 values; the first line names 2"),
        ("path,label,split\npictures/00.png,cat,later\n", "line 2: the split is 'later'; give one"),
        (
            "path,label\npictures/00.png,cat\npictures/00.png,dog\n",
            r"line 3: pictures/00.png is dog in train, and on a line before cat in train",
        ),
        (
            "path,label,split\npictures/00.png,cat,train\npictures/00.png,cat,test\n",
            "is cat in test, and on a line before cat in train",
        ),
        ("path,label\npictures/00.png,cat\n", "has one class, cat"),
        ("path,label\n", "has no images for training"),
        ('path,label\n"pictures', "line 2 has 1 values"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_rejected(text, message, write):
    with pytest.raises(DataError, match=message):
        read.read(str(write(text)), SPEC)


def test_another_encoding_is_rejected(write):
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        read.read(str(write("path,label\npictures/00.png,Bär\n", "latin-1")), SPEC)
