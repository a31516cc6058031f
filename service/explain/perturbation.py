"""Methods that change the image and look at the logits: numpy over predict.onnx, without gradients.

`pixels` uint8 (H, W, 3); `targets` are T scores, explained by the same forward passes; maps float32
(T, H, W). The `baseline` replaces what is removed. Rows run in pieces of the engine's size.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from PIL import Image

from service.explain.baselines import baseline_pixels
from service.explain.segments import Segments, areas, count
from service.explain.segments import cut as segments_of
from service.explain.target import Target
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Batch

LIME_KERNEL_WIDTH, LIME_RIDGE = 0.25, 1.0  # as in https://github.com/marcotcr/lime
LIME_SHOWN = 0.5  # the probability of a segment to be in a coalition
# Rows of coalitions in one step of algebra: about 10 ms of a core with the most segments.
ALGEBRA_ROWS = 256
ALGEBRA_UNKNOWNS = 128  # solved for in one step, of about as long
SLIGHT_RIDGE = 1e-9  # relative to the mean of the diagonal; values change less than 1e-6
RISE_SHOWN = 0.5  # the share of an image that a mask shows, the p of the paper

Maps = Float32[np.ndarray, "targets H W"]
Scores = Float64[np.ndarray, "rows targets"]
Coalitions = Bool[np.ndarray, "rows segments"]


@dataclass(frozen=True)
class TargetMaps:
    """`maps` float32 (T, H, W), one for each target.

    `difference` float64 (T,): f(x) − f(baseline), for additive methods. `surrogate_r2` (T,): how
    well the linear model describes the network, for methods that fit one.
    """

    maps: Maps
    difference: Float64[np.ndarray, " targets"] | None = None
    surrogate_r2: list[float] = field(default_factory=list)


def occlusion(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    window: float,
    stride: float,
    baseline: str,
) -> TargetMaps:
    """The drop of the score when a window covers a pixel, averaged over the windows that do.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901.
    `window` and `stride` are shares of the image's sides.
    """
    shape, background = pixels.shape[:2], baseline_pixels(engine, pixels, baseline)
    down, across = (_windows(size, window, stride) for size in shape)
    boxes = [np.s_[rows, columns] for rows in down for columns in across]
    drops = _drops(engine, pixels, targets, (_covered(pixels, background, box) for box in boxes))
    total, covers = np.zeros((len(targets), *shape)), np.zeros(shape)
    for box, drop in zip(boxes, drops, strict=True):
        total[:, *box] += drop[:, None, None]
        covers[box] += 1
    return TargetMaps((total / covers.clip(1)).astype(np.float32))


def feature_ablation(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    segments: int | Segments,
    baseline: str,
) -> TargetMaps:
    """The drop of the score when a segment is removed; each pixel has its segment's drop."""
    cut = segments_of(pixels.shape[:2], segments)
    background = baseline_pixels(engine, pixels, baseline)
    drops = _drops(
        engine,
        pixels,
        targets,
        (_covered(pixels, background, cut == number) for number in range(count(cut))),
    )
    return TargetMaps(drops.T[:, cut].astype(np.float32))


