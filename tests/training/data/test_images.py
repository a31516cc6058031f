"""Images in files are the same to their users as images in memory."""

import threading

import numpy as np
import pytest

from service.image.resize import Input
from support.images import draw, encode
from training.data import DataError, images
from training.data.files import in_folder
from training.data.images import Images, Stored, in_threads, joined, load

SPEC = Input(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
COUNT = 30


@pytest.fixture
def both(tmp_path):
    """The same images in memory and in files."""
    for number in range(COUNT):
        (tmp_path / f"{number:02}.png").write_bytes(encode(draw(size=20 + number, seed=number)))
    files = in_folder(tmp_path).files
    labels = np.arange(COUNT) % 3
    names = np.array([str(file.name) for file in files])
    held = np.stack([load(file, SPEC) for file in files])
    return Images(held, labels, names), Images(Stored(files, SPEC), labels, names)


def test_pixels_are_the_same_in_any_order_and_in_parts(both, monkeypatch):
    monkeypatch.setattr(images, "WINDOW", 7)
    held, stored = both
    index = np.random.default_rng(0).permutation(COUNT)[:19]
    assert np.array_equal(held.pixels, stored.pixels)
    assert np.array_equal(held.rows(index), stored.rows(index))
    assert np.array_equal(held.take(index).pixels, stored.take(index).pixels)
    assert held.take(index).names.tolist() == stored.take(index).names.tolist()
    assert [len(part) for part in stored.parts(8)] == [8, 8, 8, 6]
    assert np.array_equal(np.concatenate(list(stored.parts(8))), held.pixels)
    assert isinstance(joined([stored, stored]).held, Stored), "nothing is decoded before its use"
    assert np.array_equal(joined([stored, stored]).pixels[COUNT:], held.pixels)
    assert np.array_equal(joined([stored, held]).pixels[COUNT:], held.pixels)


def test_moments_are_those_of_all_pixels(both):
    values = both[0].pixels.reshape(-1, 3) / 255
    for each in both:
        mean, deviation = each.moments()
        assert np.allclose(mean, values.mean(0), atol=1e-12)
        assert np.allclose(deviation, values.std(0), atol=1e-12)


def test_moments_of_many_images_are_those_of_some(both, monkeypatch):
    monkeypatch.setattr(images, "MOST_MEASURED", COUNT * 16 * 16 // 2)
    values = both[0].pixels[::2].reshape(-1, 3) / 255
    assert np.allclose(both[1].moments()[0], values.mean(0), atol=1e-12)


def test_a_file_that_changed_after_the_scan_is_named(both, tmp_path):
    (tmp_path / "03.png").unlink()
    with pytest.raises(DataError, match=r"03\.png: No such file"):
        both[1].rows(np.array([2, 3]))
    (tmp_path / "03.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"03\.png"):
        both[1].rows(np.array([3]))


def test_few_images_are_decoded_ahead_of_their_use():
    done, lock = [], threading.Lock()

    def decode(number):
        with lock:
            done.append(number)
        return number

    results = in_threads(decode, range(10 * images.WINDOW))
    assert next(results) == 0
    assert len(done) <= images.WINDOW
    assert list(results) == list(range(1, 10 * images.WINDOW))
