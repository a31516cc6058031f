"""Measures of a map's own quality, which an answer carries; docs/explanations.md explains each.

Basic measures cost no forward pass of their own. Full ones cost about 170, and four times those of
the method.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from service.explain.maps.baselines import baseline_pixels
from service.explain.maps.segments import Segments, count, grid
from service.image.resize import InputPixels
from service.runtime.engine import Engine

# Blocks a side of the image. Single pixels would be noise to the network rather than a loss.
BLOCKS = 8
LEVELS = 17  # shares of the blocks that are tried, from none to all
RANDOM_ORDERS = 4
NOISY_COPIES, NOISE = 4, 3  # NOISE in grey levels of 255
# Shares of the spread of the logits. The maps of 12 CIFAR-10 images and 5 photographs summed to at
# least 0.9 of it, or had a value of 0.026, of a class activation map of 7 × 7 cells; of more cells
# less each. Integrated Gradients of an image in the mean colour came to 0.03, rounding to 1e-7.
NOTHING = 1e-4  # up to it a map is nothing
FULL_SUM, FULL_VALUE = 0.5, 0.005  # from it on a map is drawn in full ink
FAITHFULNESS_PASSES = 2 * LEVELS * (1 + RANDOM_ORDERS)

Map = Float32[np.ndarray, "H W"]


def spread(logits: Float32[np.ndarray, " classes"], *, sigmoid: bool) -> float:
    """The spread of the logits of an image, which the weight of its maps is compared with.

    A sigmoid compares each logit with zero. Equal logits have the spread of their rounding.
    """
    compared = np.append(logits, 0) if sigmoid else logits
    return max(float(np.ptp(compared)), float(np.abs(compared).max()) / 10)


def weight(values: Map, *, summed: bool) -> float:
    """What a map moves in all, in logits: its sum without signs, or its largest value."""
    sizes = np.abs(values)
    return float(sizes.sum(dtype=np.float64) if summed else sizes.max())


def is_nothing(values: Map, spread: float, *, summed: bool) -> bool:
    """True if a map is zero, or rounding beside the `spread` of the logits."""
    return weight(values, summed=summed) <= NOTHING * spread


def faintness(values: Map, spread: float, *, summed: bool) -> float:
    """How many times a map is below one in full ink; 1 for a map that is not."""
    full = (FULL_SUM if summed else FULL_VALUE) * spread
    return max(1.0, full / weight(values, summed=summed))


def completeness_gap(total: float, difference: float) -> float:
    """|Σ map − (f(x) − f(baseline))| / |f(x) − f(baseline)|; 0 is perfect."""
    # Bounded, since the difference may be zero.
    return abs(total - difference) / max(abs(difference), 1e-6)


class Areas(NamedTuple):
    """The mean probability of a class, 0…1, while blocks are deleted and while they are inserted.

    Petsiuk et al., "RISE", arXiv 1806.07421, on 8 × 8 blocks. Deletion replaces them by the mean
    colour, the strongest first: the mean on the way should be low. Insertion puts them onto the
    mean colour in the same order: it should be high.
    """

    deletion: float
    insertion: float


def faithfulness(
    engine: Engine, pixels: InputPixels, values: Map, index: int, seed: int = 0
) -> dict[str, float]:
    """The areas of the map `values` for class `index`, and those of random orders of blocks."""
    return beside(areas(engine, pixels, values, index), random_areas(engine, pixels, index, seed))


def beside(own: Areas, random: Areas) -> dict[str, float]:
    """The measures of an answer: areas of its own map, and those of random orders."""
    return {
        "deletion": own.deletion,
        "deletion_random": random.deletion,
        "insertion": own.insertion,
        "insertion_random": random.insertion,
    }


def areas(engine: Engine, pixels: InputPixels, values: Map, index: int) -> Areas:
    """The areas of the map `values` for class `index`."""
    cut = grid(pixels.shape[:2], BLOCKS)
    blocks = np.bincount(cut.ravel(), values.ravel()) / np.bincount(cut.ravel())
    # Stable, so that equal blocks have the same order on every machine.
    return _areas(engine, pixels, cut, np.argsort(-blocks, kind="stable"), index)


def random_areas(engine: Engine, pixels: InputPixels, index: int, seed: int = 0) -> Areas:
    """The mean areas of RANDOM_ORDERS orders: they depend on the image, and on no map of it."""
    cut, rng = grid(pixels.shape[:2], BLOCKS), np.random.default_rng(seed)
    orders = [rng.permutation(count(cut)) for _ in range(RANDOM_ORDERS)]
    each = [_areas(engine, pixels, cut, order, index) for order in orders]
    return Areas(*(float(np.mean(values)) for values in zip(*each, strict=True)))


def _areas(
    engine: Engine,
    pixels: InputPixels,
    cut: Segments,
    order: Int[np.ndarray, " blocks"],
    index: int,
) -> Areas:
    background = baseline_pixels(engine, pixels, "mean")
    return Areas(
        _area(engine, pixels, background, cut, order, index),
        _area(engine, background, pixels, cut, order, index),
    )


def _area(
    engine: Engine,
    before: InputPixels,
    after: InputPixels,
    cut: Segments,
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
