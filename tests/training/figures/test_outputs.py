"""Images that are read in parts get the answers that one call gives them."""

import numpy as np

from training.data.images import Images, drawn_images
from training.figures.outputs import PIECES, outputs_of


def test_parts_get_the_answers_of_one_call(engine):
    count = PIECES * engine.most_rows + 5
    pixels = drawn_images(count, 32)
    whole = engine.predict(pixels)
    parts = outputs_of(engine, Images(pixels, np.zeros(count, np.int64)))
    for name in whole._fields:
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name
