"""Methods made of gradients: numpy over batched rows of gradient.onnx, or of lrp.onnx.

`batch` uint8 (N, H, W, 3); x, the normalised batch, float32 (N, 3, H, W); `target` int64 (N,);
`attribution` float32 (N, 3, H, W). A gradient is in logits per unit of x, one standard deviation of
the training pixels; times a difference of x, it is in logits.

Rows run in pieces of the engine's size, so that memory does not grow with the number of steps or
samples. Random numbers are the same for every row: a row's result does not depend on the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Float64, Int64

from service.explain.maps.baselines import BASELINES, baseline_logits, baseline_rows
from service.runtime.engine import Engine
from service.runtime.graphs import PATH_GRADIENT, Batch, Rows, Targets

Copies = Float32[np.ndarray, "copies 3 H W"]
Numbers = Int64[np.ndarray, " samples"]  # of samples: each has its own noise


@dataclass(frozen=True)
class RowAttributions:
    """`attribution` float32 (N, 3, H, W), in logits or logits per unit of x.

    `difference` float32 (N,): f(x) − f(baseline), the sum that an additive method should reach;
    None for other methods.
    """

    attribution: Rows
    difference: Float32[np.ndarray, " rows"] | None = None


def saliency(engine: Engine, batch: Batch, target: Targets) -> RowAttributions:
    """The gradient itself.

    Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks", arXiv 1312.6034.
    """
    return RowAttributions(engine.gradient(engine.normalise(batch), target).gradient)


def input_x_gradient(engine: Engine, batch: Batch, target: Targets) -> RowAttributions:
    """x · gradient: the difference from the mean image, to first order.

    Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713.
    """
    x = engine.normalise(batch)
    return RowAttributions(x * engine.gradient(x, target).gradient)


def attn_lrp(engine: Engine, batch: Batch, target: Targets) -> RowAttributions:
    """The relevance of x: the logit, handed back from layer to layer.

    Achtibat et al., "AttnLRP", arXiv 2402.05602. No difference is reached: biases, position
    embeddings and class tokens have a share of the logit, too.
    """
    return RowAttributions(engine.relevance(engine.normalise(batch), target).relevance)


def integrated_gradients(
    engine: Engine, batch: Batch, target: Targets, steps: int, baseline: str
) -> RowAttributions:
    """(x − baseline) · the mean gradient on the straight path between them.

    Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", arXiv 1703.01365. The mean
    is a Gauss-Legendre quadrature of `steps` points.
    """
    x = engine.normalise(batch)
    start = baseline_rows(engine, batch, baseline)
    mean = _mean_gradient(engine, start, x - start, target, steps)
    # The ends of the path are no points of the quadrature, so they are predicted for the gap.
    difference = engine.predict(batch).logits - baseline_logits(engine, batch, baseline)
    return RowAttributions((x - start) * mean, _of_target(difference, target))


def _mean_gradient(
    engine: Engine, start: Rows, displacement: Rows, target: Targets, steps: int
) -> Rows:
    """The mean gradient on the straight path from `start` to `start` + `displacement`."""
    positions, weights = _quadrature(steps)
    if engine.has(PATH_GRADIENT):
        # Summed on the GPU: only the total crosses the bus.
        totals = [
            engine.path_gradient(begin[None], along[None], int(label), positions, weights)
            for begin, along, label in zip(start, displacement, target, strict=True)
        ]
        return np.concatenate(totals)
    total = np.zeros_like(start)
    for row, step in _pieces(engine, len(start), steps):
        points = start[row] + positions[step, None, None, None] * displacement[row]
        _add(total, row, engine.gradient(points, target[row]).gradient, weights[step])
    return total


@dataclass(frozen=True)
class SampleSums:
    """Sums over `samples`: `attribution` float64 (N, 3, H, W) and `difference` float64 (N,)."""

    attribution: Float64[np.ndarray, "rows 3 H W"]
    difference: Float64[np.ndarray, " rows"]
    samples: int

    def __add__(self, other: "SampleSums") -> "SampleSums":
        return replace(
            self,
            attribution=self.attribution + other.attribution,
            difference=self.difference + other.difference,
            samples=self.samples + other.samples,
        )

    @property
    def mean(self) -> RowAttributions:
        """The means; `difference` is that of methods that have one."""
        return RowAttributions(
            np.asarray(self.attribution / self.samples, np.float32),
            np.asarray(self.difference / self.samples, np.float32),
        )


def smooth_grad(
    engine: Engine, batch: Batch, target: Targets, numbers: Numbers, noise: float, seed: int
) -> SampleSums:
    """The gradients of copies with noise of standard deviation `noise` · range(x), one a number.

    Smilkov et al., "SmoothGrad", arXiv 1706.03825: their mean, with its sign. The map of
    the method is its absolute value, where slopes of opposite signs have cancelled. Captum's
    NoiseTunnel over Saliency averages absolute gradients instead.
    """
    x = engine.normalise(batch)
    spread, total = noise * _range(x), np.zeros(x.shape)
    for row, sample in _pieces(engine, len(x), len(numbers)):
        noisy = x[row] + spread[row] * _normal(seed, numbers[sample], x.shape[1:])
        _add(total, row, engine.gradient(noisy, target[row]).gradient)
    return SampleSums(total, np.zeros(len(x)), len(numbers))


def gradient_shap(
    engine: Engine, batch: Batch, target: Targets, numbers: Numbers, noise: float, seed: int
) -> SampleSums:
    """(Noisy x − baseline) · gradient at a point between them, and f(noisy x) − f(baseline).

    Erion et al., "Expected Gradients", arXiv 1906.10670; Lundberg and Lee, arXiv 1705.07874: the
    mean of both. The four baselines take turns, and each one's points are spread evenly over its
    paths, at random within their strata. Noisy images are images: bytes.
    """
    starts = np.stack([baseline_rows(engine, batch, baseline) for baseline in BASELINES])
    begins = np.stack(
        [_of_target(baseline_logits(engine, batch, baseline), target) for baseline in BASELINES]
    )
    chosen, positions = _strata(numbers, seed)
    total, difference = np.zeros(starts.shape[1:]), np.zeros(len(batch))
    for row, sample in _pieces(engine, len(batch), len(numbers)):
        images = _noisy_images(batch[row], numbers[sample], noise, seed)
        start, end = starts[chosen[sample], row], engine.normalise(images)
        points = start + positions[sample, None, None, None] * (end - start)
        _add(total, row, (end - start) * engine.gradient(points, target[row]).gradient)
        reached = _of_target(engine.predict(images).logits, target[row])
        np.add.at(difference, row, reached - begins[chosen[sample], row])
    return SampleSums(total, difference, len(numbers))


def _strata(
    numbers: Numbers, seed: int
) -> tuple[Int64[np.ndarray, " samples"], Float32[np.ndarray, " samples"]]:
    """The baseline of each sample, and its point on the path, 0…1."""
    # Halves take every second number.
    chosen = numbers // 2 % len(BASELINES)
    positions = np.random.default_rng((seed, *numbers[:1])).uniform(size=len(numbers))
    for baseline in range(len(BASELINES)):
        (own,) = np.nonzero(chosen == baseline)
        positions[own] = (np.arange(len(own)) + positions[own]) / max(len(own), 1)
    return chosen, positions.astype(np.float32)


def _noisy_images(batch: Batch, numbers: Numbers, noise: float, seed: int) -> Batch:
    """`batch` with noise of standard deviation `noise` · the range of each image's values."""
    values = batch.astype(np.float32)
    spread = noise * (values.max((1, 2, 3)) - values.min((1, 2, 3)))
    drawn = np.moveaxis(_normal(seed, numbers, (batch.shape[3], *batch.shape[1:3])), 1, -1)
    noisy = np.rint(values + spread[:, None, None, None] * drawn)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def _add(
    total: Rows | Float64[np.ndarray, "rows 3 H W"],
    row: Int64[np.ndarray, " copies"],
    values: Copies,
    weights: Float32[np.ndarray, " copies"] | None = None,
) -> None:
    """Adds to each row of `total` its copies' `values`, weighted; copies of a row are adjacent."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for start, end in pairwise([*starts, len(row)]):
        copies = values[start:end]
        if weights is None:
            summed = copies.sum(0)
        else:
            summed = weights[start:end] @ copies.reshape(end - start, -1)
        total[row[start]] += summed.reshape(total.shape[1:])


def _of_target(
    logits: Float32[np.ndarray, "rows classes"], target: Targets
) -> Float32[np.ndarray, " rows"]:
    return np.asarray(np.take_along_axis(logits, target[:, None], 1)[:, 0])


def _range(x: Rows) -> Float32[np.ndarray, "rows 1 1 1"]:
    return np.asarray(x.max((1, 2, 3), keepdims=True) - x.min((1, 2, 3), keepdims=True))


def _normal(
    seed: int, samples: np.ndarray, shape: tuple[int, ...]
) -> Float32[np.ndarray, "pieces 3 H W"]:
    """Standard normal noise that depends on `seed` and the number of each sample alone."""
    return np.stack([_noise(seed, int(sample), shape) for sample in samples])


@lru_cache(maxsize=32)
def _noise(seed: int, sample: int, shape: tuple[int, ...]) -> Float32[np.ndarray, "3 H W"]:
    # Cached for the next image: on a GPU, drawing the noise takes longer than the gradients.
    return np.random.default_rng((seed, sample)).standard_normal(shape, np.float32)


@lru_cache(maxsize=16)
def _quadrature(steps: int) -> tuple[Float32[np.ndarray, " steps"], Float32[np.ndarray, " steps"]]:
    """Gauss-Legendre points in 0…1 and their weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((1 + nodes) / 2).astype(np.float32), (weights / 2).astype(np.float32)


def _pieces(engine: Engine, rows: int, copies: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(Row, copy) of every copy of every row, in as few equal pieces as fit the engine."""
    for index in np.array_split(np.arange(rows * copies), -(-rows * copies // engine.most_rows)):
        yield index // copies, index % copies
