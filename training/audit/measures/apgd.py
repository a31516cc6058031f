"""APGD: gradient ascent within a radius, with momentum and a step that halves by itself.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv 2003.01690, Algorithm 1. Two things differ from the paper:

- The network sees the rounded image at every step, and the slope there moves the unrounded one. So
  the loss, and the judgement that an image is broken, are those of an image that can be sent.
- The loss is the margin itself. The paper divides it by a difference of logits, for losses that
  saturate; a difference of logits does not.

Values are grey levels, 0…255, float32 (rows, 3, H, W) where they are not rounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from service.runtime.engine import Engine
from training.data import ClassIndices, Pixels

STEPS = 30
MOMENTUM = 0.75  # the share of a step; the rest is the step before
LEAST_RISES = 0.75  # the share of steps that must raise the loss, or the step is halved
FIRST_SHARE, SHARES_SHRINK, LEAST_SHARE = 0.22, 0.03, 0.06  # of all steps, between two checks

Levels = Float32[np.ndarray, "rows 3 H W"]
Numbers = Float32[np.ndarray, " rows"]


@dataclass(frozen=True)
class Start:
    """A run of APGD.

    `rival`: None raises the largest other logit, whichever that is at a step; a number raises the
    logit of one class throughout, the likeliest other class of the image at first if it is 0, the
    next likely one if it is 1. `random`: the run starts at a random place within the radius, else
    at the image itself.
    """

    rival: int | None = None
    random: bool = True


# The start at the image breaks most; the others find some of what it leaves.
STARTS = (Start(random=False), *(Start(rival) for rival in (1, 2, 3, 4)), Start())


class Slope(NamedTuple):
    """The `margin` of each row, positive where it is misclassified, and its `slope` by x."""

    margin: Numbers
    slope: Levels
    broken: Bool[np.ndarray, " rows"]


class Slopes:
    """The margins of images with `labels`, against each one's rival or its largest other logit."""

    def __init__(
        self, engine: Engine, labels: ClassIndices, rivals: ClassIndices | None = None
    ) -> None:
        self._engine, self._labels, self._rivals = engine, labels, rivals

    def at(self, pixels: Pixels, rows: ClassIndices | None = None) -> Slope:
        """Margin and slope at `pixels`, which are images of those `rows` (default: of all).

        The slope is that of normalised values, a positive factor a channel away from that of grey
        levels: sign steps need no more.
        """
        x = self._engine.normalise(pixels)
        rows = np.arange(len(pixels)) if rows is None else rows
        each, labels = np.arange(len(pixels)), self._labels[rows]
        own = self._engine.gradient(x, labels)
        others = own.logits.copy()
        others[each, labels] = -np.inf
        rivals = others.argmax(1) if self._rivals is None else self._rivals[rows]
        logits = own.logits[each, labels]
        return Slope(
            own.logits[each, rivals] - logits,
            self._engine.gradient(x, rivals).gradient - own.gradient,
            others.max(1) > logits,
        )


def ascend(
    engine: Engine,
    pixels: Pixels,
    labels: ClassIndices,
    radius: int,
    start: Start,
    rng: np.random.Generator,
    steps: int = STEPS,
) -> Pixels:
    """The images that break, each at the first step that breaks it; of others the best found."""
    if not len(pixels):
        return pixels.copy()
    slopes = Slopes(engine, labels, _rivals(engine, pixels, labels, start))
    image = np.moveaxis(pixels, -1, 1).astype(np.float32)
    # whole levels, so that rounding stays within them
    low, high = (image - radius).clip(0, 255), (image + radius).clip(0, 255)
    x = image
    if start.random:
        x = (image + rng.uniform(-radius, radius, image.shape).astype(np.float32)).clip(low, high)
    run = Run(x, slopes.at(rounded(x)), radius)
    checks = set(checkpoints(steps))
    for step in range(steps):
        rows = np.flatnonzero(~run.broken)
        if not len(rows):
            break
        run.move(rows, low[rows], high[rows], 1.0 if step == 0 else MOMENTUM)
        run.see(rows, slopes.at(rounded(run.x[rows]), rows))
        if step + 1 in checks:
            run.check()
    return rounded(run.best)


def checkpoints(steps: int) -> Iterator[int]:
    """The steps after which the step size is looked at, at growing frequency."""
    before, share = 0.0, FIRST_SHARE
    # 1e-9: an error of float64 must not cost a whole step
    while (step := int(np.ceil(share * steps - 1e-9))) <= steps:
        yield step
        before, share = share, share + max(share - before - SHARES_SHRINK, LEAST_SHARE)


def rounded(x: Levels) -> Pixels:
    """`x` as 8-bit pixels, channels last."""
    return np.ascontiguousarray(np.moveaxis(np.rint(x), 1, -1).astype(np.uint8))


def _rivals(
    engine: Engine, pixels: Pixels, labels: ClassIndices, start: Start
) -> ClassIndices | None:
    """The class that each image is to be taken for; None: any."""
    if start.rival is None:
        return None
    logits = engine.predict(pixels).logits.copy()
    logits[np.arange(len(labels)), labels] = np.inf
    ranked = (-logits).argsort(1, kind="stable")
    # of fewer classes the last one
    return np.asarray(ranked[:, min(1 + start.rival, logits.shape[1] - 1)])


class Run:
    """Where each row is: `x`, the slope there, its step size, and the best place so far."""

    def __init__(self, x: Levels, seen: Slope, radius: int) -> None:
        self.x, self.before = x.copy(), x.copy()
        self.margin, self.slope = seen.margin.copy(), seen.slope.copy()
        self.best, self.best_margin = x.copy(), seen.margin.copy()
        self.best_slope = seen.slope.copy()
        self.broken = seen.broken.copy()
        self.step_size = np.full(len(x), 2.0 * radius, np.float32)
        self._steps, self._rises = 0, np.zeros(len(x), int)
        self._halved, self._margin_at_check = np.ones(len(x), bool), seen.margin.copy()

    def move(self, rows: ClassIndices, low: Levels, high: Levels, share: float) -> None:
        """One step of `rows`: `share` of it up the slope, and the rest as the step before."""
        x, size = self.x[rows], self.step_size[rows, None, None, None]
        up = (x + size * np.sign(self.slope[rows])).clip(low, high)
        moved = x + np.float32(share) * (up - x) + np.float32(1 - share) * (x - self.before[rows])
        self.before[rows], self.x[rows] = x, moved.clip(low, high)

    def see(self, rows: ClassIndices, seen: Slope) -> None:
        """Notes what the network says of `rows` where they are now."""
        self._rises[rows] += seen.margin > self.margin[rows]
        self.margin[rows], self.slope[rows], self.broken[rows] = seen
        # the image that broke is kept, also if another class than the rival broke it
        better = rows[seen.broken | (seen.margin > self.best_margin[rows])]
        self.best[better], self.best_margin[better] = self.x[better], self.margin[better]
        self.best_slope[better] = self.slope[better]
        self._steps += 1

    def check(self) -> None:
        """Halves the step of rows that hardly rise or stand still; they go on from their best."""
        rarely = self._rises < LEAST_RISES * self._steps
        still = ~self._halved & (self.best_margin == self._margin_at_check)
        halve = rarely | still
        self.step_size[halve] /= 2
        self.x[halve], self.slope[halve] = self.best[halve], self.best_slope[halve]
        self.margin[halve] = self.best_margin[halve]
        self._halved, self._margin_at_check = halve, self.best_margin.copy()
        self._steps, self._rises = 0, np.zeros(len(self.x), int)
