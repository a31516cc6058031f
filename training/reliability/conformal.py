"""Prediction sets: thresholds such that the set of probable classes holds the true one as often as was promised.

Split conformal prediction with the score 1 − p(true class): "least ambiguous sets" (Sadinle, Lei, Wasserman, JASA 2019, arXiv 1609.00451).
Over all images that are exchangeable with the held-out ones, a marginal set covers the truth with at least the promised probability,
on average over what was held out. Class by class that average is not much of a promise, for each class has few held-out images: its
threshold is chosen so that with a confidence of 0.9 the class is covered as promised (Vovk, "Conditional validity of inductive conformal
predictors", ACML 2012: the coverage of the r-th of n scores is Beta(r, n + 1 − r)).

`probabilities` float64 (N, K) are calibrated; `labels` int64 (N,).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64
from scipy.stats import beta

from service.bundle.manifest import PredictionSets

COVERAGES = ("0.90", "0.95", "0.99")
CONFIDENCE = 0.9

Probabilities = Float64[np.ndarray, "rows classes"]
Labels = Int64[np.ndarray, " rows"]
Rank = Callable[[int, float], int]


def fit_sets(probabilities: Probabilities, labels: Labels) -> PredictionSets:
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
    """The least probability that a class in the set must have; 0, which takes every class, where there are too few images.

    `own` are the probabilities of the true classes; `rank` says the how many-th largest it is.
    """
    wanted = rank(len(own), coverage)
    return float(np.sort(own)[::-1][wanted - 1]) if wanted <= len(own) else 0.0


def expected_rank(count: int, coverage: float) -> int:
    """The rank by which the coverage is right on average."""
    return math.ceil((count + 1) * coverage)


def sure_rank(count: int, coverage: float) -> int:
    """The rank by which the coverage is right with CONFIDENCE; above `count` if none is."""
    ranks = np.arange(1, count + 1)
    sure = beta.sf(coverage, ranks, count + 1 - ranks) >= CONFIDENCE
    return int(ranks[sure][0]) if sure.any() else count + 1
