"""Methods that change the image and look at the logits: numpy over predict.onnx, without gradients.

`pixels` uint8 (H, W, 3); `targets` are T scores, explained by the same forward passes; maps float32
(T, H, W). The `baseline` replaces what is removed. Rows run in pieces of the engine's size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from PIL import Image

from service.bundle import folder
from service.explain.maps.baselines import baseline_pixels
from service.explain.maps.regression import (
    Coalitions,
    Ridge,
    Scores,
    Shown,
    constrained_least_squares,
    shapley_coalitions,
)
from service.explain.maps.sampling import until_agreed
from service.explain.maps.segments import SUPERPIXELS, Segments, areas, count, grid
from service.explain.maps.superpixels import superpixels
from service.explain.maps.target import Target
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Batch

LIME_KERNEL_WIDTH = 0.25  # as in https://github.com/marcotcr/lime
LIME_SHOWN = 0.5  # the probability of a segment to be in a coalition
RISE_SHOWN = 0.5  # the share of an image that a mask shows, the p of the paper

Maps = Float32[np.ndarray, "targets H W"]


@dataclass(frozen=True)
class TargetMaps:
    """`maps` float32 (T, H, W), one for each target.

    `quality`: measures of the first target's map, by name.
    """

    maps: Maps
    quality: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskSums:
    """Sums over `samples` masks: of the masks, less `RISE_SHOWN`, and of the scores times them.

    `weighted` float64 (T, H, W); `shown` float64 (H, W); `scores` float64 (T,).
    """

    weighted: Float64[np.ndarray, "targets H W"]
    shown: Float64[np.ndarray, "H W"]
    scores: Float64[np.ndarray, " targets"]
    samples: int

    def __add__(self, other: "MaskSums") -> "MaskSums":
        return replace(
            self,
            weighted=self.weighted + other.weighted,
            shown=self.shown + other.shown,
            scores=self.scores + other.scores,
            samples=self.samples + other.samples,
        )

    @property
    def maps(self) -> Maps:
        """The covariance of scores and masks, over the variance of a mask's cell."""
        # Centred, unlike the paper's sum, so that a constant score gives a map of zeros.
        mean = self.scores / max(self.samples, 1)
        total = self.weighted - mean[:, None, None] * self.shown
        variance = RISE_SHOWN * (1 - RISE_SHOWN)
        return np.asarray(total / (max(self.samples, 1) * variance), np.float32)


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
    segmentation: str,
    baseline: str,
) -> TargetMaps:
    """The drop of the score when a segment is removed; each pixel has its segment's drop."""
    cut = segments_of(pixels, segments, segmentation)
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
    segmentation: str,
    samples: int,
    max_samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """The coefficients of a linear model of the score, fitted to random coalitions of segments.

    Ribeiro et al., "Why Should I Trust You?", arXiv 1602.04938. Ridge regression, weighted by
    exp(−d² / 0.25²)^½ with d the cosine distance to the whole image. `surrogate_r2` is of
    coalitions that are left out of the fit, each in its turn.
    """
    cut = segments_of(pixels, segments, segmentation)

    def draw(first: int, count_: int) -> tuple[Coalitions, Coalitions]:
        coins = np.random.default_rng((seed, first)).random((count_, count(cut)))
        shown = coins < LIME_SHOWN
        if not first:
            shown[:2] = True  # the image itself, once in each half
        scores = coalition_scores(engine, pixels, targets, cut, shown, baseline)
        return _halves(shown, scores, np.arange(count_))

    def model(drawn: Coalitions) -> Ridge:
        return Ridge(engine, drawn, proximity(drawn.shown))

    found = until_agreed(
        draw,
        lambda half: model(half).coefficients()[0],
        samples,
        max_samples,
        partial(engine.has_time_for, folder.PREDICT),
    )
    fitted = model(found.evidence)
    coefficients = fitted.coefficients()
    r2 = float(fitted.left_out_r2(coefficients)[0])
    return TargetMaps(
        coefficients[:, cut].astype(np.float32), {"surrogate_r2": r2, **found.measures}
    )


