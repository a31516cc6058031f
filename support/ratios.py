"""Ratios of readings that were taken in interleaved rounds, and what they prove.

A round reads three servers: the new one, the old one and the old one again. The machine's noise is
how far the last two differ, which are the same. So a ratio of the first to the others counts as a
loss only beyond what nothing at all has changed by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

RESAMPLES, INTERVAL = 2_000, (2.5, 97.5)
SEED = 0


class Verdict(StrEnum):
    """What a ratio says of the new one."""

    WORSE = "worse"
    SAME = "within the margin"
    BETTER = "better"


@dataclass(frozen=True)
class Ratio:
    """A median over rounds with the ends of its 95 % interval (bootstrap over the rounds)."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        """The median of ratios > 0, one for each round."""
        logs = np.log(np.asarray(ratios, float))
        drawn = np.random.default_rng(SEED).integers(0, len(logs), (RESAMPLES, len(logs)))
        low, high = np.percentile(np.median(logs[drawn], axis=1), INTERVAL)
        return cls(*(float(np.exp(value)) for value in (np.median(logs), low, high)))

    @property
    def farthest(self) -> float:
        """How far an end of the interval lies from 1, as a share: 0.05 for 1.05 and for 1/1.05."""
        return max(self.high, 1 / self.low) - 1


@dataclass(frozen=True)
class Comparison:
    """A reading of the new server beside the old one."""

    ratio: Ratio
    itself: Ratio
    more_is_better: bool
    least_margin: float

    @property
    def margin(self) -> float:
        """The share by which the new one may be worse: what the old one differs from itself by."""
        return max(self.least_margin, self.itself.farthest)

    @property
    def verdict(self) -> Verdict:
        """A loss or a gain whose median is beyond the margin, and whose interval leaves out 1."""
        ratio = self.ratio
        grown = ratio.median > 1 + self.margin and ratio.low > 1
        shrunk = ratio.median < 1 / (1 + self.margin) and ratio.high < 1
        if not grown and not shrunk:
            return Verdict.SAME
        return Verdict.BETTER if grown == self.more_is_better else Verdict.WORSE


def compare(
    new: Sequence[float],
    old: Sequence[float],
    again: Sequence[float],
    *,
    more_is_better: bool,
    least_margin: float,
) -> Comparison:
    """The comparison of readings > 0, one for each round: `old` and `again` are of the same."""
    news, olds, agains = (np.asarray(values, float) for values in (new, old, again))
    return Comparison(
        Ratio.of((news / np.sqrt(olds * agains)).tolist()),
        Ratio.of((agains / olds).tolist()),
        more_is_better,
        least_margin,
    )
