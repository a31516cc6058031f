"""A contrast of class activation is that of the difference of the logits, rectified afterwards."""

import numpy as np
import pytest
from PIL import Image

from service.explain import METHODS, Target
from service.explain.maps import scaling
from service.explain.maps.cam import scaled
from service.explain.maps.sampling import cosine

FIRST, SECOND = 3, 5


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def of(engine, pixels):
    def compute(name, target):
        return METHODS[name].compute(engine, pixels, target, None, layer="last").map

    return compute


def test_a_contrast_of_grad_cam_is_the_difference_of_two_maps(of):
    contrast = of("grad_cam", Target(FIRST, SECOND))
    apart = of("grad_cam", Target(FIRST)) - of("grad_cam", Target(SECOND))
    assert contrast == pytest.approx(apart, abs=1e-6)


@pytest.mark.parametrize("name", ["layer_cam", "grad_cam_plus_plus"])
def test_a_contrast_rectifies_the_gradient_of_the_difference(name, of, engine, pixels):
    both = np.array([FIRST, SECOND], np.int64)
    cam = engine.cam(engine.normalise(np.stack([pixels, pixels])), both)
    slope = cam.activation_gradient[0] - cam.activation_gradient[1]
    cells = (np.maximum(slope, 0) * cam.activation[0]).sum(0)
    expected = np.asarray(Image.fromarray(cells).resize((32, 32), Image.Resampling.BILINEAR))
    contrast = of(name, Target(FIRST, SECOND))
    # behind a mean and a linear head the two methods differ by a factor
    assert cosine(contrast, expected) > 0.9999
    assert cosine(of(name, Target(FIRST)) - of(name, Target(SECOND)), expected) < 0.999
    if name == "layer_cam":
        assert contrast == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (50, 224)])
def test_the_cosine_of_two_maps_is_known_from_their_cells(shape):
    cells = np.random.default_rng(1).standard_normal((2, 4, 7)).astype(np.float32)
    assert scaling.cosine(*cells, shape) == pytest.approx(cosine(*scaled(cells, shape)))
    assert scaling.cosine(cells[0], np.zeros_like(cells[0]), shape) == 0
