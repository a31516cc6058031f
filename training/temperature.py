"""The one number that makes probabilities honest: logits are divided by it before softmax.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Label smoothing makes a network too modest or too sure; a
temperature fitted on pictures held out of training takes most of that away and changes no decision.
"""

import numpy as np
from jaxtyping import Float32, Int64
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LOWEST, HIGHEST = 0.02, 50.0


def fit_temperature(logits: Float32[np.ndarray, "rows classes"], labels: Int64[np.ndarray, " rows"]) -> float:
    """The temperature with the least negative log-likelihood of `labels`, rounded to 4 digits."""

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, float(np.exp(log_temperature)))

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return round(float(np.exp(found.x)), 4)


def negative_log_likelihood(
    logits: Float32[np.ndarray, "rows classes"], labels: Int64[np.ndarray, " rows"], temperature: float
) -> float:
    """The mean over pictures of −log p(label), in nats."""
    return float(-log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels].mean())
