"""Fitting the temperature of `service.bundle.calibration` on images held out of training.

Label smoothing makes a network underconfident, its absence overconfident. A temperature corrects
most of that and changes no decision. `logits` float32 (N, K), `labels` int64 (N,).
"""

import numpy as np
from jaxtyping import Float32
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2

from service.bundle.calibration import Calibration
from training.data import ClassIndices

LOWEST, HIGHEST = 0.02, 50.0
SIGNIFICANCE = 0.01  # how often an entropy power that explains nothing would stay

Logits = Float32[np.ndarray, "rows classes"]


def fit_calibration(logits: Logits, labels: ClassIndices) -> Calibration:
    """The calibration with the least negative log-likelihood of `labels`, rounded to 4 digits."""
    plain = _fit_temperature(logits, labels)
    both = _fit_both(logits, labels, plain)
    gain = negative_log_likelihood(logits, labels, plain) - negative_log_likelihood(
        logits, labels, both
    )
    # Wilks' likelihood-ratio test: with few images a second number would fit their noise
    return both if 2 * len(labels) * gain > chi2.isf(SIGNIFICANCE, df=1) else plain


def negative_log_likelihood(
    logits: Logits, labels: ClassIndices, calibration: Calibration
) -> float:
    """The mean over images of −log p(label), in nats."""
    log_probabilities = log_softmax(
        logits.astype(np.float64) / calibration.temperatures(logits), axis=1
    )
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _fit_temperature(logits: Logits, labels: ClassIndices) -> Calibration:
    # in the logarithm, for a temperature is a factor
    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, Calibration(float(np.exp(log_temperature))))

    result = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return Calibration(round(float(np.exp(result.x)), 4))


def _fit_both(logits: Logits, labels: ClassIndices, start: Calibration) -> Calibration:
    def loss(point: np.ndarray) -> float:
        return negative_log_likelihood(
            logits, labels, Calibration(float(np.exp(point[0])), float(point[1]))
        )

    limits = [(np.log(LOWEST), np.log(HIGHEST)), (0.0, 1.0)]
    result = minimize(loss, [np.log(start.temperature), 0.1], bounds=limits, method="Nelder-Mead")
    return Calibration(round(float(np.exp(result.x[0])), 4), round(float(result.x[1]), 4))
