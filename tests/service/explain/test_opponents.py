"""The opponents of maps are made of the image alone."""

import numpy as np
from scipy import ndimage

from service.explain.opponents import blob, edges
from support import toys


def test_edges_are_those_of_sobels_filters():
    pixels = toys.image()[:13]  # not square
    grey = pixels.mean(axis=2)
    expected = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    assert np.abs(edges(pixels) - expected).max() <= 1e-6 * expected.max()


def test_an_even_image_has_no_edges():
    assert not edges(np.full((16, 16, 3), 90, np.uint8)).any()


def test_the_blob_is_strongest_in_the_middle_whatever_the_image_shows():
    first, second = blob(toys.image(0)), blob(toys.image(1))
    assert (first == second).all()
    assert first[7:9, 7:9].min() == first.max()
    assert (first == first[::-1]).all()
    assert (first == first.T).all()
