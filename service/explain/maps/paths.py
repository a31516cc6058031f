"""Integrated Gradients that stop early: paths from baselines to images, each point run once.

A round runs the new points of all paths together. A path is finer after each round where its gap
is, until it misses at most a tolerance (`service.explain.maps.quadrature`). Maps are in logits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from service.bundle import folder
from service.errors import DeadlineExceeded
from service.explain.maps import quadrature
from service.explain.maps.baselines import baseline_logits, baseline_rows
from service.explain.maps.quadrature import Cells
from service.explain.maps.target import Target
from service.explain.quality import spread
from service.runtime.engine import Engine
from service.runtime.graphs import Batch

# Of the spread of the logits: a change of the score below it is no more than that to explain.
LEAST_CHANGE = 0.01

Image = Float32[np.ndarray, "3 H W"]
Map = Float32[np.ndarray, "H W"]


class Point(NamedTuple):
    """The score of a point, its slope along the path, and the slope's share of each pixel."""

    score: float
    slope: float
    shares: Map


@dataclass(frozen=True)
class Path:
    """The straight path from `start` by `displacement`, normalised, and what is known of it.

    `begin` and `end` are the scores of `target` at its ends, `spread` that of the image's logits.
    `points` are those of the middles of `cells`, None where none has run.
    """

    start: Image
    displacement: Image
    target: Target
    begin: float
    end: float
    spread: float
    cells: Cells
    points: tuple[Point | None, ...]

    @property
    def map(self) -> Map:
        """The mean slope's share of each pixel."""
        total = np.zeros(self.start.shape[1:], np.float32)
        for width, point in zip(self.cells.widths, self._known, strict=True):
            total += np.float32(width) * point.shares
        return total

    @property
    def difference(self) -> float:
        """The change of the score along the path, that the map should sum to."""
        return self.end - self.begin

    def refined(self, tolerance: float, steps: int) -> "Path":
        """The path with its worst cells split, up to `steps` in all; itself if it is good enough.

        The gap may be `tolerance`, a share of the difference of the scores.
        """
        allowed = tolerance * max(abs(self.difference), LEAST_CHANGE * self.spread)
        gaps, most = self._gaps, (steps - len(self.cells)) // (quadrature.SPLIT - 1)
        if most < 1 or quadrature.within(gaps, allowed):
            return self
        cells, old = self.cells.split(quadrature.worst(gaps, most))
        return replace(
            self, cells=cells, points=tuple(None if at < 0 else self.points[at] for at in old)
        )

    @property
    def missing(self) -> Float64[np.ndarray, " new"]:
        """The middles that have not run."""
        return self.cells.middles[[point is None for point in self.points]]

    def with_points(self, found: Sequence[Point]) -> "Path":
        """The path with the points of the middles that were `missing`."""
        rest = iter(found)
        points = tuple(next(rest) if point is None else point for point in self.points)
        return replace(self, points=points)

    @property
    def _known(self) -> list[Point]:
        return [point for point in self.points if point is not None]

    @property
    def _gaps(self) -> Float64[np.ndarray, " cells"]:
        scores = np.array([point.score for point in self._known])
        slopes = np.array([point.slope for point in self._known])
        return self.cells.gaps(scores, slopes, self.begin, self.end)


def paths_to(
    engine: Engine, batch: Batch, targets: Sequence[Target], baseline: str, steps: int
) -> list[Path]:
    """The path to each image of `batch`, uint8 (N, H, W, 3), in few cells; nothing has run."""
    starts, ends = baseline_rows(engine, batch, baseline), engine.normalise(batch)
    # The ends of a path are no points of it, so they are predicted for the gap.
    before, after = baseline_logits(engine, batch, baseline), engine.predict(batch).logits
    cells = quadrature.equal(min(quadrature.FIRST, steps))
    return [
        Path(
            starts[row],
            ends[row] - starts[row],
            target,
            float(target.score(before[row : row + 1])[0]),
            float(target.score(after[row : row + 1])[0]),
            spread(after[row], sigmoid=engine.manifest.head == "sigmoid"),
            cells,
            (None,) * len(cells),
        )
        for row, target in enumerate(targets)
    ]


def integrate(engine: Engine, paths: Sequence[Path], tolerance: float, steps: int) -> list[Path]:
    """The paths with their points, each finer until its gap is within `tolerance`.

    None has more than `steps` points. What no longer fits the time is left out.

    Raises:
        DeadlineExceeded: there was no time for the first points.
    """
    engine.has_time_for(folder.GRADIENT, _rows(paths))  # and for no more, or it were hopeless
    done = _run(engine, paths)
    while True:
        finer = [path.refined(tolerance, steps) for path in done]
        rows = _rows(finer)
        if not rows or not engine.has_time_for(folder.GRADIENT, rows):
            return done
        try:
            done = _run(engine, finer)
        except DeadlineExceeded:
            return done  # the maps of fewer points have their gaps beside them


def _rows(paths: Sequence[Path]) -> int:
    """The rows of gradients that are missing."""
    return sum(len(path.missing) * len(path.target.rows) for path in paths)


def _run(engine: Engine, paths: Sequence[Path]) -> list[Path]:
    """The paths with all points, those that were missing run together."""
    wanted = [(path, place) for path in paths for place in path.missing]
    each = max(1, engine.most_rows // max(len(path.target.rows) for path in paths))
    found: list[Point] = []
    for first in range(0, len(wanted), each):
        found += _points(engine, wanted[first : first + each])
    rest = iter(found)
    return [path.with_points(list(islice(rest, len(path.missing)))) for path in paths]


def _points(engine: Engine, wanted: Sequence[tuple[Path, float]]) -> Iterator[Point]:
    """What is found at each place of a path; of a contrast, two rows are subtracted."""
    x = np.stack([path.start + np.float32(place) * path.displacement for path, place in wanted])
    counts = [len(path.target.rows) for path, _ in wanted]
    rows = np.concatenate([path.target.rows for path, _ in wanted])
    result = engine.gradient(np.repeat(x, counts, 0), rows)
    firsts = np.cumsum(counts) - counts
    for (path, _), row, count in zip(wanted, firsts, counts, strict=True):
        gradient = result.gradient[row]
        if count > 1:
            gradient = gradient - result.gradient[row + 1]
        shares = (gradient * path.displacement).sum(0)
        score = path.target.score(result.logits[row : row + 1])[0]
        yield Point(float(score), float(shares.sum(dtype=np.float64)), shares)
