"""Adversarial attacks through gradient.onnx, within a radius of every pixel's value.

The loss is the margin logit(truth) − largest other logit, which sign steps lower: one step (FGSM:
Goodfellow, Shlens, Szegedy, arXiv 1412.6572), or many that are projected into the radius (PGD:
Madry et al., arXiv 1706.06083). Pixels and radii are in 0…1: 8/255 for example.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from service.runtime.engine import Engine
from training.data import ClassIndices, Pixels

LEVELS = 255

Planes = Float32[np.ndarray, "rows 3 H W"]


@dataclass(frozen=True)
class Attack:
    """An attack of `steps` sign steps of `stride` radii each.

    `random`: it starts at a random place within the radius, else at the image.
    """

    name: str
    steps: int
    stride: float
    random: bool = True


FGSM = Attack("fgsm", 1, 1.0, random=False)
ATTACKS = (FGSM, Attack("pgd20", 20, 0.125), Attack("pgd50", 50, 0.05))
RADII = (1, 2, 4, 8)  # of 255


def robustness(
    engine: Engine, pixels: Pixels, labels: ClassIndices, seed: int
) -> Mapping[str, Any]:
    """The accuracy on attacked images, by attack and radius in levels of 255."""
    clean = engine.predict(pixels).logits.argmax(1) == labels
    accuracy: dict[str, dict[str, float]] = {}
    for attack in ATTACKS:
        accuracy[attack.name] = {}
        for radius in RADII:
            # a misclassified image needs no attack
            rows = np.flatnonzero(clean)
            attacked = attacked_by(
                attack, engine, pixels[rows], labels[rows], radius / LEVELS, seed
            )
            correct = engine.predict(attacked).logits.argmax(1) == labels[rows]
            accuracy[attack.name][str(radius)] = float(correct.sum() / len(labels))
    return {
        "pictures": len(labels),
        "clean": float(clean.mean()),
        "radius_levels": list(RADII),
        "accuracy": accuracy,
    }


def attacked_by(
    attack: Attack, engine: Engine, pixels: Pixels, labels: ClassIndices, radius: float, seed: int
) -> Pixels:
    """The attacked images; no value of them changes by more than `radius`."""
    start = np.moveaxis(pixels, -1, 1).astype(np.float32) / LEVELS
    rng = np.random.default_rng(seed)
    noise = (
        rng.uniform(-radius, radius, start.shape).astype(np.float32)
        if attack.random
        else np.zeros_like(start)
    )
    x, open_rows = np.clip(start + noise, 0, 1), np.arange(len(start))
    for _ in range(attack.steps):
        slope, correct = _margin_slope(engine, x[open_rows], labels[open_rows])
        # an attack on an image ends when the image is misclassified
        open_rows, slope = open_rows[correct], slope[correct]
        if not len(open_rows):
            break
        stepped = x[open_rows] - np.float32(attack.stride * radius) * np.sign(slope)
        x[open_rows] = np.clip(
            np.clip(stepped, start[open_rows] - radius, start[open_rows] + radius), 0, 1
        )
    return levels(x, start, radius)


def levels(x: Planes, start: Planes, radius: float) -> Pixels:
    """`x` as 8-bit pixels, as served images have them.

    Values are rounded towards `start` where rounding would leave the radius.
    """
    # 1e-3 levels: an error of float32 must not cost a whole level
    low, high = (
        np.ceil((start - radius) * LEVELS - 1e-3),
        np.floor((start + radius) * LEVELS + 1e-3),
    )
    rounded = np.clip(np.clip(np.rint(x * LEVELS), low, high), 0, LEVELS)
    return np.ascontiguousarray(np.moveaxis(rounded, 1, -1).astype(np.uint8))


def _margin_slope(
    engine: Engine, x: Planes, labels: ClassIndices
) -> tuple[Planes, Bool[np.ndarray, " rows"]]:
    """The slope of each row's margin, and the rows that are still classified correctly.

    The slope is that of normalised values, a positive factor a channel away from that of pixels:
    sign steps need no more.
    """
    mean, std = (
        np.asarray(values, np.float32).reshape(1, 3, 1, 1)
        for values in (engine.manifest.input.mean, engine.manifest.input.std)
    )
    normalised = (x - mean) / std
    own = engine.gradient(normalised, labels)
    others = own.logits.copy()
    others[np.arange(len(x)), labels] = -np.inf
    rival = others.argmax(1)
    correct = own.logits[np.arange(len(x)), labels] > others.max(1)
    return own.gradient - engine.gradient(normalised, rival).gradient, correct
