"""Methods made of gradients: numpy over batched rows of gradient.onnx.

`batch` uint8 (N, S, S, 3); x float32 (N, 3, S, S) is the normalised batch; `target` int64 (N,); `attribution` float32 (N, 3, S, S).
A gradient is in logits per unit of x (one standard deviation of the training pixels); gradient times a difference of x is in logits.
Rows run in pieces of at most 16, so memory does not grow with the number of steps or samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image, ImageFilter

from service.engine import MAX_ROWS, Batch, Engine, Rows, Targets

BASELINES = ("mean", "black", "white", "blur")
BLUR_SHARE = 1 / 8  # the radius of the blur, as a share of the picture's side


@dataclass(frozen=True)
class Explained:
    """`attribution` (N, 3, S, S), and for additive methods `difference` float32 (N,) = f(x) − f(baseline), which it should sum to."""

    attribution: Rows
    difference: Float32[np.ndarray, " rows"] | None = None


def saliency(engine: Engine, batch: Batch, target: Targets) -> Explained:
    """The gradient itself. Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", arXiv 1312.6034."""
    return Explained(engine.gradient(engine.normalise(batch), target).gradient)


def input_x_gradient(engine: Engine, batch: Batch, target: Targets) -> Explained:
    """X · gradient: the difference from the mean picture, to first order. Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713."""
    x = engine.normalise(batch)
    return Explained(x * engine.gradient(x, target).gradient)


def integrated_gradients(engine: Engine, batch: Batch, target: Targets, steps: int, baseline: str) -> Explained:
    """(x − baseline) · the mean gradient on the straight way between them. Sundararajan, Taly, Yan, arXiv 1703.01365.

    The mean is a Gauss-Legendre quadrature of `steps` points; the two ends are run besides, for the completeness gap.
    """
    x = engine.normalise(batch)
    start = baseline_of(engine, batch, baseline)
    nodes, weights = _quadrature(steps)
    places = np.append(nodes, (1.0, 0.0)).astype(np.float32)
    shares = np.append(weights, (0.0, 0.0)).astype(np.float32)
    total, logits = np.zeros_like(x), np.zeros((len(x), len(places)), np.float32)
    for row, step in _pieces(len(x), len(places)):
        points = start[row] + places[step, None, None, None] * (x - start)[row]
        answer = engine.gradient(points, target[row])
        np.add.at(total, row, shares[step, None, None, None] * answer.gradient)
        logits[row, step] = np.take_along_axis(answer.logits, target[row, None], 1)[:, 0]
    return Explained((x - start) * total, logits[:, -2] - logits[:, -1])


def smooth_grad(engine: Engine, batch: Batch, target: Targets, samples: int, noise: float, seed: int) -> Explained:
    """The mean gradient of `samples` noisy copies. Smilkov et al., "SmoothGrad", arXiv 1706.03825.

    The noise is normal, its standard deviation `noise` times the range of x.
    """
    x = engine.normalise(batch)
    rng = np.random.default_rng(seed)
    spread = noise * (x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True))
    total = np.zeros_like(x)
    for row, _ in _pieces(len(x), samples):
        noisy = x[row] + spread[row] * rng.standard_normal((len(row), *x.shape[1:]), np.float32)
        np.add.at(total, row, engine.gradient(noisy, target[row]).gradient)
    return Explained(total / np.float32(samples))


def baseline_of(engine: Engine, batch: Batch, baseline: str) -> Rows:
    """The normalised picture that stands for "nothing to see": the data's `mean`, `black`, `white`, or the picture itself under a `blur`."""
    if baseline == "mean":
        return np.zeros_like(engine.normalise(batch))
    if baseline == "blur":
        return engine.normalise(np.stack([_blurred(pixels) for pixels in batch]))
    return engine.normalise(np.full_like(batch, 255 if baseline == "white" else 0))


def _blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(len(pixels) * BLUR_SHARE)))


@lru_cache(maxsize=16)
def _quadrature(steps: int) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    """Points in 0…1 and their weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (1 + nodes) / 2, weights / 2


def _pieces(rows: int, copies: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(Row, copy) of every copy of every row, at most MAX_ROWS at a time."""
    for start in range(0, rows * copies, MAX_ROWS):
        index = np.arange(start, min(start + MAX_ROWS, rows * copies))
        yield index // copies, index % copies
