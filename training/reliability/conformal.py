"""Fitting the thresholds of prediction sets on images held out of training.

Split conformal prediction with the score 1 − p(true class): "least ambiguous sets" (Sadinle, Lei,
Wasserman, JASA 2019, arXiv 1609.00451). A marginal set covers the true class with at least the
promised probability, on average over held-out sets and over all images that are exchangeable with
them. Within one class that average promises little, for each class has few held-out images. The
threshold of a class is therefore chosen so that with a confidence of 0.9 the class is covered as
promised.

`probabilities` float64 (N, K) are calibrated; `labels` int64 (N,).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy.stats import beta

from service.bundle.manifest import PredictionSets
from training.data import ClassIndices

COVERAGES = ("0.90", "0.95", "0.99")
CONFIDENCE = 0.9

Probabilities = Float64[np.ndarray, "rows classes"]
Rank = Callable[[int, float], int]


def fit_sets(probabilities: Probabilities, labels: ClassIndices) -> PredictionSets:
    """The thresholds for COVERAGES."""
    own, classes = probabilities[np.arange(len(labels)), labels], range(probabilities.shape[1])
    marginal = {coverage: threshold(own, float(coverage), expected_rank) for coverage in COVERAGES}
    by_class = {
        coverage: tuple(
            threshold(own[labels == label], float(coverage), sure_rank) for label in classes
        )
        for coverage in COVERAGES
    }
    return PredictionSets(len(labels), marginal, by_class)


def threshold(own: Float64[np.ndarray, " rows"], coverage: float, rank: Rank) -> float:
    """The least probability that a class in the set must have.

    `own` are the probabilities of the true classes, of which the `rank`-th largest is returned.
    With too few images the threshold is 0, and the set holds every class.
    """
    place = rank(len(own), coverage)
    return float(np.sort(own)[::-1][place - 1]) if place <= len(own) else 0.0


def expected_rank(count: int, coverage: float) -> int:
    """The rank with the coverage `coverage` on average."""
    return math.ceil((count + 1) * coverage)


def sure_rank(count: int, coverage: float) -> int:
    """The least rank that covers at least `coverage` with CONFIDENCE; `count` + 1 if none does.

    Source: Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
    """
    ranks = np.arange(1, count + 1)
    # the coverage of the r-th largest of n scores is distributed as Beta(r, n + 1 − r)
    sure = beta.sf(coverage, ranks, count + 1 - ranks) >= CONFIDENCE
    return int(ranks[sure][0]) if sure.any() else count + 1
