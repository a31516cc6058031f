"""Calibration: of the images that get a probability of 0.8, eight in ten should be right.

The log loss −log p(label) and the Brier score Σ (p − label)², 0…2 (Brier, 1950), come first: both
are least for the true probabilities, and no choice of bins enters them.

The expected calibration error is the mean over bins of confidence, weighted by their images, of
|accuracy − mean confidence| (Naeini, Cooper, Hauskrecht, AAAI 2015), in bins of equally many images
(Nguyen, O'Connor, EMNLP 2015). It is above 0 for a perfectly calibrated model, too, as each bin has
few images. `ece_perfect` is what such a model with the same confidences shows: the mean and the
95th percentile over draws of the labels.

`probabilities` float64 (N, K), `labels` int64 (N,).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from service.bundle.calibration import Calibration
from training.data import ClassIndices
from training.figures.intervals import RESAMPLES, bootstrap, wilson

BINS = 15
LEAST_IMAGES = 30  # of a bin: fewer images have fewer bins
HIGH = 95  # percentile

Probabilities = Float64[np.ndarray, "rows classes"]
Values = Float64[np.ndarray, " rows"]
Bins = Int64[np.ndarray, " rows"]


def calibration(
    logits: Float32[np.ndarray, "rows classes"],
    labels: ClassIndices,
    fitted: Calibration,
    classes: Sequence[str],
    seed: int,
) -> Mapping[str, Any]:
    """Log loss, Brier score, calibration error and reliability, before and after calibration.

    `by_answer` has mean probability and accuracy of the images with that predicted class. `seed`
    draws bootstrap samples and the labels of a perfectly calibrated model.
    """
    before = Calibration(head=fitted.head).probabilities(logits)
    after = fitted.probabilities(logits)
    confidence, correct = after.max(1), after.argmax(1) == labels
    return {
        "temperature": fitted.temperature,
        "entropy_power": fitted.entropy_power,
        "class_temperatures": list(fitted.class_temperatures),
        **_score("log_loss", log_losses(before, labels), log_losses(after, labels), seed),
        **_score("brier", brier_scores(before, labels), brier_scores(after, labels), seed),
        "ece_before": calibration_error(before, labels),
        "ece": calibration_error(after, labels),
        "ece_interval": _error_interval(confidence, correct, seed),
        "ece_perfect": _perfect(confidence, seed),
        "by_answer": _by_answer(after, labels, classes),
        "reliability_before": reliability(before, labels),
        "reliability": reliability(after, labels),
    }


def log_losses(probabilities: Probabilities, labels: ClassIndices) -> Values:
    """−log p(label) of each image, in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(own, np.finfo(np.float64).tiny)))


def brier_scores(probabilities: Probabilities, labels: ClassIndices) -> Values:
    """Σ over classes of (p − 1 or 0)² of each image, 0…2."""
    own = probabilities[np.arange(len(labels)), labels]
    return np.asarray(np.square(probabilities).sum(1) - 2 * own + 1)


def calibration_error(probabilities: Probabilities, labels: ClassIndices) -> float:
    """The expected calibration error in 0…1."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    return _error(bins(confidence), confidence - correct)


def bins(confidence: Values) -> Bins:
    """The bin of each image, from 0 on: equally many images in each, equal values together."""
    count = min(BINS, max(1, len(confidence) // LEAST_IMAGES))
    edges = np.unique(np.quantile(confidence, np.arange(1, count) / count, method="higher"))
    return np.asarray(np.searchsorted(edges, confidence, side="right"))


def reliability(probabilities: Probabilities, labels: ClassIndices) -> list[dict[str, float]]:
    """The reliability diagram: images, least and mean confidence, and accuracy of each bin."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    places = bins(confidence)
    return [
        {
            "from": float(confidence[places == place].min()),
            "pictures": int((places == place).sum()),
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(correct[places == place].mean()),
        }
        for place in np.unique(places).tolist()
    ]


def _score(name: str, before: Values, after: Values, seed: int) -> Mapping[str, Any]:
    return {
        f"{name}_before": float(before.mean()),
        name: float(after.mean()),
        f"{name}_interval": bootstrap(lambda rows: float(after[rows].mean()), len(after), seed),
    }


def _error(places: Bins, excess: Values) -> float:
    """The calibration error; `excess` is the confidence minus 1, or 0 where the answer is wrong."""
    return float(np.abs(np.bincount(places, excess)).sum() / len(excess))


def _error_interval(
    confidence: Values, correct: Bool[np.ndarray, " rows"], seed: int
) -> list[float]:
    places, excess = bins(confidence), confidence - correct
    return bootstrap(lambda rows: _error(places[rows], excess[rows]), len(excess), seed)


def _perfect(confidence: Values, seed: int) -> Mapping[str, float]:
    """The calibration error if each answer were right with the probability that it has."""
    rng, places = np.random.default_rng(seed), bins(confidence)
    errors = [
        _error(places, confidence - (rng.uniform(size=len(confidence)) < confidence))
        for _ in range(RESAMPLES)
    ]
    return {"mean": float(np.mean(errors)), "high": float(np.percentile(errors, HIGH))}


def _by_answer(
    probabilities: Probabilities, labels: ClassIndices, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean probability and accuracy by predicted class, in the order of the classes."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    found = []
    for index in np.unique(predicted).tolist():
        rows = predicted == index
        hits, count = int((labels[rows] == index).sum()), int(rows.sum())
        found.append(
            {
                "label": classes[index],
                "pictures": count,
                "confidence": float(confidence[rows].mean()),
                "accuracy": hits / count,
                "accuracy_interval": wilson(hits, count),
            }
        )
    return found