def lime(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    segments: int | Segments,
    samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """The coefficients of a linear model of the score, fitted to random coalitions of segments.

    Ribeiro et al., "Why Should I Trust You?", arXiv 1602.04938. Ridge regression, weighted by
    exp(−d² / 0.25²)^½ with d the cosine distance to the whole image.
    """
    cut = segments_of(pixels.shape[:2], segments)
    coins = np.random.default_rng(seed).random((samples, count(cut)))
    shown = coins < LIME_SHOWN
    shown[0] = True  # the image itself
    scores = _coalition_scores(engine, pixels, targets, cut, shown, baseline)
    # A coalition of k of n segments has the cosine √(k / n) with the whole image.
    distance = 1 - np.sqrt(shown.mean(1))
    weights = np.sqrt(np.exp(-((distance / LIME_KERNEL_WIDTH) ** 2)))
    coefficients, r2 = _ridge(engine, shown, scores, weights)
    return TargetMaps(coefficients[:, cut].astype(np.float32), surrogate_r2=r2)


def kernel_shap(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    segments: int | Segments,
    samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """Shapley values of the segments, estimated from random coalitions.

    Lundberg and Lee, arXiv 1705.07874; Covert and Lee, arXiv 2012.01536. Coalitions are drawn from
    the Shapley kernel, each with its complement; the values sum to f(x) − f(baseline) exactly.
    """
    cut = segments_of(pixels.shape[:2], segments)
    shown = _shapley_coalitions(engine, count(cut), samples, np.random.default_rng(seed))
    whole = np.ones((1, count(cut)), bool)
    scores = _coalition_scores(
        engine, pixels, targets, cut, np.concatenate([shown, whole, ~whole]), baseline
    )
    empty, difference = scores[-1], scores[-2] - scores[-1]
    values = _constrained_least_squares(engine, shown, scores[:-2] - empty, difference)
    # A segment's value is spread evenly over its pixels, so that the map sums to it, too.
    return TargetMaps((values / areas(cut))[:, cut].astype(np.float32), difference)


def rise(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    cells: int,
    samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """The dependence of the score on each pixel's being shown, over smooth random masks.

    Petsiuk et al., "RISE", arXiv 1806.07421: Σ (score − mean score)(mask − p) / (n · p · (1 − p)).
    """
    shape = pixels.shape[:2]
    background = baseline_pixels(engine, pixels, baseline).astype(np.float32)
    rng = np.random.default_rng(seed)
    scores: list[Scores] = []
    weighted, shown = np.zeros((len(targets), *shape)), np.zeros(shape)
    for start in range(0, samples, engine.most_rows):
        masks = np.stack(
            [_smooth_mask(shape, cells, rng) for _ in range(min(engine.most_rows, samples - start))]
        )
        blended = np.rint(background + masks[..., None] * (pixels - background)).astype(np.uint8)
        scores.append(_batch_scores(engine, targets, blended))
        weighted += np.einsum("nt,nhw->thw", scores[-1], masks - RISE_SHOWN)
        shown += (masks - RISE_SHOWN).sum(0)
    # Centred, unlike the paper's sum, so that a constant score gives a map of zeros.
    mean = np.concatenate(scores).mean(0)
    total = weighted - mean[:, None, None] * shown
    return TargetMaps((total / (samples * RISE_SHOWN * (1 - RISE_SHOWN))).astype(np.float32))


def _windows(size: int, window: float, stride: float) -> list[slice]:
    """The places of a window along a side of `size` pixels; the shares are of that side."""
    side, step = max(1, round(window * size)), max(1, round(stride * size))
    # The last window may reach beyond the image, so that every pixel is covered.
    starts = range(0, -(-max(size - side, 0) // step) * step + 1, step)
    return [slice(start, start + side) for start in starts]


def _covered(pixels: InputPixels, background: InputPixels, where: Any) -> InputPixels:
    changed = pixels.copy()
    changed[where] = background[where]
    return changed


def _drops(
    engine: Engine, pixels: InputPixels, targets: Sequence[Target], changed: Iterable[InputPixels]
) -> Scores:
    """The drop of each score by each change."""
    scores = _scores(engine, targets, chain([pixels], changed))
    return np.asarray(scores[:1] - scores[1:])


def _scores(engine: Engine, targets: Sequence[Target], images: Iterable[InputPixels]) -> Scores:
    """The scores of each image, computed a piece at a time."""
    remaining = iter(images)
    pieces = iter(lambda: list(islice(remaining, engine.most_rows)), [])
    return np.concatenate([_batch_scores(engine, targets, np.stack(piece)) for piece in pieces])


def _batch_scores(engine: Engine, targets: Sequence[Target], batch: Batch) -> Scores:
    logits = engine.predict(batch).logits
    return np.stack([target.score(logits) for target in targets], axis=1).astype(np.float64)


def _coalition_scores(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    cut: Segments,
    shown: Coalitions,
    baseline: str,
) -> Scores:
    """The scores of the image with the segments of each coalition and the baseline elsewhere."""
    background, most = baseline_pixels(engine, pixels, baseline), engine.most_rows
    pieces = (shown[start : start + most] for start in range(0, len(shown), most))
    return np.concatenate(
        [
            _batch_scores(engine, targets, np.where(piece[:, cut, None], pixels, background))
            for piece in pieces
        ]
    )


def _ridge(
    engine: Engine,
    shown: Coalitions,
    scores: Scores,
    weights: Float64[np.ndarray, " rows"],
) -> tuple[Float64[np.ndarray, "targets segments"], list[float]]:
    """Weighted ridge regression with an intercept: coefficients and R² for each target."""
    share = (weights / weights.sum())[:, None]
    mean, y = share.T @ shown, scores - (share * scores).sum(0)
    roots = np.sqrt(weights)[:, None]
    gram, moments = _normal_equations(
        engine, len(shown), lambda rows: (roots[rows] * (shown[rows] - mean), roots[rows] * y[rows])
    )
    coefficients = _solve(engine, gram + LIME_RIDGE * np.eye(len(gram)), moments)
    fitted = shown @ coefficients - mean @ coefficients
    residual, spread = (share * (y - fitted) ** 2).sum(0), (share * y**2).sum(0)
    return coefficients.T, [
        float(1 - r / s) if s > 0 else 1.0 for r, s in zip(residual, spread, strict=True)
    ]


def _normal_equations(
    engine: Engine, count: int, equations: Callable[[slice], tuple[np.ndarray, np.ndarray]]
) -> tuple[Float64[np.ndarray, "segments segments"], Float64[np.ndarray, "segments targets"]]:
    """XᵀX and XᵀY of the `count` rows of X and Y; `equations` makes those of a slice.

    The singular values of X would take seconds, in one step that no deadline interrupts.
    """
    gram: Any = 0.0
    moments: Any = 0.0
    for start in range(0, count, ALGEBRA_ROWS):
        engine.pause()
        x, y = equations(slice(start, start + ALGEBRA_ROWS))
        gram, moments = gram + x.T @ x, moments + x.T @ y
    engine.pause()
    return gram, moments


def _shapley_coalitions(
    engine: Engine, players: int, samples: int, rng: np.random.Generator
) -> Coalitions:
    """About `samples` coalitions by the Shapley kernel, neither empty nor whole.

    Every second one is the complement of the one before.
    """
    sizes = np.arange(1, players)
    # The kernel's weight of a coalition, times the number of coalitions of its size.
    share = 1 / (sizes * (players - sizes))
    chosen = rng.choice(sizes, size=max(1, samples // 2), p=share / share.sum())
    halves = []
    for start in range(0, len(chosen), ALGEBRA_ROWS):
        engine.pause()
        sizes = chosen[start : start + ALGEBRA_ROWS, None]
        halves.append(rng.random((len(sizes), players)).argsort(1) < sizes)
    half = np.concatenate(halves)
    return np.stack([half, ~half], axis=1).reshape(-1, players)


def _constrained_least_squares(
    engine: Engine,
    shown: Coalitions,
    scores: Scores,
    total: Float64[np.ndarray, " targets"],
) -> Float64[np.ndarray, "targets segments"]:
    """Solves shown · values = scores by least squares among the values that sum to `total`."""
    even = total / shown.shape[1]
    members = shown.sum(1, keepdims=True)
    # Without its mean, a row only moves values in the directions that keep their sum.
    gram, moments = _normal_equations(
        engine,
        len(shown),
        lambda rows: (
            shown[rows] - members[rows] / shown.shape[1],
            scores[rows] - members[rows] * even,
        ),
    )
    values = _least_norm(engine, gram, moments)
    return np.asarray((values - values.mean(0) + even).T)


def _least_norm(
    engine: Engine,
    gram: Float64[np.ndarray, "segments segments"],
    moments: Float64[np.ndarray, "segments targets"],
) -> Float64[np.ndarray, "segments targets"]:
    """The smallest values that solve gram · values = moments and sum to 0.

    Rows and columns of `gram` sum to 0, too.
    """
    # An even change of all values, which the equations do not see, gets an equation of its own.
    # Other directions are unseen where coalitions are few: a slight ridge keeps values small there.
    mean = np.trace(gram) / len(gram)
    return _solve(
        engine, gram + mean / len(gram) + SLIGHT_RIDGE * mean * np.eye(len(gram)), moments
    )


def _solve(
    engine: Engine,
    matrix: Float64[np.ndarray, "unknowns unknowns"],
    right: Float64[np.ndarray, "unknowns targets"],
) -> Float64[np.ndarray, "unknowns targets"]:
    """Solves matrix · x = right, for a positive definite matrix, a block of unknowns at a time."""
    engine.pause()
    rest = len(matrix) - ALGEBRA_UNKNOWNS
    if rest <= 0:
        return np.asarray(np.linalg.solve(matrix, right))
    first, others = matrix[:-rest], matrix[-rest:]
    solved = np.linalg.solve(
        first[:, :-rest], np.concatenate([first[:, -rest:], right[:-rest]], axis=1)
    )
    eliminated, known = solved[:, :rest], solved[:, rest:]
    engine.pause()
    tail = _solve(
        engine,
        others[:, -rest:] - others[:, :-rest] @ eliminated,
        right[-rest:] - others[:, :-rest] @ known,
    )
    return np.concatenate([known - eliminated @ tail, tail])


def _smooth_mask(
    shape: tuple[int, int], cells: int, rng: np.random.Generator
) -> Float32[np.ndarray, "H W"]:
    """A random grid of `cells` × `cells`, scaled up bilinearly and shifted by part of a cell."""
    height, width = (-(-side // cells) for side in shape)  # of a cell
    coarse = Image.fromarray((rng.random((cells + 1, cells + 1)) < RISE_SHOWN).astype(np.float32))
    top, left = rng.integers(0, (height, width))
    whole = (cells + 1) * width, (cells + 1) * height
    fine = np.asarray(coarse.resize(whole, Image.Resampling.BILINEAR))
    return fine[top : top + shape[0], left : left + shape[1]]
