"""Methods that change the image and look at the answer: numpy over predict.onnx; they need no gradient.

`pixels` uint8 (S, S, 3); `targets` are T scores that are explained by the same forward passes; maps float32 (T, S, S). What is taken
away is replaced by the `baseline`. Rows run in pieces of at most 16.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from PIL import Image

from service.explain.baselines import Fitted, pixels_of
from service.explain.segments import Segments, areas, count
from service.explain.segments import cut as segments_of
from service.explain.target import Target
from service.runtime.engine import Engine
from service.runtime.graphs import Batch

LIME_KERNEL_WIDTH, LIME_RIDGE = 0.25, 1.0  # those of the reference implementation
RISE_SHOWN = 0.5  # the share of an image that a mask shows

Maps = Float32[np.ndarray, "targets size size"]
Scores = Float64[np.ndarray, "rows targets"]
Coalitions = Bool[np.ndarray, "rows segments"]


@dataclass(frozen=True)
class Perturbed:
    """`maps` (T, S, S); `difference` float64 (T,) = f(x) − f(baseline) of additive methods; `surrogate_r2` (T,) of surrogates."""

    maps: Maps
    difference: Float64[np.ndarray, " targets"] | None = None
    surrogate_r2: list[float] = field(default_factory=list)


def occlusion(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    window: float,
    stride: float,
    baseline: str,
) -> Perturbed:
    """How much the score drops when a window covers a pixel, averaged over windows. Zeiler and Fergus, arXiv 1311.2901.

    `window` and `stride` are shares of the image's side.
    """
    size, ground = len(pixels), pixels_of(engine, pixels, baseline)
    side, step = max(1, round(window * size)), max(1, round(stride * size))
    starts = range(0, -(-max(size - side, 0) // step) * step + 1, step)
    boxes = [np.s_[top : top + side, left : left + side] for top in starts for left in starts]
    drops = _drops(engine, pixels, targets, (_covered(pixels, ground, box) for box in boxes))
    total, covers = np.zeros((len(targets), size, size)), np.zeros((size, size))
    for box, drop in zip(boxes, drops, strict=True):
        total[:, *box] += drop[:, None, None]
        covers[box] += 1
    return Perturbed((total / covers.clip(1)).astype(np.float32))


def feature_ablation(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    segments: int | Segments,
    baseline: str,
) -> Perturbed:
    """How much the score drops when a segment is taken away; each pixel shows its segment's drop."""
    cut, ground = segments_of(len(pixels), segments), pixels_of(engine, pixels, baseline)
    drops = _drops(
        engine,
        pixels,
        targets,
        (_covered(pixels, ground, cut == number) for number in range(count(cut))),
    )
    return Perturbed(drops.T[:, cut].astype(np.float32))


def lime(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    segments: int | Segments,
    samples: int,
    baseline: str,
    seed: int,
) -> Perturbed:
    """The coefficients of a linear model of the score, fitted to random coalitions near the image. Ribeiro et al., arXiv 1602.04938.

    Ridge regression, weighed by exp(−d²/0.25²)^½ with d the cosine distance; R² says how well a linear model describes the network here.
    """
    cut = segments_of(len(pixels), segments)
    shown = np.random.default_rng(seed).random((samples, count(cut))) < 0.5  # noqa: PLR2004 - a fair coin
    shown[0] = True
    scores = _coalitions(engine, pixels, targets, cut, shown, baseline)
    distance = 1 - np.sqrt(shown.mean(1))
    weights = np.sqrt(np.exp(-((distance / LIME_KERNEL_WIDTH) ** 2)))
    coefficients, r2 = _ridge(shown.astype(np.float64), scores, weights)
    return Perturbed(coefficients[:, cut].astype(np.float32), surrogate_r2=r2)


def kernel_shap(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    segments: int | Segments,
    samples: int,
    baseline: str,
    seed: int,
) -> Perturbed:
    """Shapley values of the segments, estimated from random coalitions. Lundberg and Lee, arXiv 1705.07874; Covert and Lee, arXiv 2012.01536.

    Coalitions are drawn from the Shapley kernel, each with its complement; the values sum to f(x) − f(baseline) exactly. A segment's
    value is shared out evenly over its pixels, so the map sums to it, too.
    """
    cut = segments_of(len(pixels), segments)
    shown = _shapley_coalitions(count(cut), samples, np.random.default_rng(seed))
    scores = _coalitions(
        engine,
        pixels,
        targets,
        cut,
        np.concatenate([shown, np.array([[True], [False]]) & np.ones(count(cut), bool)]),
        baseline,
    )
    empty, difference = scores[-1], scores[-2] - scores[-1]
    values = _constrained(shown.astype(np.float64), scores[:-2] - empty, difference)
    return Perturbed((values / areas(cut))[:, cut].astype(np.float32), difference)


