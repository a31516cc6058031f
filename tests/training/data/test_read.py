"""A source becomes the same arrays from a folder or a tar; its splits never overlap."""

import tarfile

import numpy as np
import pytest

from service.image.resize import Input
from support.images import COLOURS, draw, encode
from training.data import read

SPEC = Input(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def rows(images):
    return {row.tobytes() for row in images.pixels}


def test_a_folder_is_read_whole(drawn):
    data = read.read(str(drawn), SPEC, 30, 0)
    assert data.classes == tuple(COLOURS)
    assert [len(part) for part in (data.training, data.validation, data.test)] == [90, 30, 30]
    assert data.training.pixels.dtype == np.uint8
    assert np.bincount(data.validation.labels).tolist() == [10, 10, 10]


def test_no_image_is_in_two_splits(drawn):
    data = read.read(str(drawn), SPEC, 30, 0)
    assert not rows(data.training) & rows(data.validation)
    assert not (rows(data.training) | rows(data.validation)) & rows(data.test)


def test_a_tar_of_the_folder_is_the_same_data(drawn, tmp_path):
    path = tmp_path / "discs.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(drawn, "discs")
    packed, unpacked = read.read(str(path), SPEC, 30, 0), read.read(str(drawn), SPEC, 30, 0)
    assert packed.fingerprint == unpacked.fingerprint
    assert packed.name == unpacked.name == "discs"


def test_the_fingerprint_depends_on_the_pixels_and_not_on_the_split(drawn):
    assert (
        read.read(str(drawn), SPEC, 30, 0).fingerprint
        == read.read(str(drawn), SPEC, 60, 1).fingerprint
    )


def test_another_seed_holds_out_other_images(drawn):
    assert rows(read.read(str(drawn), SPEC, 30, 0).validation) != rows(
        read.read(str(drawn), SPEC, 30, 1).validation
    )


def test_without_a_test_set_one_image_in_ten_becomes_it(tmp_path):
    for colour in COLOURS:
        (tmp_path / colour).mkdir()
        for seed in range(20):
            (tmp_path / colour / f"{seed}.png").write_bytes(encode(draw(colour, seed=seed)))
    data = read.read(str(tmp_path), SPEC, 6, 0)
    assert [len(part) for part in (data.training, data.validation, data.test)] == [48, 6, 6]


def test_larger_images_are_resized_as_the_service_resizes_them(tmp_path):
    from service.image import resize

    for colour in COLOURS:
        (tmp_path / colour).mkdir()
        for seed in range(12):
            (tmp_path / colour / f"{seed:02}.png").write_bytes(
                encode(draw(colour, size=80, seed=seed, width=100))
            )
    data = read.read(str(tmp_path), SPEC, 3, 0)
    assert resize.to_input(draw("red", size=80, seed=5, width=100), SPEC).tobytes() in rows(
        data.training
    ) | rows(data.validation) | rows(data.test)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda folder: folder / "nowhere", "does not exist: name a folder"),
        (lambda folder: folder, "holds no images under"),
    ],
)
def test_a_source_without_images_is_rejected(source, message, tmp_path):
    with pytest.raises(read.DataError, match=message):
        read.read(str(source(tmp_path)), SPEC, 3, 0)


def test_a_file_that_is_no_tar_is_rejected(tmp_path):
    path = tmp_path / "data.tar"
    path.write_bytes(b"no tar")
    with pytest.raises(read.DataError, match="neither a folder nor a tar"):
        read.read(str(path), SPEC, 3, 0)


def test_the_message_names_a_damaged_image(drawn, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(read.DataError, match=r"red/bad\.png"):
        read.read(str(tmp_path), SPEC, 3, 0)


@pytest.mark.parametrize("held_out", [2, 120])
def test_too_few_or_too_many_held_out_images_are_a_data_error(held_out, drawn):
    with pytest.raises(
        read.DataError, match=f"{held_out} images are to be held out.*hold out between 3 and 117"
    ):
        read.read(str(drawn), SPEC, held_out, 0)
