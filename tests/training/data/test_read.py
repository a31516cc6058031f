"""A source becomes the same arrays from a folder or a tar; its splits never overlap."""

import tarfile

import numpy as np
import pytest
from click.testing import CliRunner

from service.image.resize import Input
from support.images import COLOURS, draw, encode, folder
from training.__main__ import main
from training.data import DataError, read

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
        (lambda folder: folder, "holds no images"),
    ],
)
def test_a_source_without_images_is_rejected(source, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read.read(str(source(tmp_path)), SPEC, 3, 0)


def test_a_file_that_is_no_tar_is_rejected(tmp_path):
    path = tmp_path / "data.tar"
    path.write_bytes(b"no tar")
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        read.read(str(path), SPEC, 3, 0)


def test_the_seed_draws_no_other_test_images(tmp_path):
    folder(tmp_path)
    (first, second) = (read.read(str(tmp_path / "train"), SPEC, seed=seed) for seed in (0, 1))
    assert first.test.names.tolist() == second.test.names.tolist()
    assert first.validation.names.tolist() != second.validation.names.tolist()


def test_a_small_class_keeps_its_share_in_every_split(tmp_path):
    for colour, count in (("blue", 300), ("red", 20)):
        (tmp_path / colour).mkdir()
        for seed in range(count):
            (tmp_path / colour / f"{seed}.png").write_bytes(encode(draw(colour, 8, seed)))
    data = read.read(str(tmp_path), SPEC)
    counts = [np.bincount(part.labels).tolist() for part in (data.training, data.validation)]
    assert counts == [[243, 16], [27, 2]]
    assert np.bincount(data.test.labels).tolist() == [30, 2]


def spoilt(root, share):
    """Spoils a share of the images below `root`, each in one of five ways."""
    ways = (
        lambda _content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"GIF89a" + content[6:],
        lambda content: b"<html>" + content,
        lambda _content: b"\x89PNG\r\n\x1a\n",
    )
    paths = sorted(root.rglob("*.png"))[:: round(1 / share)]
    for number, path in enumerate(paths):
        path.write_bytes(ways[number % len(ways)](path.read_bytes()))
    return paths


def test_a_folder_with_spoilt_files_trains_with_a_list_of_them(tmp_path):
    folder(tmp_path / "data")
    (tmp_path / "data" / "train" / "red" / "._0000.png").write_bytes(b"of macOS")
    paths = spoilt(tmp_path / "data", 0.05)
    command = ["fit", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    command += ["--network", "seed_cnn", "--epochs", "1", "--device", "cpu"]
    stopped = CliRunner().invoke(main, [*command, "--strict"])
    assert stopped.exit_code == 1
    assert f"{len(paths)} files are no images" in stopped.stderr
    assert "leave --strict out" in stopped.stderr

    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("reading ")
    listed = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert len(listed) == len(paths) == 8
    for path in paths:
        name = str(path.relative_to(tmp_path / "data"))
        (line,) = [line for line in listed if line.startswith(f"{name}: ")]
        assert f"  {line}" in done.stderr.splitlines()
    assert "._0000" not in done.stderr
    assert f"{30 - len(spoilt_in(paths, 'test'))} test images" in done.stdout


def spoilt_in(paths, split):
    return [path for path in paths if split in path.parts]


def test_a_class_without_a_readable_image_is_an_error(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "train" / "red").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no readable images of red in train"):
        read.read(str(tmp_path), SPEC)


@pytest.mark.parametrize("held_out", [2, 120])
def test_too_few_or_too_many_held_out_images_are_a_data_error(held_out, drawn):
    with pytest.raises(
        DataError, match=f"{held_out} images are to be held out.*hold out between 3 and 117"
    ):
        read.read(str(drawn), SPEC, held_out, 0)
