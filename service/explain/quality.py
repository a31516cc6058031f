"""How good is this map? Measures that an answer carries; docs/explanations.md says in plain words what each means.

Basic measures cost no forward pass of their own. Full ones ask the network again, about 170 times and four times the method's cost.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Int

from service.explain.baselines import Fitted, pixels_of
from service.explain.segments import count, grid
from service.runtime.engine import Engine

BLOCKS = 8  # a side: single pixels taken away at random fool a network more than they inform it
LEVELS = 17  # how many shares of the blocks, from none to all, are tried
RANDOM_ORDERS = 4
NOISY_COPIES, NOISE = 4, 3  # grey levels of 255
FAITHFULNESS_PASSES = 2 * LEVELS * (1 + RANDOM_ORDERS)

Map = Float32[np.ndarray, "size size"]


def completeness_gap(total: float, difference: float) -> float:
    """|Σ map − (f(x) − f(baseline))| / |f(x) − f(baseline)|; 0 is perfect."""
    return abs(total - difference) / max(abs(difference), 1e-6)


def cosine(first: Float[np.ndarray, "..."], second: Float[np.ndarray, "..."]) -> float:
    """The cosine of two maps; 0 where one is all zeros."""
    a, b = (np.asarray(values, np.float64).ravel() for values in (first, second))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else 0.0


def faithfulness(
    engine: Engine, pixels: Fitted, values: Map, index: int, seed: int = 0
) -> dict[str, float]:
    """Deletion and insertion areas (Petsiuk et al., arXiv 1806.07421) of `values`, beside those of random orders of the same image.

    The image is cut into 8 × 8 blocks. Deletion replaces them by the mean colour, the strongest first: the mean probability of class
    `index` on the way should be low. Insertion brings them back onto the mean colour: it should be high.
    """
    cut = grid(len(pixels), BLOCKS)
    blocks = np.bincount(cut.ravel(), values.ravel()) / np.bincount(cut.ravel())
    rng = np.random.default_rng(seed)
    orders = [
        np.argsort(-blocks, kind="stable"),
        *(rng.permutation(count(cut)) for _ in range(RANDOM_ORDERS)),
    ]
    ground = pixels_of(engine, pixels, "mean")
    deletion = [_area(engine, pixels, ground, cut, order, index) for order in orders]
    insertion = [_area(engine, ground, pixels, cut, order, index) for order in orders]
    return {
        "deletion": deletion[0],
        "deletion_random": float(np.mean(deletion[1:])),
        "insertion": insertion[0],
        "insertion_random": float(np.mean(insertion[1:])),
    }


def _area(
    engine: Engine,
    before: Fitted,
    after: Fitted,
    cut: np.ndarray,
    order: Int[np.ndarray, " blocks"],
    index: int,
) -> float:
    """The mean probability of class `index` as the blocks of `before` become those of `after` in `order`."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    shares = np.linspace(0, len(order), LEVELS)
    batch = np.stack([np.where((rank[cut] < share)[:, :, None], after, before) for share in shares])
    return float(
        engine.manifest.calibration.probabilities(engine.predict(batch).logits)[:, index].mean()
    )


def sensitivity(
    pixels: Fitted, values: Map, again: Callable[[Fitted], Map], seed: int = 0
) -> float:
    """The largest relative change of the map, ‖map′ − map‖ / ‖map‖, over copies of the image with up to 3 grey levels of noise.

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", arXiv 1901.09392.
    """
    rng = np.random.default_rng(seed)
    norm = float(np.linalg.norm(values))
    copies = [_noisy(pixels, rng) for _ in range(NOISY_COPIES)]
    changes = [float(np.linalg.norm(again(copy) - values)) for copy in copies]
    return max(changes) / norm if norm > 0 else 0.0


def _noisy(pixels: Fitted, rng: np.random.Generator) -> Fitted:
    noise = rng.integers(-NOISE, NOISE + 1, pixels.shape)
    return np.asarray(np.clip(pixels.astype(np.int64) + noise, 0, 255), np.uint8)
