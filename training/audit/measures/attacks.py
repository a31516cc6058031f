"""How little it takes to change the model's mind: attacks through gradient.onnx, within a radius of every pixel's value.

The loss is the margin logit(truth) − largest other logit, which sign steps lower (FGSM: Goodfellow, Shlens, Szegedy, arXiv 1412.6572, one step;
PGD: Madry et al., arXiv 1706.06083, many, projected into the radius). Pixels are in 0…1, radii too: 8/255 for example. An image is done with
when it is misclassified. Served images have 8 bits, so the attacked ones are rounded before they are judged by predict.onnx.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from service.runtime.engine import Engine

LEVELS = 255

Pixels = UInt8[np.ndarray, "rows size size 3"]
Labels = Int64[np.ndarray, " rows"]
Planes = Float32[np.ndarray, "rows 3 size size"]


@dataclass(frozen=True)
class Attack:
    """`steps` sign steps of `stride` radii each; `random` begins somewhere within the radius."""

    name: str
    steps: int
    stride: float
    random: bool = True


FGSM = Attack("fgsm", 1, 1.0, random=False)
ATTACKS = (FGSM, Attack("pgd20", 20, 0.125), Attack("pgd50", 50, 0.05))
RADII = (1, 2, 4, 8)  # of 255


def robustness(engine: Engine, pixels: Pixels, labels: Labels, seed: int) -> Mapping[str, Any]:
    """By attack and radius, in levels of 255: the accuracy that is left."""
    clean = engine.predict(pixels).logits.argmax(1) == labels
    left: dict[str, dict[str, float]] = {}
    for attack in ATTACKS:
        left[attack.name] = {}
        for radius in RADII:
            rows = np.flatnonzero(clean)
            attacked = attacked_by(
                attack, engine, pixels[rows], labels[rows], radius / LEVELS, seed
            )
            stands = engine.predict(attacked).logits.argmax(1) == labels[rows]
            left[attack.name][str(radius)] = float(stands.sum() / len(labels))
    return {
        "pictures": len(labels),
        "clean": float(clean.mean()),
        "radius_levels": list(RADII),
        "accuracy": left,
    }


def attacked_by(
    attack: Attack, engine: Engine, pixels: Pixels, labels: Labels, radius: float, seed: int
) -> Pixels:
    """The images, none of whose values is changed by more than `radius`."""
    start = np.moveaxis(pixels, -1, 1).astype(np.float32) / LEVELS
    rng = np.random.default_rng(seed)
    noise = (
        rng.uniform(-radius, radius, start.shape).astype(np.float32)
        if attack.random
        else np.zeros_like(start)
    )
    x, standing = np.clip(start + noise, 0, 1), np.arange(len(start))
    for _ in range(attack.steps):
        slope, stands = _margin_slope(engine, x[standing], labels[standing])
        standing, slope = standing[stands], slope[stands]
        if not len(standing):
            break
        stepped = x[standing] - np.float32(attack.stride * radius) * np.sign(slope)
        x[standing] = np.clip(
            np.clip(stepped, start[standing] - radius, start[standing] + radius), 0, 1
        )
    return levels(x, start, radius)


def levels(x: Planes, start: Planes, radius: float) -> Pixels:
    """As 8-bit pixels, rounded towards the image where rounding would leave the radius."""
    low, high = (
        np.ceil((start - radius) * LEVELS - 1e-3),
        np.floor((start + radius) * LEVELS + 1e-3),
    )
    rounded = np.clip(np.clip(np.rint(x * LEVELS), low, high), 0, LEVELS)
    return np.ascontiguousarray(np.moveaxis(rounded, 1, -1).astype(np.uint8))


def _margin_slope(engine: Engine, x: Planes, labels: Labels) -> tuple[Planes, np.ndarray]:
    """The slope of the margin of each row, up to a factor a channel above 0, and whether the row is still classified as its label."""
    mean, std = (
        np.asarray(values, np.float32).reshape(1, 3, 1, 1)
        for values in (engine.manifest.input.mean, engine.manifest.input.std)
    )
    normalised = (x - mean) / std
    own = engine.gradient(normalised, labels)
    others = own.logits.copy()
    others[np.arange(len(x)), labels] = -np.inf
    rival = others.argmax(1)
    stands = own.logits[np.arange(len(x)), labels] > others.max(1)
    return own.gradient - engine.gradient(normalised, rival).gradient, stands
