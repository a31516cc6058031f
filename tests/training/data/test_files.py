"""Folders and tars list their images in one order, and other files with a reason."""

import io
import tarfile

import pytest

from support.images import draw, encode
from training.data.files import in_folder, in_tar

IMAGES = {
    f"{label}/{number}.jpg": encode(draw(seed=number), "JPEG")
    for label in ("a", "a b", "a-b", "ü")
    for number in range(3)
}
OTHERS = {
    "a/._0.jpg": b"resource fork",
    "__MACOSX/a/0.jpg": b"the same",
    ".DS_Store": b"its view",
    "a/Thumbs.db": b"another",
    "a/notes.txt": b"text",
    "a/moving.JP2": b"GIF89a",
    "a/no suffix": IMAGES["a/0.jpg"],
}


@pytest.fixture
def folder(tmp_path):
    for name, content in (IMAGES | OTHERS).items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "data"


def archive(folder, path, mode="w"):
    with tarfile.open(path, mode) as tar:
        tar.add(folder, ".")
    return path


def test_images_are_listed_and_other_files_have_a_reason(folder):
    (folder / "empty class").mkdir()
    listing = in_folder(folder)
    assert {str(file.name): file.read() for file in listing.files} == IMAGES
    assert sorted(listing.skipped) == [
        ("a/moving.JP2", "is .JP2: convert it to JPEG, PNG or WebP"),
        ("a/no suffix", "is no image by its suffix"),
        ("a/notes.txt", "is no image by its suffix"),
        ("empty class", "is an empty folder"),
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_lists_what_its_folder_lists_in_the_same_order(mode, folder, tmp_path):
    ours, theirs = in_tar(archive(folder, tmp_path / "data.tar", mode)), in_folder(folder)
    assert [(f.name, f.size, f.read()) for f in ours.files] == [
        (f.name, f.size, f.read()) for f in theirs.files
    ]
    assert sorted(ours.skipped) == sorted(theirs.skipped)


def test_images_of_a_packed_tar_can_be_read_in_any_order_and_twice(folder, tmp_path):
    listing = in_tar(archive(folder, tmp_path / "data.tgz", "w:gz"))
    for _ in range(2):
        for file in reversed(listing.files):
            assert file.read() == IMAGES[str(file.name)]


def test_a_later_member_of_a_tar_replaces_an_earlier_one(tmp_path):
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for content in (b"old", b"newer"):
            entry = tarfile.TarInfo("/a/0.jpg")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (file,) = in_tar(tmp_path / "data.tar").files
    assert (str(file.name), file.read()) == ("a/0.jpg", b"newer")


def test_a_name_that_is_no_utf_8_is_skipped(folder):
    with open(bytes(folder / "a") + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - Path takes no bytes
        file.write(IMAGES["a/0.jpg"])
    assert ("'a/\\udcff.jpg'", "has a name that is no UTF-8: rename it") in in_folder(
        folder
    ).skipped
