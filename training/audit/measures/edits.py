"""Counterfactual edits: images are changed and the thing in them stays what it is.

A model that looks at the thing keeps its answer when an image is mirrored, loses its colours, or
has its border covered. A model that has learnt that ships are blue does not. Which edits a class
should survive is a question for experts of these classes: a fire engine may need its red.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from service.runtime.engine import Engine
from training.data import ClassIndices, Pixels
from training.figures.intervals import wilson

BORDER = 8  # an eighth of a side
# brightness as people see it, so that grey images keep their contrast
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def edits(engine: Engine, pixels: Pixels, labels: ClassIndices) -> Mapping[str, Any]:
    """The share of answers that change with each edit, the accuracy after it, the class most hit.

    The share is that of all images, and of those that were classified correctly.
    """
    before = engine.predict(pixels).logits.argmax(1)
    return {
        name: _edit_figures(engine.predict(edit(pixels)).logits.argmax(1), before, labels, engine)
        for name, edit in EDITS.items()
    }


def _edit_figures(
    after: ClassIndices, before: ClassIndices, labels: ClassIndices, engine: Engine
) -> Mapping[str, Any]:
    changed, correct = after != before, before == labels
    shares = {
        name: float(changed[labels == index].mean())
        for index, name in enumerate(engine.manifest.labels)
        if (labels == index).any()
    }
    return {
        "flip_rate": float(changed.mean()),
        "flip_rate_interval": wilson(int(changed.sum()), len(changed)),
        "flip_rate_of_right": float(changed[correct].mean()) if correct.any() else 0.0,
        "accuracy": float((after == labels).mean()),
        "accuracy_interval": wilson(int((after == labels).sum()), len(labels)),
        "most_hit": max(shares, key=lambda name: shares[name]),
        "by_class": shares,
    }


def grey(pixels: Pixels) -> Pixels:
    """Removes the colours."""
    # image by image: in float64 they take eight times the memory
    brightness = np.stack([np.rint(image @ GREY_WEIGHTS).astype(np.uint8) for image in pixels])
    return np.repeat(brightness[..., None], 3, axis=-1)


def hue(pixels: Pixels) -> Pixels:
    """Turns hues by a third of the circle: red becomes green, green blue, and blue red."""
    return np.ascontiguousarray(np.roll(pixels, 1, axis=-1))


def mirror(pixels: Pixels) -> Pixels:
    """Exchanges left and right."""
    return np.ascontiguousarray(pixels[:, :, ::-1])


def border(pixels: Pixels) -> Pixels:
    """Covers the border with the mean colour of the images."""
    edge = max(1, min(pixels.shape[1:3]) // BORDER)
    covered = np.broadcast_to(np.rint(pixels.mean((0, 1, 2))).astype(np.uint8), pixels.shape).copy()
    covered[:, edge:-edge, edge:-edge] = pixels[:, edge:-edge, edge:-edge]
    return covered


EDITS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "grey": grey,
    "hue": hue,
    "mirror": mirror,
    "border_covered": border,
}
