"""The numbers that make probabilities honest (`service.bundle.folder.calibration`), fitted on images held out of training.

Label smoothing makes a network too modest, and no smoothing too sure; a temperature takes most of that away and changes no decision. A
second number, for a temperature that follows the entropy, stays only where the likelihood says that it is not chance (Wilks' ratio
test), so that a few held-out images get the plain temperature.
"""

import numpy as np
from jaxtyping import Float32, Int64
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2

from service.bundle.calibration import Calibration

LOWEST, HIGHEST = 0.02, 50.0
CHANCE = 0.01  # how often a second number would stay that explains nothing

Logits = Float32[np.ndarray, "rows classes"]
Labels = Int64[np.ndarray, " rows"]


def fit_calibration(logits: Logits, labels: Labels) -> Calibration:
    """The calibration with the least negative log-likelihood of `labels`, rounded to 4 digits."""
    plain = _fit_temperature(logits, labels)
    both = _fit_both(logits, labels, plain)
    gained = negative_log_likelihood(logits, labels, plain) - negative_log_likelihood(
        logits, labels, both
    )
    return both if 2 * len(labels) * gained > chi2.isf(CHANCE, df=1) else plain


def negative_log_likelihood(logits: Logits, labels: Labels, calibration: Calibration) -> float:
    """The mean over images of −log p(label), in nats."""
    shares = log_softmax(logits.astype(np.float64) / calibration.temperatures(logits), axis=1)
    return float(-shares[np.arange(len(labels)), labels].mean())


def _fit_temperature(logits: Logits, labels: Labels) -> Calibration:
    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, Calibration(float(np.exp(log_temperature))))

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return Calibration(round(float(np.exp(found.x)), 4))


def _fit_both(logits: Logits, labels: Labels, start: Calibration) -> Calibration:
    def loss(point: np.ndarray) -> float:
        return negative_log_likelihood(
            logits, labels, Calibration(float(np.exp(point[0])), float(point[1]))
        )

    limits = [(np.log(LOWEST), np.log(HIGHEST)), (0.0, 1.0)]
    found = minimize(loss, [np.log(start.temperature), 0.1], bounds=limits, method="Nelder-Mead")
    return Calibration(round(float(np.exp(found.x[0])), 4), round(float(found.x[1]), 4))
