"""Maps from random samples, drawn in rounds until the two halves of the samples agree.

The halves are drawn alike and independently. The cosine of their maps tells how far the map of
another seed would differ, at no pass of its own.
"""

from collections.abc import Callable
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


def agreement(first: Map, second: Map) -> float:
    """The cosine to expect of two maps of all samples, from the maps of either half, −1…1.

    Where a map is a truth and independent noise, twice the samples halve the variance of the noise:
    2c / (1 + c) of the cosine c of halves (Spearman 1910, Brown 1910).
    """
    halves = cosine(first, second)
    return 2 * halves / (1 + halves) if halves > 0 else halves


def until_agreed(
    draw: Callable[[int, int], tuple[E, E]],
    map_of: Callable[[E], Map],
    samples: int,
    most: int,
    has_time_for: Callable[[int], bool],
) -> Sampled[E]:
    """Doubles the samples until the agreement is good, there would be over `most`, or time is up.

    `draw(first, count)` gives the evidence of the samples from `first` on, in two halves;
    `has_time_for(count)` is true if so many more fit the deadline. Samples that did not come to an
    end before it are left out.
    """
    halves = draw(0, samples)
    while True:
        agreed = agreement(map_of(halves[0]), map_of(halves[1]))
        if agreed >= GOOD_AGREEMENT or 2 * samples > most or not has_time_for(samples):
            break
        try:
            more = draw(samples, samples)
        except DeadlineExceeded:
            break
        halves = halves[0] + more[0], halves[1] + more[1]
        samples *= 2
    return Sampled(halves[0] + halves[1], agreed, samples)
