"""Fitting the thresholds of prediction sets on images held out of training.

Split conformal prediction with the score 1 − p(true class): "least ambiguous sets" (Sadinle, Lei,
Wasserman, JASA 2019, arXiv 1609.00451). A marginal set covers the true class with at least the
promised probability, on average over held-out sets and over all images that are exchangeable with
them. Within one class that average promises little, for each class has few held-out images. The
threshold of a class is therefore chosen so that with a confidence of 0.9 the class is covered as
promised. This holds for each class by itself: of ten classes one falls short on average. A promise
for all at once needs a confidence of 1 − 0.1 / K of each (Bonferroni), and so twice the images of a
class for ten classes and four times as many for a thousand, or sets of every class.

Neither promise is about sets that look like the one at hand. So `count_sets` counts how often sets
of a size, and classes that stood alone, were right on held-out images.

`probabilities` float64 (N, K) are calibrated; `labels` int64 (N,).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import beta

from service.bundle.prediction_sets import Counted, PredictionSets
from training.data import ClassIndices

COVERAGES = ("0.90", "0.95", "0.99")
CONFIDENCE = 0.9
LEAST_SETS = 30  # of a size, or of a class alone, that are counted for themselves
MOST_ALONE = 100  # classes whose sets of one are counted: the manifest stays small

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


def count_sets(
    sets: PredictionSets, probabilities: Probabilities, labels: ClassIndices
) -> PredictionSets:
    """`sets` with counts of these images' sets, by coverage, kind and size.

    They count the images that fitted the thresholds, too, which flatters by one set in all.
    """
    if len(labels) < LEAST_SETS:
        return sets
    counted = {
        coverage: {
            kind: tuple(
                _counts(
                    members(probabilities, sets.thresholds(coverage, by_class=by_class)), labels
                )
            )
            for kind, by_class in (("marginal", False), ("by_class", True))
        }
        for coverage in sets.coverages
    }
    return replace(sets, by_size=counted)


def members(
    probabilities: Probabilities, thresholds: Float64[np.ndarray, "*classes"]
) -> Bool[np.ndarray, "rows classes"]:
    """The members of each row's set, as the service makes it: the most probable class always."""
    inside = probabilities >= thresholds
    inside[np.arange(len(inside)), probabilities.argmax(1)] |= ~inside.any(1)
    return np.asarray(inside)


def _counts(inside: Bool[np.ndarray, "rows classes"], labels: ClassIndices) -> Iterator[Counted]:
    """Sizes of at least LEAST_SETS sets, the last open above; then the classes that stood alone."""
    sizes, held = inside.sum(1), inside[np.arange(len(labels)), labels]
    yield from sets_by_size(sizes, held)
    alone = inside[sizes == 1].argmax(1)
    sets, right = np.bincount(alone), np.bincount(alone, held[sizes == 1])
    frequent = np.argsort(-sets, kind="stable")[:MOST_ALONE]
    for label in np.sort(frequent[sets[frequent] >= LEAST_SETS]).tolist():
        yield Counted(1, 1, int(sets[label]), int(right[label]), label)


def sets_by_size(
    sizes: Int64[np.ndarray, " rows"], held: Bool[np.ndarray, " rows"]
) -> Iterator[Counted]:
    """The counts of sets with these sizes, of which those that `held` their class are marked.

    Ranges of sizes have at least LEAST_SETS sets; the last range is open above.
    """
    least, sets, right = 1, 0, 0
    counts = np.bincount(sizes), np.bincount(sizes, held).astype(int)
    rest = len(sizes)
    for size, (count, hits) in enumerate(zip(*(each.tolist() for each in counts), strict=True)):
        sets, right, rest = sets + count, right + hits, rest - count
        # what is left must be enough for a range of its own, which is the last one
        if sets >= LEAST_SETS and rest >= LEAST_SETS:
            yield Counted(least, size, sets, right)
            least, sets, right = size + 1, 0, 0
    yield Counted(least, None, sets, right)
