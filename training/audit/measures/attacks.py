"""Adversarial attacks through gradient.onnx, judged on the 8-bit images that are served.

An attack changes no value of an image by more than a radius, in grey levels of 255, and raises the
margin largest other logit − logit(truth). One step up is FGSM (Goodfellow, Shlens, Szegedy, arXiv
1412.6572); many are APGD (training/audit/measures/apgd.py). An image counts as correct only if it
outlasts every start of every attack, at its radius and at all smaller ones. That is an upper bound
of the accuracy under the best attack, for no list of attacks is complete.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from service.runtime.engine import Engine
from training.audit.measures.apgd import STARTS, Slopes, Start, ascend
from training.data import ClassIndices, Pixels
from training.figures.intervals import wilson

RADII = (1, 2, 4, 8)  # grey levels
FGSM, WORST = "fgsm", "worst_of_attacks"  # names in reports


def robustness(
    engine: Engine,
    pixels: Pixels,
    labels: ClassIndices,
    seed: int,
    radii: Sequence[int] = RADII,
    starts: Sequence[Start] = STARTS,
) -> Mapping[str, Any]:
    """The accuracy on attacked images and its interval, by attack and radius in grey levels.

    The attacks are one step of FGSM, and the worst of all `starts` for each image.
    """
    clean = np.flatnonzero(_correct(engine, pixels, labels))
    left: dict[str, dict[int, int]] = {FGSM: {}, WORST: {}}
    open_rows = clean  # a misclassified image needs no attack
    for radius in sorted(radii):
        stepped = fgsm(engine, pixels[clean], labels[clean], radius)
        left[FGSM][radius] = int(_correct(engine, stepped, labels[clean]).sum())
        # an image that is broken within a radius is broken within all larger ones
        attacked = attacked_by(engine, pixels[open_rows], labels[open_rows], radius, seed, starts)
        open_rows = open_rows[_correct(engine, attacked, labels[open_rows])]
        left[WORST][radius] = len(open_rows)
    count = len(labels)
    return {
        "pictures": count,
        "clean": len(clean) / count,
        "radius_levels": sorted(radii),
        "starts": len(starts),
        "accuracy": {
            name: {str(radius): rows / count for radius, rows in by_radius.items()}
            for name, by_radius in left.items()
        },
        "interval": {
            name: {str(radius): wilson(rows, count) for radius, rows in by_radius.items()}
            for name, by_radius in left.items()
        },
    }


def fgsm(engine: Engine, pixels: Pixels, labels: ClassIndices, radius: int) -> Pixels:
    """The images after one step of `radius` levels up the slope of the margin."""
    slope = Slopes(engine, labels).at(pixels).slope
    step = radius * np.moveaxis(np.sign(slope), 1, -1)
    return np.asarray((pixels + step).clip(0, 255), np.uint8)


def attacked_by(
    engine: Engine,
    pixels: Pixels,
    labels: ClassIndices,
    radius: int,
    seed: int,
    starts: Sequence[Start] = STARTS,
) -> Pixels:
    """The images as the first start leaves them that breaks them, else as the last one does.

    No value differs by more than `radius` levels.
    """
    attacked, open_rows = pixels.copy(), np.arange(len(pixels))
    for number, start in enumerate(starts):
        rng = np.random.default_rng((seed, radius, number))
        found = ascend(engine, pixels[open_rows], labels[open_rows], radius, start, rng)
        attacked[open_rows] = found
        open_rows = open_rows[_correct(engine, found, labels[open_rows])]
    return attacked


def _correct(engine: Engine, pixels: Pixels, labels: ClassIndices) -> Bool[np.ndarray, " rows"]:
    """The rows whose images are classified correctly, as they are served."""
    if not len(labels):
        return np.zeros(0, bool)
    return np.asarray(engine.predict(pixels).logits.argmax(1) == labels)
