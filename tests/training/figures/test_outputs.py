"""Images that are read in parts get the answers that one call gives them."""

import numpy as np

from training.data.images import Images, drawn_images
from training.figures.outputs import PIECES, classes_of, outputs_of


def test_parts_get_the_answers_of_one_call(engine):
    count = PIECES * engine.most_rows + 5
    pixels = drawn_images(count, 32)
    whole = engine.predict(pixels)
    parts = outputs_of(engine, Images(pixels, np.zeros(count, np.int64)))
    for name in whole._fields:
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_changed_parts_get_the_classes_of_one_call(engine):
    pixels = drawn_images(PIECES * engine.most_rows + 5, 32)
    mirrored = classes_of(engine, len(pixels), lambda part: pixels[part, :, ::-1])
    assert np.array_equal(mirrored, engine.predict(pixels[:, :, ::-1]).logits.argmax(1))
    assert len(classes_of(engine, 0, lambda part: pixels[part])) == 0
