"""Methods made of gradients: numpy over batched rows of gradient.onnx.

`batch` uint8 (N, S, S, 3); x float32 (N, 3, S, S) is the normalised batch; `target` int64 (N,); `attribution` float32 (N, 3, S, S).
A gradient is in logits per unit of x (one standard deviation of the training pixels); gradient times a difference of x is in logits.
Rows run in pieces of what the engine takes together, so memory does not grow with the number of steps or samples. Random numbers are the
same for every row: a row's answer does not depend on its neighbours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int64

from service.explain.baselines import BASELINES, logits_of, rows_of
from service.runtime.engine import Engine
from service.runtime.graphs import PATH_GRADIENT, Batch, Rows, Targets

Copies = Float32[np.ndarray, "copies 3 size size"]


@dataclass(frozen=True)
class Explained:
    """`attribution` (N, 3, S, S), and for additive methods `difference` float32 (N,) = f(x) − f(baseline), which it should sum to."""

    attribution: Rows
    difference: Float32[np.ndarray, " rows"] | None = None


def saliency(engine: Engine, batch: Batch, target: Targets) -> Explained:
    """The gradient itself. Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", arXiv 1312.6034."""
    return Explained(engine.gradient(engine.normalise(batch), target).gradient)


def input_x_gradient(engine: Engine, batch: Batch, target: Targets) -> Explained:
    """x · gradient: the difference from the mean image, to first order. Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713."""
    x = engine.normalise(batch)
    return Explained(x * engine.gradient(x, target).gradient)


def integrated_gradients(
    engine: Engine, batch: Batch, target: Targets, steps: int, baseline: str
) -> Explained:
    """(x − baseline) · the mean gradient on the straight way between them. Sundararajan, Taly, Yan, arXiv 1703.01365.

    The mean is a Gauss-Legendre quadrature of `steps` points, none of which is an end; the ends are predicted for the completeness gap.
    """
    x = engine.normalise(batch)
    start = rows_of(engine, batch, baseline)
    total = _along(engine, start, x - start, target, steps)
    difference = engine.predict(batch).logits - logits_of(engine, batch, baseline)
    return Explained((x - start) * total, _of_target(difference, target))


def _along(engine: Engine, start: Rows, way: Rows, target: Targets, steps: int) -> Rows:
    """The mean gradient on the straight way that begins at `start` and is `way`."""
    places, shares = _quadrature(steps)
    if engine.has(PATH_GRADIENT):
        rows = range(len(start))
        return np.concatenate(
            [
                engine.path_gradient(
                    start[row, None], way[row, None], int(target[row]), places, shares
                )
                for row in rows
            ]
        )
    total = np.zeros_like(start)
    for row, step in _pieces(engine, len(start), steps):
        points = start[row] + places[step, None, None, None] * way[row]
        _add(total, row, engine.gradient(points, target[row]).gradient, shares[step])
    return total


def smooth_grad(
    engine: Engine, batch: Batch, target: Targets, samples: int, noise: float, seed: int
) -> Explained:
    """The mean gradient of `samples` noisy copies. Smilkov et al., "SmoothGrad", arXiv 1706.03825.

    The noise is normal, its standard deviation `noise` times the range of x.
    """
    x = engine.normalise(batch)
    spread, total = noise * _range(x), np.zeros_like(x)
    for row, sample in _pieces(engine, len(x), samples):
        noisy = x[row] + spread[row] * _normal(seed, sample, x.shape[1:])
        _add(total, row, engine.gradient(noisy, target[row]).gradient)
    return Explained(total / np.float32(samples))


def gradient_shap(
    engine: Engine, batch: Batch, target: Targets, samples: int, noise: float, seed: int
) -> Explained:
    """The mean over `samples` of (noisy x − baseline) · gradient somewhere between. Erion et al., "Expected Gradients", arXiv 1906.10670;
    Lundberg and Lee, arXiv 1705.07874.

    Each sample draws noise, one of the four baselines and a place on the way. The difference is to the mean logit of those baselines.
    """
    x = engine.normalise(batch)
    starts = np.stack([rows_of(engine, batch, baseline) for baseline in BASELINES])
    drawn = np.random.default_rng(seed)
    which, places = (
        drawn.integers(len(BASELINES), size=samples),
        drawn.uniform(size=samples).astype(np.float32),
    )
    spread, total = noise * _range(x), np.zeros_like(x)
    for row, sample in _pieces(engine, len(x), samples):
        noisy = x[row] + spread[row] * _normal(seed, sample, x.shape[1:])
        way = noisy - starts[which[sample], row]
        points = starts[which[sample], row] + places[sample, None, None, None] * way
        _add(total, row, way * engine.gradient(points, target[row]).gradient)
    ends = np.stack(
        [_of_target(logits_of(engine, batch, baseline), target) for baseline in BASELINES]
    )
    return Explained(
        total / np.float32(samples),
        _of_target(engine.predict(batch).logits, target) - ends[which].mean(0),
    )


def _add(
    total: Rows,
    row: Int64[np.ndarray, " copies"],
    values: Copies,
    shares: Float32[np.ndarray, " copies"] | None = None,
) -> None:
    """Adds to each row of `total` its copies' `values`, each times its share; the copies of a row follow each other."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for start, end in pairwise([*starts, len(row)]):
        mine = values[start:end]
        summed = (
            mine.sum(0) if shares is None else shares[start:end] @ mine.reshape(end - start, -1)
        )
        total[row[start]] += summed.reshape(total.shape[1:])


def _of_target(
    logits: Float32[np.ndarray, "rows classes"], target: Targets
) -> Float32[np.ndarray, " rows"]:
    return np.asarray(np.take_along_axis(logits, target[:, None], 1)[:, 0])


def _range(x: Rows) -> Float32[np.ndarray, "rows 1 1 1"]:
    return np.asarray(x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True))


def _normal(
    seed: int, samples: np.ndarray, shape: tuple[int, ...]
) -> Float32[np.ndarray, "pieces 3 size size"]:
    """Noise that follows from `seed` and the number of the sample alone."""
    return np.stack([_noise(seed, int(sample), shape) for sample in samples])


@lru_cache(maxsize=32)
def _noise(seed: int, sample: int, shape: tuple[int, ...]) -> Float32[np.ndarray, "3 size size"]:
    """The noise of one sample, kept for the next image: on a GPU drawing it takes longer than the gradients."""
    return np.random.default_rng((seed, sample)).standard_normal(shape, np.float32)


@lru_cache(maxsize=16)
def _quadrature(steps: int) -> tuple[Float32[np.ndarray, " steps"], Float32[np.ndarray, " steps"]]:
    """Points in 0…1 and their weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((1 + nodes) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def _pieces(engine: Engine, rows: int, copies: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(Row, copy) of every copy of every row, in as few equal pieces as the engine takes."""
    for index in np.array_split(np.arange(rows * copies), -(-rows * copies // engine.most_rows)):
        yield index // copies, index % copies
