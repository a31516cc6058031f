"""Whether probabilities mean what they say: of the images that get 0.8, eight in ten should be right.

The expected calibration error is the mean over bins of confidence, weighed by their images, of |accuracy − mean confidence| (Naeini,
Cooper, Hauskrecht, AAAI 2015). `probabilities` float64 (N, K), `labels` int64 (N,).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from service.bundle.calibration import Calibration

BINS = 15

Probabilities = Float64[np.ndarray, "rows classes"]
Labels = Int64[np.ndarray, " rows"]


def calibration(logits: np.ndarray, labels: Labels, fitted: Calibration) -> Mapping[str, Any]:
    """The error before and after calibration, and the reliability diagram after it."""
    before, after = Calibration().probabilities(logits), fitted.probabilities(logits)
    return {
        "temperature": fitted.temperature,
        "entropy_power": fitted.entropy_power,
        "ece_before": error(before, labels),
        "ece": error(after, labels),
        "log_loss_before": log_loss(before, labels),
        "log_loss": log_loss(after, labels),
        "reliability_before": reliability(before, labels),
        "reliability": reliability(after, labels),
    }


def error(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> float:
    """The expected calibration error in 0…1."""
    found = reliability(probabilities, labels, bins)
    return sum(
        entry["pictures"] * abs(entry["accuracy"] - entry["confidence"]) for entry in found
    ) / len(labels)


def reliability(
    probabilities: Probabilities, labels: Labels, bins: int = BINS
) -> list[dict[str, float]]:
    """Of each bin of equal width that has images: how many, their mean confidence and their accuracy."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "from": place / bins,
            "pictures": int((places == place).sum()),
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(right[places == place].mean()),
        }
        for place in np.unique(places).tolist()
    ]


def log_loss(probabilities: Probabilities, labels: Labels) -> float:
    """The mean of −log p(label), in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-300)).mean())
