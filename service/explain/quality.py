"""Measures of a map's own quality, which an answer carries; docs/explanations.md explains each.

Basic measures cost no forward pass of their own. Sensitivity costs four times those of the method;
`service.explain.faithfulness` has the other full ones.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from service.image.resize import InputPixels

NOISY_COPIES, NOISE = 4, 3  # NOISE in grey levels of 255

Map = Float32[np.ndarray, "H W"]


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
