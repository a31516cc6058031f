"""95 % intervals of what was counted, without SciPy, which the audit has for it."""

import math
from collections.abc import Sequence

NORMAL = 1.959964  # the quantile of 97.5 % of the normal distribution


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of the share `hits` / `count` (Wilson, JASA 1927); of nothing, 0…1."""
    if not count:
        return 0.0, 1.0
    share, weight = hits / count, NORMAL**2 / count
    middle = (share + weight / 2) / (1 + weight)
    half = NORMAL / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(
    mean: float, edges: Sequence[float], below: Sequence[float]
) -> tuple[float, float]:
    """The 95 % interval of a `mean` of values from 0 to the last of the `edges`, of which a
    histogram is known: `below` has the counts up to each edge.

    Each value counts as the end of its bin that is farther from the mean: the interval is rather
    too wide.
    """
    ends = [0.0, *edges]
    counts = [above - under for under, above in zip([0.0, *below], below, strict=False)]
    variance = sum(
        count * max((low - mean) ** 2, (high - mean) ** 2)
        for count, low, high in zip(counts, ends, ends[1:], strict=False)
    ) / max(1.0, below[-1])
    half = NORMAL * math.sqrt(variance / max(1.0, below[-1]))
    return max(0.0, mean - half), min(edges[-1], mean + half)
