"""Fitting the temperature of `service.bundle.calibration` on images held out of training.

Label smoothing makes a network underconfident, its absence overconfident. A temperature corrects
most of that and changes no decision. `logits` float32 (N, K), `labels` int64 (N,).

Each further number must earn its place: Wilks' likelihood-ratio test compares the fit with it and
without. With few images it would fit their noise.
"""

import numpy as np
from jaxtyping import Float32
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import chi2

from service.bundle.calibration import LEAST_ENTROPY, Calibration, below_largest, entropy_share
from training.data import ClassIndices

LOWEST, HIGHEST = 0.02, 50.0
SIGNIFICANCE = 0.01  # how often numbers that explain nothing would stay
# The test is right for many images a number: with fewer it finds too much.
LEAST_EACH = 50
MOST_FACTOR = 4.0  # of a class, and its reciprocal

Logits = Float32[np.ndarray, "rows classes"]


def fit_calibration(logits: Logits, labels: ClassIndices) -> Calibration:
    """The calibration with the least negative log-likelihood of `labels`, rounded to 4 digits."""
    plain = _fit_temperature(logits, labels)
    both = _fit_both(logits, labels, plain)
    fitted = both if _explains(logits, labels, plain, both, 1) else plain
    classes = logits.shape[1]
    if len(labels) < LEAST_EACH * classes:
        return fitted
    by_class = fit_classes(logits, labels, fitted)
    # a common factor of all classes is that of the temperature
    return by_class if _explains(logits, labels, fitted, by_class, classes - 1) else fitted


def negative_log_likelihood(
    logits: Logits, labels: ClassIndices, calibration: Calibration
) -> float:
    """The mean over images of −log p(label), in nats."""
    log_probabilities = log_softmax(
        logits.astype(np.float64) / calibration.temperatures(logits), axis=1
    )
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def fit_classes(logits: Logits, labels: ClassIndices, start: Calibration) -> Calibration:
    """The calibration with a factor for each class, from that without; their mean logarithm is 0.

    The entropy's power stays 0 if it is.
    """
    below = below_largest(logits)
    seen, entropy = softmax(below, axis=1), np.log(np.maximum(entropy_share(below), LEAST_ENTROPY))
    # log T is linear in the numbers: of a row these are their coefficients
    columns = np.concatenate([np.ones_like(entropy), entropy, seen], axis=1)
    rows = np.arange(len(labels))

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        values = below / np.exp(columns @ point)[:, None]
        shares = softmax(values, axis=1)
        total = -log_softmax(values, axis=1)[rows, labels].mean()
        slope = values[rows, labels] - (shares * values).sum(1)
        return float(total), columns.T @ slope / len(labels)

    widest = np.log(MOST_FACTOR)
    limits = [
        (np.log(LOWEST), np.log(HIGHEST)),
        (0.0, 1.0 if start.entropy_power else 0.0),
        *[(-widest, widest)] * logits.shape[1],
    ]
    first = [np.log(start.temperature), start.entropy_power, *np.zeros(logits.shape[1])]
    found = minimize(loss, first, jac=True, bounds=limits, method="L-BFGS-B").x
    middle = found[2:].mean()
    return Calibration(
        round(float(np.exp(found[0] + middle)), 4),
        round(float(found[1]), 4),
        class_temperatures=tuple(np.exp(found[2:] - middle).round(4).tolist()),
    )


def _explains(
    logits: Logits, labels: ClassIndices, without: Calibration, fitted: Calibration, numbers: int
) -> bool:
    """True if the `numbers` that `fitted` has more explain the labels better than chance would."""
    gain = negative_log_likelihood(logits, labels, without) - negative_log_likelihood(
        logits, labels, fitted
    )
    return bool(2 * len(labels) * gain > chi2.isf(SIGNIFICANCE, df=numbers))


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
