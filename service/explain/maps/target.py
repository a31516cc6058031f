"""The score that a map explains: the logit of a class, or the difference of two (cat − dog)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, short
from service.predictions import find_class
from service.runtime.graphs import Logits, Targets


@dataclass(frozen=True)
class Target:
    """The score logit[index], or logit[index] − logit[against]; both are class indices."""

    index: int
    against: int | None = None

    @property
    def rows(self) -> Targets:
        """The classes that need a gradient: one, or two to be subtracted."""
        return np.array(
            [self.index] if self.against is None else [self.index, self.against], np.int64
        )

    def score(self, logits: Logits) -> Float32[np.ndarray, " rows"]:
        """The score of each row of logits (N, K)."""
        return (
            logits[:, self.index]
            if self.against is None
            else logits[:, self.index] - logits[:, self.against]
        )


def find_target(given: Any, manifest: Manifest) -> Target:
    """Reads a target: a label, an index, or two of them separated by a comma.

    Raises:
        InvalidParameter: there is no such class, a class is compared with itself, or the classes do
            not exclude each other.
    """
    text = str(given)
    # A label may hold a comma itself.
    if "," not in text or text in manifest.classes_of:
        return Target(find_class(text, manifest))
    if manifest.is_multi_label:
        raise InvalidParameter(
            f"target is {short(text)}, one class rather than another, but an image may have both: "
            "name one class"
        )
    first, second = (find_class(part.strip(), manifest) for part in text.split(",", 1))
    if first == second:
        raise InvalidParameter(
            f"target is {short(text)}, a class compared with itself: name two different ones"
        )
    return Target(first, second)


def ranking(
    logits: Float32[np.ndarray, " classes"], manifest: Manifest
) -> Float[np.ndarray, " classes"]:
    """A value for each class: the predicted class has the largest.

    These are the logits. The classes of a multi-label model are calibrated each for itself, which
    may change their order: so these are its probabilities.
    """
    return manifest.calibration.probabilities(logits) if manifest.is_multi_label else logits


def rival_of(target: Target, ranked: Float[np.ndarray, " classes"]) -> Target | None:
    """The most probable other class, for a map that should differ; None for a difference."""
    if target.against is not None:
        return None
    others = ranked.copy()
    others[target.index] = -np.inf
    return Target(int(others.argmax()))
