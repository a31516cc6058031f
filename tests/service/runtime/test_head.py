"""The head makes, of what a prediction computed, the map that cam.onnx makes of the image."""

import numpy as np
import pytest

from service.bundle.folder import load
from service.runtime.engine import Engine
from service.settings import EMBEDDED
from support.images import draw
from support.toys import engine_of

CHANNELS, CLASSES = 4, 3
TARGETS = np.array([0, 2, 1], np.int64)
LAYER = ("Conv", ["x", "K"], ["activation"], {"strides": [4, 4]})
MEAN = ("GlobalAveragePool", ["activation"], ["pooled"])
FLAT = ("Flatten", ["pooled"], ["mean"])
BATCH = np.stack([draw("red", 16, seed) for seed in range(4)])


def drawn(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "K": drawn(CHANNELS, 3, 4, 4) / 4,
    "W": drawn(CHANNELS, CLASSES),
    "V": drawn(3 * 16 * 16, CLASSES),
    "b": np.float32([0.5, -1, 2]),
}
LINEAR = [LAYER, MEAN, FLAT, ("Gemm", ["mean", "W", "b"], ["logits"])]
BENT = [
    LAYER,
    MEAN,
    ("Relu", ["pooled"], ["bent"]),
    ("Flatten", ["bent"], ["mean"]),
    ("Gemm", ["mean", "W", "b"], ["logits"]),
]
PASSED_BY = [
    *LINEAR[:-1],
    ("Gemm", ["mean", "W", "b"], ["part"]),
    ("Flatten", ["x"], ["flat"]),
    ("Gemm", ["flat", "V", "part"], ["logits"]),
]


@pytest.fixture(scope="module", params=["linear", "bent"])
def toy(request, tmp_path_factory):
    nodes = {"linear": LINEAR, "bent": BENT}[request.param]
    return engine_of(tmp_path_factory.mktemp(request.param), nodes, WEIGHTS, CLASSES)


def seen(engine: Engine, pixels):
    """The view of `engine` for one image, made of its prediction."""
    row = engine.predict_quick(pixels[None], activation=True).rows()[0]
    return engine.seeing(row.logits, row.activation)


def test_one_pass_gives_the_map_and_the_gradient_of_two(toy):
    assert toy.one_pass
    for pixels in BATCH:
        batch = pixels[None].repeat(len(TARGETS), 0)
        ours, expected = seen(toy, pixels).cam_of(batch, TARGETS), toy.cam_of(batch, TARGETS)
        for name in ("logits", "cam", "activation", "activation_gradient"):
            assert getattr(ours, name) == pytest.approx(getattr(expected, name), abs=1e-5), name


def test_a_linear_head_is_told_from_a_bent_one(tmp_path):
    assert engine_of(tmp_path / "linear", LINEAR, WEIGHTS, CLASSES).bias == pytest.approx(
        WEIGHTS["b"]
    )
    assert engine_of(tmp_path / "bent", BENT, WEIGHTS, CLASSES).bias is None


def test_a_network_with_a_way_past_the_layer_takes_two_passes(tmp_path):
    engine = engine_of(tmp_path, PASSED_BY, WEIGHTS, CLASSES)
    assert not engine.one_pass
    assert engine.bias is None
    assert engine.cam_of(BATCH[:3], TARGETS).cam.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_embedded_bundles_are_explained_in_one_pass(name):
    engine = Engine(load(EMBEDDED[name]), "cpu", 1)
    assert engine.one_pass
    side = engine.manifest.input.shape[0]
    targets = np.array([0, len(engine.manifest.labels) - 1], np.int64)
    batch = draw("red", side)[None].repeat(2, 0)
    ours, expected = seen(engine, batch[0]).cam_of(batch, targets), engine.cam_of(batch, targets)
    assert ours.cam == pytest.approx(expected.cam, abs=1e-5)
    assert engine.bias is not None


def test_a_prediction_without_the_activation_is_the_same(engine):
    batch = np.stack([draw(seed=seed) for seed in range(3)])
    plain, with_it = engine.predict_quick(batch), engine.predict_quick(batch, activation=True)
    assert plain.activation is None
    assert with_it.activation is not None
    assert np.array_equal(plain.logits, with_it.logits)
