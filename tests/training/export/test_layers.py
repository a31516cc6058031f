"""The class activation map of a transformer weighs its tokens."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from service.bundle import folder as contract
from support.transformer import GRID, SIDE, SPEC, Transformer, exported
from training.export import layers
from training.export.core import graphs


@pytest.mark.parametrize("opset", [16, 17], ids=["norm spelled out", "norm"])
def test_the_map_of_averaged_tokens_sums_to_the_logit(opset, tmp_path):
    torch.manual_seed(0)
    network = Transformer(class_token=False).eval()
    core = exported(network, tmp_path, opset)
    files = graphs(core, SPEC)
    session = ort.InferenceSession(files[contract.CAM])
    x = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)
    target = np.array([0, 1, 2, 1])
    logits, cam = session.run(["logits", "cam"], {"x": x, "target": target})
    assert cam.shape == (4, 1, GRID, GRID)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.abs(logits - expected).max() < 1e-5
    chosen = expected[range(4), target] - network.head.bias.detach().numpy()[target]
    assert np.abs(cam.sum((1, 2, 3)) - chosen).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ([None, 36, 8], (24, 24), (0, 6, 6)),
        ([None, 197, 8], (224, 224), (1, 14, 14)),
        ([None, 198, 8], (224, 224), (2, 14, 14)),
        ([None, 201, 8], (224, 224), (5, 14, 14)),
        ([None, 33, 8], (64, 128), (1, 4, 8)),
        ([None, 7, 9, 8], (224, 288), (None, 7, 9)),
        ([None, 37, 1, 8], (24, 24), None),
        ([None, 31, 8], (224, 224), None),
        ([None, 1, 8], (224, 224), None),
        ([None, None, 8], (224, 224), None),
    ],
)
def test_the_grid_of_tokens_has_the_proportions_of_the_image(shape, image, expected):
    grid = layers.grid_of("tokens", {"x": [None, 3, *image], "tokens": shape})
    assert (grid and (grid.prefix, grid.height, grid.width)) == expected
