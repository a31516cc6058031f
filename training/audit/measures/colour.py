"""Colour or shape: the answer to an image that gets the colours of another one.

For two images with different answers, the first gets the colours of the second. If the answer
stays, the model went by the shape; if it becomes that of the second, by the colours. This is a
conflict of cues (Geirhos et al., ICLR 2019, arXiv 1811.12231). Colour *decides* where it wins more
of these conflicts than it loses. An exact binomial test judges if that could be chance, over all
conflicts and for each answer of the colours, corrected for the number of tests (Holm, 1979). The
measurement assumes nothing about colours and classes in the test images. It therefore finds a bias
that training and test images share.

Colours are those of Y'CbCr (ITU-R BT.601), Cb and Cr as a complex number. Brightness stays. Hues
are turned and saturation is scaled until the mean colour is that of the second image: a blue thing
on grey becomes a red thing on grey, and a colourless image is tinted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex128, Float64
from scipy.stats import binomtest

from service.runtime.engine import Engine
from training.data import Pixels
from training.figures.intervals import wilson
from training.figures.outputs import classes_of

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
# Levels of 255. A mean colour nearer to grey has no hue to turn: its noise would be amplified.
GREY = 8.0


def conflicts(engine: Engine, pixels: Pixels, seed: int) -> Mapping[str, Any]:
    """The share of conflicts that colour and shape win, over all images and by answer."""
    own = engine.predict(pixels).logits.argmax(1)
    giver = np.random.default_rng(seed).permutation(len(pixels))
    differing = np.flatnonzero(own != own[giver])
    after = classes_of(
        engine,
        len(differing),
        lambda part: recoloured(pixels[differing[part]], pixels[giver[differing[part]]]),
    )
    of_colours = own[giver[differing]]
    names = engine.manifest.labels
    return conflict_figures(
        after == of_colours, after == own[differing], [names[label] for label in of_colours]
    )


def conflict_figures(
    colour: Bool[np.ndarray, " pairs"], thing: Bool[np.ndarray, " pairs"], names: list[str]
) -> Mapping[str, Any]:
    """The figures of conflicts that `colour` won, that `thing` won, or that neither won.

    `names` are the answers of the colours.
    """
    answers = np.array(names)
    groups = {name: answers == name for name in sorted(set(names))}
    figures = [
        _share_figures(colour[rows], thing[rows])
        for rows in (np.ones(len(names), bool), *groups.values())
    ]
    corrected = holm([entry["p_value"] for entry in figures])
    for entry, p_value in zip(figures, corrected, strict=True):
        entry["p_value"] = p_value
    return {**figures[0], "by_answer": dict(zip(groups, figures[1:], strict=True))}


def _share_figures(
    colour: Bool[np.ndarray, " pairs"], thing: Bool[np.ndarray, " pairs"]
) -> dict[str, Any]:
    """The shares of the pairs that each won; that of colour with its 95 % interval (Wilson)."""
    won, lost, pairs = int(colour.sum()), int(thing.sum()), len(colour)
    return {
        "pairs": pairs,
        "colour": won / max(pairs, 1),
        "colour_interval": wilson(won, pairs),
        "thing": lost / max(pairs, 1),
        "p_value": float(binomtest(won, won + lost, alternative="greater").pvalue)
        if won + lost
        else 1.0,
    }


def holm(p_values: list[float]) -> list[float]:
    """The p-values, corrected for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]


def recoloured(pixels: Pixels, giver: Pixels) -> Pixels:
    """Each image in the colours of its `giver`, as bright as before."""
    brightness, own = _brightness_and_colours(pixels)
    _, other = _brightness_and_colours(giver)
    mean, goal = (colours.mean((1, 2), keepdims=True) for colours in (own, other))
    # near grey the factor tends to 1: the colours are moved, and not turned
    turn = (goal * mean.conj() + GREY**2) / (np.abs(mean) ** 2 + GREY**2)
    moved = (own - mean) * turn + goal
    rgb = np.stack([brightness, moved.real, moved.imag], axis=-1) @ np.linalg.inv(TO_YCC).T
    return np.asarray(np.rint(np.clip(rgb, 0, 255)), np.uint8)


def _brightness_and_colours(
    pixels: Pixels,
) -> tuple[Float64[np.ndarray, "rows H W"], Complex128[np.ndarray, "rows H W"]]:
    """Y', and Cb + i Cr."""
    ycc = pixels @ TO_YCC.T
    return ycc[..., 0], ycc[..., 1] + 1j * ycc[..., 2]
