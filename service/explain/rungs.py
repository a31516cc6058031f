"""Cheaper parameters of a method, a rung at a time: fewer steps or samples, fewer and larger cells.

A rung is a function of a method's parameters that gives cheaper ones, or None where fewer would be
noise. Regressions and masks keep so many samples for each unknown, so cells become fewer with them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from service.bundle.manifest import LAST
from service.explain.maps.segments import cells

Parameters = Mapping[str, Any]
Rung = Callable[[Parameters], Parameters | None]

FEWEST_STEPS = 4
# Of Integrated Gradients within a gap of 5 %: what nine in ten CIFAR-10 images stay below.
EXPECTED_STEPS, EXPECTED_GAP = 16, 0.05
FEWEST_COALITIONS = 64
SAMPLES_A_CELL = 4  # a regression on fewer is mostly noise
LEAST_GRID = 4  # cells a side
WIDEST_WINDOW = 0.375  # a share of the side


def none(_given: Parameters) -> Parameters | None:
    """The rung of a method without cheaper parameters."""
    return None


def expected_steps(given: Parameters) -> int:
    """The points that Integrated Gradients is expected to take; without a tolerance all."""
    steps, tolerance = int(given["steps"]), given["tolerance"]
    if tolerance == 0:
        return steps
    # Twice as many points on a smooth path miss a quarter as much.
    expected = math.ceil(EXPECTED_STEPS * math.sqrt(EXPECTED_GAP / tolerance))
    return min(steps, max(FEWEST_STEPS, expected))


def fewer_steps(given: Parameters) -> Parameters | None:
    """Half of the steps that are expected: their gap is measured, so they go down to four."""
    expected = expected_steps(given)
    steps = max(FEWEST_STEPS, expected // 2)
    return {**given, "steps": steps} if steps < expected else None


def fewer_samples(least: int) -> Rung:
    """Half of the samples, down to `least`."""

    def rung(given: Parameters) -> Parameters | None:
        samples = max(least, given["samples"] // 2)
        return _with_samples(given, samples) if samples < given["samples"] else None

    return rung


def fewer_coalitions(side: str) -> Rung:
    """Half of the samples, on a grid of no more cells than a quarter of them; `side` is its side.

    The segments of a mask stay, and so do twice as many samples.
    """

    def rung(given: Parameters) -> Parameters | None:
        samples = max(FEWEST_COALITIONS, given["samples"] // 2)
        if samples >= given["samples"]:
            return None
        if isinstance(given[side], np.ndarray):
            return _with_samples(given, samples) if samples >= 2 * cells(given[side]) else None
        most = math.isqrt(samples // SAMPLES_A_CELL)
        return {**_with_samples(given, samples), side: min(given[side], most)}

    return rung


def _with_samples(given: Parameters, samples: int) -> Parameters:
    """So many samples, and no doubling: what takes too long is not to take longer."""
    return {**given, "samples": samples, "max_samples": samples}


def fewer_cells(given: Parameters) -> Parameters | None:
    """Three quarters of the cells a side, down to four; the segments of a mask stay."""
    side = given["segments"]
    if isinstance(side, np.ndarray) or side <= LEAST_GRID:
        return None
    return {**given, "segments": max(LEAST_GRID, 3 * side // 4)}


def last_layer(given: Parameters) -> Parameters | None:
    """The last layer instead of an earlier one."""
    return None if given["layer"] == LAST else {**given, "layer": LAST}


def wider_steps(given: Parameters) -> Parameters | None:
    """Windows twice as far apart until they only touch, then windows twice as large."""
    window, stride = given["window"], given["stride"]
    if stride < window:
        return {**given, "stride": min(window, 2 * stride)}
    if window < WIDEST_WINDOW:
        larger = min(WIDEST_WINDOW, 2 * window)
        return {**given, "window": larger, "stride": larger}
    return None
