"""The distribution of a model's answers to held-out images, against which a service measures drift.

Each figure is counted in bins between its quantiles. Such bins hold about equally many
images, so the drift index notices a change anywhere about equally well.
"""

import numpy as np
from jaxtyping import Float64

from service.bundle.manifest import Bins, Distribution
from service.telemetry.drift import counts
from training.data import ClassIndices

# Between equal distributions the index is (bins − 1) (1 / window + 1 / images) on average: few
# bins keep it small.
MOST_BINS, IMAGES_A_BIN = 10, 25


def fit_distribution(
    confidence: Float64[np.ndarray, " rows"],
    familiarity: Float64[np.ndarray, " rows"],
    predicted: ClassIndices,
    classes: int,
) -> Distribution | None:
    """The distributions of confidence, familiarity and predicted class over held-out images.

    `confidence` is the calibrated probability of the predicted class, `familiarity` the score, and
    `classes` the number of classes. With too few images for two bins the result is None.
    """
    most = bins_of(len(predicted))
    if not most:
        return None
    indices = predicted.astype(np.float64)
    # Few classes get a bin each. Of many, neighbours in the order of the labels share one: with a
    # thousand bins the index would show chance alone.
    by_class = (
        _bins(indices, np.arange(1, classes) - 0.5) if classes <= most else quantiles(indices, most)
    )
    return Distribution(
        len(predicted), quantiles(confidence, most), quantiles(familiarity, most), by_class
    )


def bins_of(images: int) -> int:
    """The bins that so many images are counted in at most; 0 if they are too few for two."""
    most = min(MOST_BINS, images // IMAGES_A_BIN)
    return most if most > 1 else 0


def quantiles(values: Float64[np.ndarray, " rows"], most: int) -> Bins:
    """At most `most` bins; fewer where many values are equal."""
    return _bins(values, np.unique(np.quantile(values, np.arange(1, most) / most)))


def _bins(values: Float64[np.ndarray, " rows"], edges: Float64[np.ndarray, " edges"]) -> Bins:
    between = tuple(edges.tolist())
    return Bins(between, tuple((counts(values, between) / len(values)).tolist()))
