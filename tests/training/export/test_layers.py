"""The class activation map of a transformer weighs its tokens."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from service.bundle import folder as contract
from service.image.resize import Input
from training.export import layers
from training.export.core import graphs
from training.export.ends import Names
from training.export.foreign import read_core

SIDE, PATCH, WIDTH, CLASSES = 24, 4, 32, 3
GRID = SIDE // PATCH


class Block(nn.Module):
    """A transformer block with its norms in front."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """A vision transformer that reads a class token, or the mean of its tokens."""

    def __init__(self, *, class_token):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH)) if class_token else None
        count = GRID**2 + class_token
        self.position = nn.Parameter(0.02 * torch.randn(1, count, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("opset", [16, 17], ids=["norm spelled out", "norm"])
def test_the_map_of_averaged_tokens_sums_to_the_logit(opset, tmp_path):
    torch.manual_seed(0)
    network = Transformer(class_token=False).eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIDE, SIDE),),
        tmp_path / "net.onnx",
        input_names=["x"],
        dynamic_axes={"x": {0: "N"}},
        dynamo=False,
        opset_version=opset,
    )
    core = read_core(tmp_path / "net.onnx", SIDE, CLASSES, Names())
    files = graphs(core, Input(SIDE, (0.5,) * 3, (0.25,) * 3))
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
        ([None, None, 8], (224, 224), None),
    ],
)
def test_the_grid_of_tokens_has_the_proportions_of_the_image(shape, image, expected):
    grid = layers.grid_of("tokens", {"x": [None, 3, *image], "tokens": shape})
    assert (grid and (grid.prefix, grid.height, grid.width)) == expected