def kernel_shap(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    segments: int | Segments,
    segmentation: str,
    samples: int,
    max_samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """Shapley values of the segments, estimated from random coalitions.

    Lundberg and Lee, arXiv 1705.07874; Covert and Lee, arXiv 2012.01536. Coalitions are drawn from
    the Shapley kernel, each with its complement; the values sum to f(x) − f(baseline) exactly.
    """
    cut = segments_of(pixels, segments, segmentation)
    ends = np.stack([np.ones(count(cut), bool), np.zeros(count(cut), bool)])
    whole, empty = coalition_scores(engine, pixels, targets, cut, ends, baseline)

    def draw(first: int, count_: int) -> tuple[Coalitions, Coalitions]:
        rng = np.random.default_rng((seed, first))
        shown = shapley_coalitions(engine, count(cut), count_, rng)
        scores = coalition_scores(engine, pixels, targets, cut, shown, baseline)
        # A coalition and its complement stay together.
        return _halves(shown, scores - empty, np.arange(len(shown)) // 2)

    def values(drawn: Coalitions) -> Float64[np.ndarray, "targets segments"]:
        return constrained_least_squares(engine, drawn.shown, drawn.scores, whole - empty)

    found = until_agreed(
        draw,
        lambda half: values(half)[0],
        samples,
        max_samples,
        partial(engine.has_time_for, folder.PREDICT),
    )
    # A segment's value is spread evenly over its pixels, so that the map sums to it, too.
    maps = (values(found.evidence) / areas(cut))[:, cut]
    return TargetMaps(maps.astype(np.float32), found.measures)


def rise(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    cells: int,
    samples: int,
    max_samples: int,
    baseline: str,
    seed: int,
) -> TargetMaps:
    """The dependence of the score on each pixel's being shown, over smooth random masks.

    Petsiuk et al., "RISE", arXiv 1806.07421: Σ (score − mean score)(mask − p) / (n · p · (1 − p)).
    The paper's map is the mean score plus (1 − p) times this one. Of masks of 0 and 1 this would be
    the mean score where they show a pixel less that where they hide it. Smooth ones have a variance
    of about (2/3)² of p · (1 − p), more at the border, so the logits are that much smaller.
    """
    background = baseline_pixels(engine, pixels, baseline).astype(np.float32)

    def draw(first: int, count_: int) -> list[MaskSums]:
        rngs = np.random.default_rng((seed, first)).spawn(4)
        numbers = [len(range(i, count_, 4)) for i in range(4)]
        return [
            _mask_sums(engine, pixels, background, targets, cells, number, rng)
            for number, rng in zip(numbers, rngs, strict=True)
        ]

    found = until_agreed(
        draw,
        lambda half: half.maps[0],
        samples,
        max_samples,
        partial(engine.has_time_for, folder.PREDICT),
    )
    return TargetMaps(found.evidence.maps, found.measures)


def segments_of(pixels: InputPixels, segments: int | Segments, segmentation: str) -> Segments:
    """The segments of an image: those of a mask as they are, else a grid or superpixels."""
    if not isinstance(segments, int):
        return segments
    if segmentation == SUPERPIXELS:
        return superpixels(pixels, segments)
    return grid((pixels.shape[0], pixels.shape[1]), segments)


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


def coalition_scores(
    engine: Engine,
    pixels: InputPixels,
    targets: Sequence[Target],
    cut: Segments,
    shown: Shown,
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


def _halves(
    shown: Shown, scores: Scores, numbers: Int64[np.ndarray, " rows"]
) -> tuple[Coalitions, Coalitions]:
    """The coalitions of even and of odd `numbers`."""
    odd = numbers % 2 == 1
    return Coalitions(shown[~odd], scores[~odd]), Coalitions(shown[odd], scores[odd])


def _mask_sums(
    engine: Engine,
    pixels: InputPixels,
    background: Float32[np.ndarray, "H W 3"],
    targets: Sequence[Target],
    cells: int,
    samples: int,
    rng: np.random.Generator,
) -> MaskSums:
    shape = pixels.shape[:2]
    sums = MaskSums(np.zeros((len(targets), *shape)), np.zeros(shape), np.zeros(len(targets)), 0)
    while sums.samples < samples:
        number = min(engine.most_rows, samples - sums.samples)
        masks = np.stack([_smooth_mask(shape, cells, rng) for _ in range(number)])
        blended = np.rint(background + masks[..., None] * (pixels - background)).astype(np.uint8)
        scores, centred = _batch_scores(engine, targets, blended), masks - RISE_SHOWN
        weighted = np.einsum("nt,nhw->thw", scores, centred)
        sums += MaskSums(weighted, centred.sum(0, dtype=np.float64), scores.sum(0), number)
    return sums


def proximity(shown: Shown) -> Float64[np.ndarray, " rows"]:
    """LIME's weight of each coalition: how near it is to the whole image."""
    # A coalition of k of n segments has the cosine √(k / n) with the whole image.
    distance = 1 - np.sqrt(shown.mean(1))
    return np.asarray(np.sqrt(np.exp(-((distance / LIME_KERNEL_WIDTH) ** 2))))


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
