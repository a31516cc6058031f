"""How the answers to held-out images are distributed, so that a service can tell when those of its callers are not.

Bins of about equally many images, between quantiles: an index over them is most even in what it notices, and where most images have
nearly the same value the bins are narrow. Classes have a bin each, or neighbours in the order of the labels share one, so that a thousand
classes do not make an index of chance alone: for equal distributions it is (bins − 1) (1 / window + 1 / images) on average.
"""

import numpy as np
from jaxtyping import Float64, Int64

from service.bundle.manifest import Bins, Distribution
from service.telemetry.drift import counts

MOST_BINS, IMAGES_A_BIN = 10, 25


def fit_distribution(
    confidence: Float64[np.ndarray, " rows"],
    familiarity: Float64[np.ndarray, " rows"],
    predicted: Int64[np.ndarray, " rows"],
    classes: int,
) -> Distribution | None:
    """Of the calibrated probability of the predicted class, the score of familiarity and the index of the class, of so many `classes`.

    None if there are too few images for two bins.
    """
    most = min(MOST_BINS, len(predicted) // IMAGES_A_BIN)
    if most < 2:  # noqa: PLR2004
        return None
    indices = predicted.astype(np.float64)
    by_class = (
        _bins(indices, np.arange(1, classes) - 0.5)
        if classes <= most
        else _quantiles(indices, most)
    )
    return Distribution(
        len(predicted), _quantiles(confidence, most), _quantiles(familiarity, most), by_class
    )


def _quantiles(values: Float64[np.ndarray, " rows"], most: int) -> Bins:
    """At most so many bins; fewer where many values are the same."""
    return _bins(values, np.unique(np.quantile(values, np.arange(1, most) / most)))


def _bins(values: Float64[np.ndarray, " rows"], edges: Float64[np.ndarray, " edges"]) -> Bins:
    between = tuple(edges.tolist())
    return Bins(between, tuple((counts(values, between) / len(values)).tolist()))
