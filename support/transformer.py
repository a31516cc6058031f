"""A small vision transformer, and images of which a single patch decides.

Images are uint8 (N, 24, 24, 3); x is float32 (N, 3, 24, 24), normalised by SPEC.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from service.image.resize import Input
from training.export.core import Core
from training.export.ends import Names
from training.export.foreign import read_core

SIDE, PATCH, WIDTH, CLASSES = 24, 4, 32, 3
GRID = SIDE // PATCH
SPEC = Input(SIDE, (0.5,) * 3, (0.25,) * 3)
STEPS, ROWS, RATE = 50, 32, 5e-3  # of the training
NOISE, COLOUR = 20, 90  # grey levels: of every pixel, and of the patch in the colour of its class

Images = UInt8[np.ndarray, "rows side side 3"]


class Block(nn.Module):
    """A transformer block with its norms in front."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The tokens (N, T, WIDTH), mixed."""
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        mixed: Tensor = x + self.mlp(self.norms[1](x))
        return mixed


class Transformer(nn.Module):
    """A vision transformer that reads a class token, or the mean of its tokens."""

    def __init__(self, *, class_token: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH)) if class_token else None
        count = GRID**2 + class_token
        self.position = nn.Parameter(0.02 * torch.randn(1, count, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, CLASSES) of x."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        logits: Tensor = self.head(x[:, 0] if self.token is not None else x.mean(1))
        return logits


def planted(
    rows: int, seed: int
) -> tuple[Images, Int64[np.ndarray, " rows"], Int64[np.ndarray, "rows 2"]]:
    """Grey noise with one patch in red, green or blue: images, classes, places in the grid."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(128, NOISE, (rows, SIDE, SIDE, 3))
    classes, places = rng.integers(CLASSES, size=rows), rng.integers(GRID, size=(rows, 2))
    for image, label, (row, column) in zip(pixels, classes, places * PATCH, strict=True):
        image[row : row + PATCH, column : column + PATCH, label] += COLOUR
    return np.clip(pixels, 0, 255).astype(np.uint8), classes, places


def normalised(pixels: Images) -> Float32[np.ndarray, "rows 3 side side"]:
    """The images as the network gets them."""
    x = (pixels / 255 - np.asarray(SPEC.mean)) / np.asarray(SPEC.std)
    return np.asarray(x.transpose(0, 3, 1, 2), np.float32)


def trained(*, class_token: bool) -> Transformer:
    """A transformer that knows the classes of planted patches."""
    torch.manual_seed(0)
    network = Transformer(class_token=class_token)
    optimiser = torch.optim.AdamW(network.parameters(), RATE)
    for step in range(STEPS):
        pixels, classes, _ = planted(ROWS, step)
        logits = network(torch.from_numpy(normalised(pixels)))
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(logits, torch.from_numpy(classes)))
        optimiser.step()
    return network.eval()


def exported(network: nn.Module, folder: Path, opset: int = 17) -> Core:
    """The core of the network's ONNX file; its layer norms are spelled out before opset 17."""
    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the exporter that sees what it exports
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
            dynamo=False,
            opset_version=opset,
        )
    return read_core(path, SIDE, CLASSES, Names())
