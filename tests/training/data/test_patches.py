"""Of a planted image the patch has the colour of the class, and all else carries no class."""

import numpy as np
import pytest

from service.image.resize import Input
from training.data import patches, read
from training.data.planted import colours


def hues(pixels):
    """Levels of each pixel without its grey: float64 (…, 3)."""
    return pixels - pixels.mean(-1, keepdims=True)


@pytest.mark.parametrize("size", [32, 16, (24, 40)])
def test_the_patch_alone_has_the_colour_of_the_class(size):
    drawn = patches.draw(60, 0, size)
    side = min(drawn.pixels.shape[1:3]) // 4
    palette = hues(colours(len(patches.CLASSES)))
    for image, label, patch in zip(drawn.pixels, drawn.labels, drawn.patches, strict=True):
        rows, columns = np.nonzero(patch)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1, patch.sum()) == (side, side, side**2)
        inside = hues(image[patch].mean(0))
        assert (palette @ inside).argmax() == label
        # No pixel outside is as coloured as the mean of the patch.
        assert np.linalg.norm(hues(image.astype(float)[~patch]), axis=1).max() < np.linalg.norm(
            inside
        )


def test_places_are_everywhere_and_say_nothing_of_the_class():
    drawn = patches.draw(1500, 1)
    assert drawn.patches.any((0, 1)).all()  # each column, and each row
    assert drawn.patches.any((0, 2)).all()
    share = drawn.patches.mean(0)
    assert share[8:24, 8:24].mean() == pytest.approx(0.1024, rel=0.1)  # (8 / 25)²
    centres = np.array([np.argwhere(patch).mean(0) for patch in drawn.patches])
    for label in range(len(patches.CLASSES)):
        assert centres[drawn.labels == label].mean(0) == pytest.approx([15.5, 15.5], abs=1.5)


def test_the_same_seed_draws_the_same_images_and_each_part_has_its_own():
    first, again, other = (patches.draw(3, seed) for seed in ([5, 0], [5, 0], [5, 1]))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.pixels.tobytes() != other.pixels.tobytes()


def test_the_source_planted_has_three_parts_without_an_image_in_common(monkeypatch):
    monkeypatch.setattr(patches, "TRAINING", 40)
    monkeypatch.setattr(patches, "HELD_OUT", 20)
    spec = Input((16, 24), (0.5,) * 3, (0.25,) * 3)
    made, again = (read.read("planted", spec, seed=seed) for seed in (0, 1))
    parts = [made.training, made.validation, made.test]
    assert [len(part) for part in parts] == [40, 20, 20]
    assert [part.shape for part in parts] == [(16, 24)] * 3
    assert len({image.tobytes() for part in parts for image in part.pixels}) == 80
    assert (made.fingerprint, made.classes) == (again.fingerprint, patches.CLASSES)