def rise(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    cells: int,
    samples: int,
    baseline: str,
    seed: int,
) -> Perturbed:
    """How the score goes with a pixel's being shown, over smooth random masks. Petsiuk et al., arXiv 1806.07421.

    Σ (score − mean score)·(mask − p) / (n·p·(1 − p)): centred, unlike the paper's sum, so that a constant score gives a zero map.
    """
    size, ground = len(pixels), pixels_of(engine, pixels, baseline).astype(np.float32)
    rng = np.random.default_rng(seed)
    scores: list[Scores] = []
    weighed, shown = np.zeros((len(targets), size, size)), np.zeros((size, size))
    for start in range(0, samples, engine.most_rows):
        masks = np.stack(
            [_smooth_mask(size, cells, rng) for _ in range(min(engine.most_rows, samples - start))]
        )
        blended = np.rint(ground + masks[..., None] * (pixels - ground)).astype(np.uint8)
        scores.append(_scored(engine, targets, blended))
        weighed += np.einsum("nt,nhw->thw", scores[-1], masks - RISE_SHOWN)
        shown += (masks - RISE_SHOWN).sum(0)
    mean = np.concatenate(scores).mean(0)
    total = weighed - mean[:, None, None] * shown
    return Perturbed((total / (samples * RISE_SHOWN * (1 - RISE_SHOWN))).astype(np.float32))


def _covered(pixels: Fitted, ground: Fitted, where: Any) -> Fitted:
    changed = pixels.copy()
    changed[where] = ground[where]
    return changed


def _drops(
    engine: Engine, pixels: Fitted, targets: Sequence[Target], changed: Iterable[Fitted]
) -> Scores:
    """How much each change lowers each score."""
    scores = _scores(engine, targets, chain([pixels], changed))
    return np.asarray(scores[:1] - scores[1:])


def _scores(engine: Engine, targets: Sequence[Target], images: Iterable[Fitted]) -> Scores:
    """The scores of each image, a piece at a time."""
    waiting = iter(images)
    pieces = iter(lambda: list(islice(waiting, engine.most_rows)), [])
    return np.concatenate([_scored(engine, targets, np.stack(piece)) for piece in pieces])


def _scored(engine: Engine, targets: Sequence[Target], batch: Batch) -> Scores:
    logits = engine.predict(batch).logits
    return np.stack([target.score(logits) for target in targets], axis=1).astype(np.float64)


def _coalitions(
    engine: Engine,
    pixels: Fitted,
    targets: Sequence[Target],
    cut: Segments,
    shown: Coalitions,
    baseline: str,
) -> Scores:
    """The scores of the image with only the segments `shown` left, the rest replaced."""
    ground, most = pixels_of(engine, pixels, baseline), engine.most_rows
    pieces = (shown[start : start + most] for start in range(0, len(shown), most))
    return np.concatenate(
        [
            _scored(engine, targets, np.where(piece[:, cut, None], pixels, ground))
            for piece in pieces
        ]
    )


def _ridge(
    shown: Float64[np.ndarray, "rows segments"],
    scores: Scores,
    weights: Float64[np.ndarray, " rows"],
) -> tuple[Float64[np.ndarray, "targets segments"], list[float]]:
    """Weighted ridge regression with an intercept: coefficients and R² for each target."""
    share = (weights / weights.sum())[:, None]
    x, y = shown - (share * shown).sum(0), scores - (share * scores).sum(0)
    weighted = weights[:, None] * x
    coefficients = np.linalg.solve(weighted.T @ x + LIME_RIDGE * np.eye(x.shape[1]), weighted.T @ y)
    residual, spread = (share * (y - x @ coefficients) ** 2).sum(0), (share * y**2).sum(0)
    return coefficients.T, [
        float(1 - r / s) if s > 0 else 1.0 for r, s in zip(residual, spread, strict=True)
    ]


def _shapley_coalitions(players: int, samples: int, rng: np.random.Generator) -> Coalitions:
    """About `samples` coalitions, neither empty nor whole, by the Shapley kernel; every second is the complement of the one before."""
    sizes = np.arange(1, players)
    share = 1 / (sizes * (players - sizes))
    drawn = rng.choice(sizes, size=max(1, samples // 2), p=share / share.sum())
    order = rng.random((len(drawn), players)).argsort(1)
    half = order < drawn[:, None]
    return np.stack([half, ~half], axis=1).reshape(-1, players)


def _constrained(
    shown: Float64[np.ndarray, "rows segments"],
    scores: Scores,
    total: Float64[np.ndarray, " targets"],
) -> Float64[np.ndarray, "targets segments"]:
    """The least squares of shown · values = scores among the values that sum to `total`."""
    even = total / shown.shape[1]
    centred = shown - shown.mean(1, keepdims=True)  # moves along the directions that keep the sum
    values = np.linalg.lstsq(centred, scores - shown.sum(1, keepdims=True) * even, rcond=None)[0]
    return np.asarray((values - values.mean(0) + even).T)


def _smooth_mask(
    size: int, cells: int, rng: np.random.Generator
) -> Float32[np.ndarray, "size size"]:
    """A random grid of `cells` × `cells`, scaled up bilinearly and shifted by a part of a cell."""
    cell = -(-size // cells)
    coarse = Image.fromarray((rng.random((cells + 1, cells + 1)) < RISE_SHOWN).astype(np.float32))
    top, left = rng.integers(0, cell, 2)
    fine = np.asarray(coarse.resize(((cells + 1) * cell,) * 2, Image.Resampling.BILINEAR))
    return fine[top : top + size, left : left + size]
