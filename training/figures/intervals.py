"""Intervals that hold a figure with a confidence of 95 %, as [low, high].

A share of independent images has Wilson's interval (JASA 1927), which stays within 0…1 and needs no
seed. Other figures have percentiles of bootstrap samples (Efron, Annals of Statistics 1979).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest, norm

from training.data import ClassIndices

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
NORMAL = float(norm.ppf(0.975))  # standard errors


def wilson(hits: int, count: int) -> list[float]:
    """The interval of the share `hits` / `count`; of no images, all of 0…1."""
    if not count:
        return [0.0, 1.0]
    ends = binomtest(hits, count).proportion_ci(method="wilson")
    return [float(ends.low), float(ends.high)]


def wilson_of(share: float, count: int) -> list[float]:
    """The interval of a `share` of `count` images."""
    return wilson(round(share * count), count)


def bootstrap(figure: Callable[[ClassIndices], float], rows: int, seed: int) -> list[float]:
    """The interval of `figure`, a function of row numbers, over samples of `rows` rows."""
    rng = np.random.default_rng(seed)
    values: Float64[np.ndarray, " resamples"] = np.array(
        [figure(rng.integers(rows, size=rows)) for _ in range(RESAMPLES)]
    )
    return [float(end) for end in np.percentile(values, PERCENTILES)]
