"""Measures of a map's own quality, which an answer carries; docs/explanations.md explains each.

Basic measures cost no forward pass of their own. Full ones cost about 170, and four times those of
the method.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Int

from service.explain.baselines import baseline_pixels
from service.explain.segments import count, grid
from service.image.resize import InputPixels
from service.runtime.engine import Engine

# Blocks a side of the image. Single pixels would be noise to the network rather than a loss.
BLOCKS = 8
LEVELS = 17  # shares of the blocks that are tried, from none to all
RANDOM_ORDERS = 4
NOISY_COPIES, NOISE = 4, 3  # NOISE in grey levels of 255
FAITHFULNESS_PASSES = 2 * LEVELS * (1 + RANDOM_ORDERS)

Map = Float32[np.ndarray, "H W"]


def completeness_gap(total: float, difference: float) -> float:
    """|Σ map − (f(x) − f(baseline))| / |f(x) − f(baseline)|; 0 is perfect."""
    # Bounded, since the difference may be zero.
    return abs(total - difference) / max(abs(difference), 1e-6)


def cosine(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."]) -> float:
    """The cosine of two maps; 0 where one is all zeros."""
    a, b = (np.asarray(values, np.float64).ravel() for values in (first, second))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else 0.0


def faithfulness(
    engine: Engine, pixels: InputPixels, values: Map, index: int, seed: int = 0
) -> dict[str, float]:
    """Deletion and insertion areas of the map `values`, and those of random orders of blocks.

    Petsiuk et al., "RISE", arXiv 1806.07421, on 8 × 8 blocks. Deletion replaces them by the mean
    colour, the strongest first: the mean probability of class `index` on the way should be low.
    Insertion puts them onto the mean colour in the same order: it should be high.
    """
    cut = grid(pixels.shape[:2], BLOCKS)
    blocks = np.bincount(cut.ravel(), values.ravel()) / np.bincount(cut.ravel())
    rng = np.random.default_rng(seed)
    # Stable, so that equal blocks have the same order on every machine.
    orders = [
        np.argsort(-blocks, kind="stable"),
        *(rng.permutation(count(cut)) for _ in range(RANDOM_ORDERS)),
    ]
    background = baseline_pixels(engine, pixels, "mean")
    deletion = [_area(engine, pixels, background, cut, order, index) for order in orders]
    insertion = [_area(engine, background, pixels, cut, order, index) for order in orders]
    return {
        "deletion": deletion[0],
        "deletion_random": float(np.mean(deletion[1:])),
        "insertion": insertion[0],
        "insertion_random": float(np.mean(insertion[1:])),
    }


def _area(
    engine: Engine,
    before: InputPixels,
    after: InputPixels,
    cut: np.ndarray,
    order: Int[np.ndarray, " blocks"],
    index: int,
) -> float:
    """The mean probability of `index` while the blocks of `before` become those of `after`."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    shares = np.linspace(0, len(order), LEVELS)
    batch = np.stack([np.where((rank[cut] < share)[:, :, None], after, before) for share in shares])
    return float(
        engine.manifest.calibration.probabilities(engine.predict(batch).logits)[:, index].mean()
    )


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
