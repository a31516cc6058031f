"""Maps from random samples, drawn in rounds until the halves of the samples agree.

Samples come in two groups or in four, drawn alike and independently. Two groups are two halves;
four make two halves in three ways. The cosine of the maps of two halves shows how far the map of
another seed would differ, and takes no pass of its own. The mean of the three is more precise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from service.errors import DeadlineExceeded

GOOD_AGREEMENT = 0.9  # below it samples are added

Map = Float[np.ndarray, "..."]


@runtime_checkable
class Evidence(Protocol):
    """What samples have shown; the evidence of two sets of samples can be added."""

    def __add__(self, other: Any, /) -> Any: ...


E = TypeVar("E", bound=Evidence)


@dataclass(frozen=True)
class Sampled(Generic[E]):
    """The `evidence` of so many `samples`, and the `agreement` of a map with another seed's."""

    evidence: E
    agreement: float
    samples: int

    @property
    def measures(self) -> dict[str, float]:
        """The measures of an answer by name."""
        return {"agreement": self.agreement, "samples": float(self.samples)}


def cosine(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."]) -> float:
    """The cosine of two maps; 0 where one is all zeros."""
    a, b = (np.asarray(values, np.float64).ravel() for values in (first, second))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else 0.0


def agreement(first: Map, second: Map, map_of: Callable[[Map], Map] = np.asarray) -> float:
    """The cosine to expect of the maps of two seeds, from the values of either half, −1…1.

    The mean of the halves is the truth and noise of the variance of d, half of their difference.
    α · mean ± d / √2 are two such means, with the same truth and each with its own noise. `map_of`
    makes a map of values, as by absolute values. Where it changes nothing, the cosine is
    2c / (1 + c), with c that of the halves (Spearman 1910, Brown 1910).
    """
    mean, noise = (first + second) / 2, (first - second) / 2
    power = float((mean**2).sum())
    if power == 0:
        return 0.0
    alpha = math.sqrt(max(0.0, 1 - float((noise**2).sum()) / (2 * power)))
    shifted = noise / math.sqrt(2)
    return cosine(map_of(alpha * mean + shifted), map_of(alpha * mean - shifted))


def _halvings(groups: Sequence[E]) -> list[tuple[E, E]]:
    """The ways to make two halves of two or four groups."""
    first, *others = groups
    if len(others) == 1:
        return [(first, others[0])]
    b, c, d = others
    return [(first + b, c + d), (first + c, b + d), (first + d, b + c)]


def until_agreed(
    draw: Callable[[int, int], Sequence[E]],
    values_of: Callable[[E], Map],
    samples: int,
    most: int,
    has_time_for: Callable[[int], bool],
    map_of: Callable[[Map], Map] = np.asarray,
) -> Sampled[E]:
    """Doubles the samples until the agreement is good, there would be over `most`, or time is up.

    A map of zeros alone, as of an image like its baseline, is not sampled on.

    `draw(first, count)` gives the evidence of the samples from `first` on, in two or four groups,
    and `map_of(values_of(evidence))` its map; `has_time_for(count)` is true if so many more fit the
    deadline. Samples that did not come to an end before it are left out.
    """
    groups = tuple(draw(0, samples))
    while True:
        halves = [(values_of(a), values_of(b)) for a, b in _halvings(groups)]
        agreed = float(np.mean([agreement(a, b, map_of) for a, b in halves]))
        enough = agreed >= GOOD_AGREEMENT or not np.any(halves)  # or all zeros
        if enough or 2 * samples > most or not has_time_for(samples):
            break
        try:
            more = draw(samples, samples)
        except DeadlineExceeded:
            break
        groups = tuple(a + b for a, b in zip(groups, more, strict=True))
        samples *= 2
    first, *others = groups
    return Sampled(sum(others, start=first), agreed, samples)
