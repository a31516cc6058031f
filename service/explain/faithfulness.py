"""Deletion and insertion: how fast a map's order of blocks moves the score, beside opponents.

Petsiuk et al., "RISE", arXiv 1806.07421, on 8 × 8 blocks. The opponents know nothing of the
network: random orders, a centred blob, the edges of the image. What does not beat them shows
nothing of the network either. They depend on the image and the target, and on no map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from service.explain.maps.baselines import baseline_pixels
from service.explain.maps.segments import Segments, count, grid
from service.explain.maps.target import Target
from service.explain.opponents import Map, blob, edges
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Batch

# Blocks a side of the image. Single pixels would be noise to the network rather than a loss.
BLOCKS = 8
LEVELS = 17  # shares of the blocks that are tried, from none to all
RANDOM_ORDERS = 8
# Standard deviations of the random orders that a map has to be better by: of nine orders drawn
# alike, the ninth is so in one case of twenty (Student's t with 7 degrees of freedom).
SPREAD = 2.0
ROUNDING = 1e-6  # relative; a lead below it is none
NAMES = {
    "random": "random orders",
    "blob": "a centred blob",
    "edges": "the edges of the image",
}
OPPONENTS = tuple(NAMES)
# None and all of the blocks are the same for every order.
FAITHFULNESS_PASSES = 2 + 2 * (LEVELS - 2) * (1 + RANDOM_ORDERS + 2)

Unit = Literal["probability", "logit", "difference of logits"]
Side = Literal["deletion", "insertion"]
SIDES: tuple[Side, Side] = ("deletion", "insertion")


class Areas(NamedTuple):
    """The mean score of a target while blocks are deleted and while they are inserted.

    Deletion replaces them by the mean colour, the strongest first: the mean on the way should be
    low. Insertion puts them onto the mean colour in the same order: it should be high.
    """

    deletion: float
    insertion: float


class Opponents(NamedTuple):
    """The areas of the opponents: the mean and the standard deviation of random orders, and two."""

    random: Areas
    random_sd: Areas
    blob: Areas
    edges: Areas


def unit_of(target: Target, ranked: Float[np.ndarray, " classes"]) -> Unit:
    """What the areas of `target` are means of; `ranked` as `maps.target.ranking` gives it.

    A probability for the predicted class alone. That of another class is near zero whatever is
    deleted, and a contrast has none.
    """
    if target.against is not None:
        return "difference of logits"
    return "probability" if target.index == int(ranked.argmax()) else "logit"


@dataclass(frozen=True)
class Trial:
    """The score of `target`, in `unit`, as the blocks of an image go or come."""

    engine: Engine
    pixels: InputPixels
    target: Target
    unit: Unit

    def areas(self, values: Map) -> Areas:
        """The areas of the map `values`."""
        blocks = np.bincount(self._cut.ravel(), values.ravel()) / np.bincount(self._cut.ravel())
        # Stable, so that equal blocks have the same order on every machine.
        return self._areas(np.argsort(-blocks, kind="stable"))

    def opponents(self, seed: int = 0) -> Opponents:
        """The areas of the opponents; `seed` is that of the random orders."""
        rng = np.random.default_rng(seed)
        each = [self._areas(rng.permutation(count(self._cut))) for _ in range(RANDOM_ORDERS)]
        return Opponents(
            Areas(*np.mean(each, axis=0).tolist()),
            Areas(*np.std(each, axis=0, ddof=1).tolist()),
            self.areas(blob(self.pixels)),
            self.areas(edges(self.pixels)),
        )

    @cached_property
    def _cut(self) -> Segments:
        return grid(self.pixels.shape[:2], BLOCKS)

    @cached_property
    def _background(self) -> InputPixels:
        return baseline_pixels(self.engine, self.pixels, "mean")

    @cached_property
    def _ends(self) -> Float[np.ndarray, "2"]:
        """The scores of the image and of the background."""
        return self._scores(np.stack([self.pixels, self._background]))

    def _scores(self, batch: Batch) -> Float[np.ndarray, " rows"]:
        logits = self.engine.predict(batch).logits
        if self.unit == "probability":
            return self.engine.manifest.calibration.probabilities(logits)[:, self.target.index]
        return self.target.score(logits)

    def _areas(self, order: Int[np.ndarray, " blocks"]) -> Areas:
        return Areas(
            self._area(self.pixels, self._background, order),
            self._area(self._background, self.pixels, order),
        )

    def _area(
        self, before: InputPixels, after: InputPixels, order: Int[np.ndarray, " blocks"]
    ) -> float:
        """The mean score while the blocks of `before` become those of `after`."""
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        shares = np.linspace(0, len(order), LEVELS)[1:-1]
        between = [
            np.where((rank[self._cut] < share)[:, :, None], after, before) for share in shares
        ]
        scores = self._scores(np.stack(between))
        return float(np.concatenate([scores, self._ends]).mean(dtype=np.float64))


def measures(own: Areas, opponents: Opponents) -> dict[str, float]:
    """The measures of an answer by name: `deletion`, `deletion_random`, …, then `insertion`, …."""
    named = {"": own, **{f"_{name}": areas for name, areas in opponents._asdict().items()}}
    return {f"{side}{name}": getattr(each, side) for side in SIDES for name, each in named.items()}


def unbeaten(quality: Mapping[str, float], side: Side) -> tuple[str, ...]:
    """The OPPONENTS that the map of `quality` does not beat, the strongest first.

    Random orders are beaten by SPREAD of their standard deviations, the others by any lead.
    """
    # The page has the same rule (service/web/quality.js), which a test compares.
    better = -1 if side == "deletion" else 1
    own = better * quality[side]
    areas = {name: better * quality[f"{side}_{name}"] for name in OPPONENTS}
    spread = {"random": SPREAD * quality[f"{side}_random_sd"]}
    least = ROUNDING * max(1.0, abs(own))
    found = [name for name in OPPONENTS if own - areas[name] <= spread.get(name, 0.0) + least]
    return tuple(sorted(found, key=lambda name: -areas[name]))
