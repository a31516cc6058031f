"""What would the model have said if only this had been different? Edits that leave the thing in the image what it is, and how often the
answer changes with them.

A model that looks at the thing keeps its answer when an image is mirrored, loses its colours, or has its border covered; one that has
learnt that ships are blue does not. Which edits a class should survive is for the one to say who knows the classes: a fire engine may well
need its red.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from service.runtime.engine import Engine

BORDER = 8  # an eighth of a side
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Pixels = UInt8[np.ndarray, "rows size size 3"]
Labels = Int64[np.ndarray, " rows"]


def edits(engine: Engine, pixels: Pixels, labels: Labels) -> Mapping[str, Any]:
    """By edit: the share of answers that change, of all images and of those that were right, the accuracy left, and the class most hit."""
    before = engine.predict(pixels).logits.argmax(1)
    return {
        name: _told(engine.predict(edit(pixels)).logits.argmax(1), before, labels, engine)
        for name, edit in EDITS.items()
    }


def _told(after: Labels, before: Labels, labels: Labels, engine: Engine) -> Mapping[str, Any]:
    changed, right = after != before, before == labels
    shares = {
        name: float(changed[labels == index].mean())
        for index, name in enumerate(engine.manifest.labels)
        if (labels == index).any()
    }
    return {
        "flip_rate": float(changed.mean()),
        "flip_rate_of_right": float(changed[right].mean()) if right.any() else 0.0,
        "accuracy": float((after == labels).mean()),
        "most_hit": max(shares, key=lambda name: shares[name]),
        "by_class": shares,
    }


def grey(pixels: Pixels) -> Pixels:
    """Without colours."""
    return np.repeat(np.rint(pixels @ GREY_WEIGHTS)[..., None], 3, axis=-1).astype(np.uint8)


def hue(pixels: Pixels) -> Pixels:
    """Red becomes green, green blue and blue red: a third of the colour circle on."""
    return np.ascontiguousarray(np.roll(pixels, 1, axis=-1))


def mirror(pixels: Pixels) -> Pixels:
    """Left and right exchanged."""
    return np.ascontiguousarray(pixels[:, :, ::-1])


def border(pixels: Pixels) -> Pixels:
    """Its border covered with the mean colour of the images."""
    edge = max(1, pixels.shape[1] // BORDER)
    covered = np.broadcast_to(np.rint(pixels.mean((0, 1, 2))).astype(np.uint8), pixels.shape).copy()
    covered[:, edge:-edge, edge:-edge] = pixels[:, edge:-edge, edge:-edge]
    return covered


EDITS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "grey": grey,
    "hue": hue,
    "mirror": mirror,
    "border_covered": border,
}
