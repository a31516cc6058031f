"""Calibration and prediction sets of a multi-label model: each class for itself.

A class k has the probability sigmoid(scale · logit + bias), with the scale and the bias of the
greatest likelihood on held-out images (Platt, Advances in Large Margin Classifiers, 1999). Platt's
own targets, (n + 1) / (n + 2) and 1 / (n + 2) in place of 1 and 0, keep classes that are told apart
without an error from infinite numbers. A class that too few images have, or lack, stays as it is.

Of the images that have a class, the prediction set holds the class for at least the promised share,
with a confidence of 0.9 (`training.reliability.conformal`).

One half of the images fits the calibration, the other the thresholds; each is measured on the half
that it was not fitted on. Few images do both, and the figures then flatter.

`logits` float32 (N, K); `has` bool (N, K).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.optimize import minimize

from service.bundle.manifest import Manifest, Platt
from service.bundle.prediction_sets import PredictionSets
from training.data.split import Positions
from training.figures.intervals import wilson
from training.reliability.conformal import COVERAGES, sure_rank, threshold

SEED = 0  # of the halves
LEAST_IMAGES = 200  # that are split into halves
LEAST_EACH = 10  # images with a class, and without it, that fit its calibration
LEAST_SCALE, MOST_SCALE, MOST_BIAS = 0.02, 50.0, 50.0
MEASURED = "0.95"  # the coverage that the figures are of
SHOWN, KEPT = 20, 100  # classes in a table, and in the manifest

Logits = Float32[np.ndarray, "rows classes"]
Has = Bool[np.ndarray, "rows classes"]
OfOne = Bool[np.ndarray, " rows"]
Values = Float64[np.ndarray, " rows"]


@dataclass(frozen=True)
class Figures:
    """What one class is worth on held-out images.

    `images` of `of` have it. `covered` is the share of these whose set holds the class, with its
    95 % `interval`; `named` the share of all images whose set does. `log_loss` is the mean of
    −log p of the right answer, in nats, `log_loss_before` that of the file's own probability.
    """

    label: str
    images: int
    of: int
    covered: float
    interval: tuple[float, float]
    named: float
    log_loss: float
    log_loss_before: float

    def document(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


class Fitted(NamedTuple):
    """The manifest with calibration and sets, and the figures of each class."""

    manifest: Manifest
    figures: tuple[Figures, ...]


def fit(manifest: Manifest, logits: Logits, has: Has) -> Fitted:
    """Fits calibration and prediction sets of every class."""
    first, second = _halves(len(logits))
    platt = fit_platt(logits[first], has[first])
    counts: dict[str, Any] = {
        "temperature": len(first),
        "prediction_sets": len(second),
        "same_images": len(first) + len(second) > len(logits),
    }
    fitted = replace(manifest, platt=platt, provenance={**manifest.provenance, "held_out": counts})
    probabilities = fitted.calibration.probabilities(logits)
    sets = fit_sets(probabilities[second], has[second])
    figures = _figures(fitted, sets, logits, has, (first, second))
    counts["classes"] = [each.document() for each in figures[:KEPT]]
    return Fitted(replace(fitted, prediction_sets=sets), figures)


def fit_platt(logits: Logits, has: Has) -> Platt:
    """Scale and bias of each class, rounded to 4 digits."""
    pairs = [
        _scale_and_bias(logits[:, index].astype(np.float64), has[:, index])
        for index in range(logits.shape[1])
    ]
    scale, bias = zip(*pairs, strict=True)
    return Platt(len(logits), scale, bias)


def fit_sets(probabilities: Float64[np.ndarray, "rows classes"], has: Has) -> PredictionSets:
    """The thresholds of each class for COVERAGES; 0, so that it is in every set, of few images."""
    by_class = {
        coverage: tuple(
            threshold(of_class[found], float(coverage), sure_rank)
            for of_class, found in zip(probabilities.T, has.T, strict=True)
        )
        for coverage in COVERAGES
    }
    return PredictionSets(len(probabilities), {}, by_class)


def table(figures: tuple[Figures, ...]) -> str:
    """The figures as a table of Markdown: of more than SHOWN classes those that fall shortest."""
    shown = sorted(figures, key=lambda each: each.covered)[:SHOWN]
    rows = [
        f"| {each.label} | {each.images:,} of {each.of:,} | {_covered(each)} | {each.named:.3f} "
        f"| {each.log_loss_before:.3f} → {each.log_loss:.3f} |"
        for each in (figures if len(figures) <= SHOWN else shown)
    ]
    columns = (
        *("class", "images that have it", f"in the set ({float(MEASURED):.0%}) of these"),
        *("in the set of all", "log loss, before → calibrated"),
    )
    head = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return "\n".join([*head, *rows]) + "\n"


def _covered(figures: Figures) -> str:
    if not figures.images:
        return "–"
    low, high = figures.interval
    return f"{figures.covered:.3f} ({low:.3f} to {high:.3f})"


def _halves(rows: int) -> tuple[Positions, Positions]:
    """The images for the calibration and those for the sets; all, twice, if they are few."""
    if rows < LEAST_IMAGES:
        return np.arange(rows), np.arange(rows)
    order = np.random.default_rng(SEED).permutation(rows)
    return np.sort(order[: rows // 2]), np.sort(order[rows // 2 :])


def _scale_and_bias(logits: Values, has: OfOne) -> tuple[float, float]:
    """The two numbers with the least loss for one class."""
    count, others = int(has.sum()), int((~has).sum())
    if min(count, others) < LEAST_EACH:
        return 1.0, 0.0
    targets = np.where(has, (count + 1) / (count + 2), 1 / (others + 2))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.exp(point[0])
        values = scale * logits + point[1]
        slope = np.exp(-np.logaddexp(0, -values)) - targets
        total = np.logaddexp(0, values) - targets * values
        gradient = np.array([(slope * logits).mean() * scale, slope.mean()])
        return float(total.mean()), gradient

    limits = [(np.log(LEAST_SCALE), np.log(MOST_SCALE)), (-MOST_BIAS, MOST_BIAS)]
    found = minimize(loss, [0.0, 0.0], jac=True, bounds=limits, method="L-BFGS-B").x
    return round(float(np.exp(found[0])), 4), round(float(found[1]), 4)


def _figures(
    manifest: Manifest,
    sets: PredictionSets,
    logits: Logits,
    has: Has,
    halves: tuple[Positions, Positions],
) -> tuple[Figures, ...]:
    """The calibration measured where the sets were fitted, and the sets the other way round."""
    first, second = halves
    covered, rest = has[first], has[second]
    members = manifest.calibration.probabilities(logits[first]) >= sets.thresholds(
        MEASURED, by_class=True
    )
    after = _log_loss(manifest, logits[second], rest)
    before = _log_loss(replace(manifest, platt=None), logits[second], rest)
    found = []
    for index, label in enumerate(manifest.labels):
        hits, count = int((members & covered)[:, index].sum()), int(covered[:, index].sum())
        low, high = wilson(hits, count)
        found.append(
            Figures(
                label,
                count,
                len(first),
                hits / count if count else 1.0,
                (low, high),
                float(members[:, index].mean()),
                float(after[index]),
                float(before[index]),
            )
        )
    return tuple(found)


def _log_loss(manifest: Manifest, logits: Logits, has: Has) -> Float64[np.ndarray, " classes"]:
    """The mean of −log p(right answer) of each class, in nats."""
    probabilities = manifest.calibration.probabilities(logits)
    right = np.where(has, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean(0))
