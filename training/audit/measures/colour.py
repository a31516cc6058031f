"""Does the answer go with the colours or with the thing? Images are given the colours of others, and asked what the model says then.

Two images with different answers are taken, and the first gets the colours of the second. If the answer stays, the model went by the thing;
if it becomes that of the second, by the colours: a conflict of cues (Geirhos et al., ICLR 2019, arXiv 1811.12231). Colour *decides* where it
wins more of these conflicts than it loses; whether that could be chance is an exact binomial test, over all conflicts and for each answer
that the colours speak for, corrected for so many tests (Holm, 1979). Nothing is assumed about how colours and classes go together in the test
images, so a bias is found that they share with the training.

Colours are those of Y'CbCr (ITU-R BT.601), Cb and Cr as a complex number. Brightness is left as it is; hues are turned and saturation is scaled
so that the mean colour becomes that of the second image. So a blue thing on grey becomes a red thing on grey; a colourless image is tinted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex128, Float64, Int64, UInt8
from scipy.stats import binomtest

from service.runtime.engine import Engine

TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
GREY = 8.0  # levels of 255: a mean colour nearer to grey is no reason to turn hues, and its noise is not blown up

Pixels = UInt8[np.ndarray, "rows size size 3"]
Labels = Int64[np.ndarray, " rows"]


def conflicts(engine: Engine, pixels: Pixels, seed: int) -> Mapping[str, Any]:
    """What wins where colours and thing speak for different answers, over all images and by the answer of the colours."""
    own = engine.predict(pixels).logits.argmax(1)
    giver = np.random.default_rng(seed).permutation(len(pixels))
    apart = np.flatnonzero(own != own[giver])
    after = (
        engine.predict(recoloured(pixels[apart], pixels[giver[apart]])).logits.argmax(1)
        if len(apart)
        else apart
    )
    names = engine.manifest.labels
    return told(
        after == own[giver[apart]],
        after == own[apart],
        [names[label] for label in own[giver[apart]]],
    )


def told(
    colour: Bool[np.ndarray, " pairs"], thing: Bool[np.ndarray, " pairs"], names: list[str]
) -> Mapping[str, Any]:
    """The figures of conflicts that `colour` won, that `thing` won, or that neither did; `names` are the answers of the colours."""
    answers = np.array(names)
    groups = {name: answers == name for name in sorted(set(names))}
    found = [
        _counted(colour[rows], thing[rows])
        for rows in (np.ones(len(names), bool), *groups.values())
    ]
    for entry, p_value in zip(found, holm([entry["p_value"] for entry in found]), strict=True):
        entry["p_value"] = p_value
    return {**found[0], "by_answer": dict(zip(groups, found[1:], strict=True))}


def _counted(
    colour: Bool[np.ndarray, " pairs"], thing: Bool[np.ndarray, " pairs"]
) -> dict[str, Any]:
    """`colour` and `thing`: the shares of the pairs that each won, the first with its interval (Wilson, 95 %)."""
    won, lost, pairs = int(colour.sum()), int(thing.sum()), len(colour)
    share = binomtest(won, max(pairs, 1)).proportion_ci(method="wilson")
    return {
        "pairs": pairs,
        "colour": won / max(pairs, 1),
        "colour_interval": [float(share.low), float(share.high)],
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
    brightness, own = _split(pixels)
    _, other = _split(giver)
    mean, wanted = (colours.mean((1, 2), keepdims=True) for colours in (own, other))
    turn = (wanted * mean.conj() + GREY**2) / (np.abs(mean) ** 2 + GREY**2)
    found = (own - mean) * turn + wanted
    rgb = np.stack([brightness, found.real, found.imag], axis=-1) @ np.linalg.inv(TO_YCC).T
    return np.asarray(np.rint(np.clip(rgb, 0, 255)), np.uint8)


def _split(
    pixels: Pixels,
) -> tuple[Float64[np.ndarray, "rows size size"], Complex128[np.ndarray, "rows size size"]]:
    """Brightness Y' and colours Cb + i Cr."""
    ycc = pixels @ TO_YCC.T
    return ycc[..., 0], ycc[..., 1] + 1j * ycc[..., 2]
