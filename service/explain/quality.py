"""Measures of a map's own quality, which an answer carries; docs/explanations.md explains each.

Basic measures cost no forward pass of their own. Sensitivity costs four times those of the method;
`service.explain.faithfulness` has the other full ones.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from service.image.resize import InputPixels

NOISY_COPIES, NOISE = 4, 3  # NOISE in grey levels of 255
# Shares of the spread of the logits. The maps of 12 CIFAR-10 images and 5 photographs summed to at
# least 0.9 of it, or had a value of 0.026, of a class activation map of 7 × 7 cells; of more cells
# less each. Integrated Gradients of an image in the mean colour came to 0.03, rounding to 1e-7.
NOTHING = 1e-4  # up to it a map is nothing
FULL_SUM, FULL_VALUE = 0.5, 0.005  # from it on a map is drawn in full ink

Map = Float32[np.ndarray, "H W"]


def spread(logits: Float32[np.ndarray, " classes"], *, sigmoid: bool) -> float:
    """The spread of the logits of an image, which the weight of its maps is compared with.

    A sigmoid compares each logit with zero. Equal logits have the spread of their rounding.
    """
    return spreads(logits[None], sigmoid=sigmoid)[0]


def spreads(logits: Float32[np.ndarray, "images classes"], *, sigmoid: bool) -> list[float]:
    """The `spread` of the logits of each image."""
    return [
        _spread(low, high, sigmoid=sigmoid)
        for low, high in zip(logits.min(1).tolist(), logits.max(1).tolist(), strict=True)
    ]


def _spread(low: float, high: float, *, sigmoid: bool) -> float:
    if sigmoid:
        low, high = min(low, 0.0), max(high, 0.0)
    return max(high - low, high / 10, -low / 10)


def weight(values: Map, *, summed: bool) -> float:
    """What a map moves in all, in logits: its sum without signs, or its largest value."""
    sizes = np.abs(values)
    return float(sizes.sum(dtype=np.float64) if summed else sizes.max())


def is_nothing(weight: float, spread: float) -> bool:
    """True if a map of a `weight` is zero, or rounding beside the `spread` of the logits."""
    return weight <= NOTHING * spread


def faintness(weight: float, spread: float, *, summed: bool) -> float:
    """How many times a map of a `weight` is below one in full ink; 1 for a map that is not."""
    return max(1.0, (FULL_SUM if summed else FULL_VALUE) * spread / weight)


def completeness_gap(total: float, difference: float) -> float:
    """|Σ map − (f(x) − f(baseline))| / |f(x) − f(baseline)|; 0 is perfect."""
    # Bounded, since the difference may be zero.
    return abs(total - difference) / max(abs(difference), 1e-6)


def sensitivity(
    pixels: InputPixels, values: Map, explain: Callable[[InputPixels], Map], seed: int = 0
) -> float:
    """The largest relative change of the map, ‖map′ − map‖ / ‖map‖, over slightly noisy copies.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", arXiv 1901.09392, with noise
    of up to 3 grey levels.
    """
    rng = np.random.default_rng(seed)
    norm = float(np.linalg.norm(values))
    copies = [_noisy(pixels, rng) for _ in range(NOISY_COPIES)]
    changes = [float(np.linalg.norm(explain(copy) - values)) for copy in copies]
    return max(changes) / norm if norm > 0 else 0.0


def _noisy(pixels: InputPixels, rng: np.random.Generator) -> InputPixels:
    noise = rng.integers(-NOISE, NOISE + 1, pixels.shape)
    return np.asarray(np.clip(pixels.astype(np.int64) + noise, 0, 255), np.uint8)
