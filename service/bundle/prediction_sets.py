"""Prediction sets: the thresholds of their members, and how often sets like an image's were right.

The coverage of a set is promised over all sets together. A set of one class is right more often
than that, a large one less often. So sets of each size are counted on held-out images, and those
that hold one certain class alone.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64

NORMAL = 1.959964  # 97.5 % of a normal distribution are below it

Thresholds = Float64[np.ndarray, "*classes"]


@dataclass(frozen=True)
class Counted:
    """Of `sets` prediction sets of held-out images, `held` held the true class.

    They are those of `least` to `most` classes; of any number from `least` on, if `most` is None.
    With a `label`, the index of a class, they are those that held this class alone.
    """

    least: int
    most: int | None
    sets: int
    held: int
    label: int | None = None

    @property
    def share(self) -> float:
        """The share that held the true class, 0…1."""
        return self.held / self.sets

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson, JASA 1927), within 0…1."""
        square = NORMAL**2 / self.sets
        middle = (self.share + square / 2) / (1 + square)
        half = (
            NORMAL
            / (1 + square)
            * math.sqrt(self.share * (1 - self.share) / self.sets + square / (4 * self.sets))
        )
        # of none or of all the ends are 0 and 1, which rounding misses
        return max(0.0, min(self.share, middle - half)), min(1.0, max(self.share, middle + half))


@dataclass(frozen=True)
class PredictionSets:
    """Thresholds of prediction sets, fitted on `pictures` held-out images.

    A set holds each class with a probability not below the threshold. By coverage, for example
    "0.90", `marginal` has one threshold and `by_class` one for each class, in the labels' order.
    A multi-label model has those by class alone: each covers the images that have the class.

    `by_size` has, by coverage and by kind ("marginal", "by_class"), the counts of held-out images'
    sets. Ascending sizes come first, the last of them open above; then classes that stood alone.
    """

    pictures: int
    marginal: Mapping[str, float]
    by_class: Mapping[str, tuple[float, ...]]
    by_size: Mapping[str, Mapping[str, tuple[Counted, ...]]] = field(default_factory=dict)

    @property
    def coverages(self) -> tuple[str, ...]:
        """The coverages that there are thresholds for."""
        return tuple(self.by_class)

    def thresholds(self, coverage: str, *, by_class: bool) -> Thresholds:
        """The least probability of a member: one of each class (K,), or one of all ()."""
        return self._by_class[coverage] if by_class else np.array(self.marginal[coverage])

    def like(self, size: int, first: int, coverage: str, *, by_class: bool) -> Counted | None:
        """The counts of held-out sets like one of `size` classes, of which `first` is an index.

        Those of the class alone, if there were enough; else those of the size; else None.
        """
        kind = "by_class" if by_class else "marginal"
        alone, sizes = self._counted.get((coverage, kind), ({}, ()))
        if size == 1 and first in alone:
            return alone[first]
        return next((each for each in sizes if each.most is None or size <= each.most), None)

    @cached_property
    def _by_class(self) -> Mapping[str, Thresholds]:
        return {coverage: np.array(thresholds) for coverage, thresholds in self.by_class.items()}

    @cached_property
    def _counted(self) -> Mapping[tuple[str, str], tuple[dict[int, Counted], tuple[Counted, ...]]]:
        return {
            (coverage, kind): (
                {each.label: each for each in counted if each.label is not None},
                tuple(each for each in counted if each.label is None),
            )
            for coverage, kinds in self.by_size.items()
            for kind, counted in kinds.items()
        }

    @classmethod
    def parse(
        cls,
        pictures: int,
        marginal: Mapping[str, float],
        by_class: Mapping[str, Iterable[float]],
        by_size: Mapping[str, Mapping[str, Iterable[Mapping[str, Any]]]] | None = None,
    ) -> "PredictionSets":
        """The sets of these JSON values.

        Raises:
            ValueError: counts of sets do not go together.
        """
        counted = {
            coverage: {
                kind: tuple(_counted(entry) for entry in entries) for kind, entries in kinds.items()
            }
            for coverage, kinds in (by_size or {}).items()
        }
        thresholds = {coverage: tuple(values) for coverage, values in by_class.items()}
        return cls(pictures, dict(marginal), thresholds, counted)

    def document(self) -> dict[str, Any]:
        """These sets as JSON values; older bundles, without counts, keep their text."""
        result: dict[str, Any] = {
            "pictures": self.pictures,
            "marginal": self.marginal,
            "by_class": self.by_class,
        }
        if self.by_size:
            result["by_size"] = {
                coverage: {
                    kind: [_entry(each) for each in counted] for kind, counted in kinds.items()
                }
                for coverage, kinds in self.by_size.items()
            }
        return result


def _counted(entry: Mapping[str, Any]) -> Counted:
    result = Counted(**{"most": None, **entry})
    if not 0 <= result.held <= result.sets or not result.sets:
        raise ValueError(
            f"prediction_sets.by_size has {result.held} of {result.sets} sets that held the class"
        )
    return result


def _entry(counted: Counted) -> dict[str, int]:
    values = {name: getattr(counted, name) for name in ("least", "most", "sets", "held", "label")}
    return {name: value for name, value in values.items() if value is not None}
