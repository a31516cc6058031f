"""Calibration: of the images that get a probability of 0.8, eight in ten should be right.

The expected calibration error is the mean over bins of confidence, weighted by their images, of
|accuracy − mean confidence| (Naeini, Cooper, Hauskrecht, AAAI 2015). `probabilities` float64
(N, K), `labels` int64 (N,).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from service.bundle.calibration import Calibration
from training.data import ClassIndices
from training.reliability.calibration import negative_log_likelihood

BINS = 15

Probabilities = Float64[np.ndarray, "rows classes"]


def calibration(
    logits: Float32[np.ndarray, "rows classes"], labels: ClassIndices, fitted: Calibration
) -> Mapping[str, Any]:
    """Calibration error, log loss and reliability diagram, before and after calibration."""
    plain = Calibration()
    before, after = plain.probabilities(logits), fitted.probabilities(logits)
    return {
        "temperature": fitted.temperature,
        "entropy_power": fitted.entropy_power,
        "ece_before": calibration_error(before, labels),
        "ece": calibration_error(after, labels),
        "log_loss_before": negative_log_likelihood(logits, labels, plain),
        "log_loss": negative_log_likelihood(logits, labels, fitted),
        "reliability_before": reliability(before, labels),
        "reliability": reliability(after, labels),
    }


def calibration_error(
    probabilities: Probabilities, labels: ClassIndices, bins: int = BINS
) -> float:
    """The expected calibration error in 0…1."""
    return sum(
        entry["pictures"] * abs(entry["accuracy"] - entry["confidence"])
        for entry in reliability(probabilities, labels, bins)
    ) / len(labels)


def reliability(
    probabilities: Probabilities, labels: ClassIndices, bins: int = BINS
) -> list[dict[str, float]]:
    """The reliability diagram: images, mean confidence and accuracy of each bin.

    Bins have equal widths; those without images are left out.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    # a confidence of 1 belongs to the last bin
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "from": place / bins,
            "pictures": int((places == place).sum()),
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(correct[places == place].mean()),
        }
        for place in np.unique(places).tolist()
    ]
