"""Global importance: the accuracy lost when images lack a channel, a frequency band or a region."""

from collections.abc import Iterator, Mapping
from itertools import pairwise, product

import numpy as np
from jaxtyping import Float64

from service.runtime.engine import Engine
from training.data import ClassIndices, Pixels

CELLS = 4  # regions a side
# ends of the bands, as shares of the highest frequency along an axis
BANDS = (0.0, 0.125, 0.25, 0.5, 1.0)


def importance(
    engine: Engine, pixels: Pixels, labels: ClassIndices
) -> Mapping[str, Mapping[str, float]]:
    """The accuracy on whole images minus that on images without a part, by kind and part."""
    mean = pixels.mean((0, 1, 2))

    def accuracy(changed: np.ndarray) -> float:
        values = np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
        return float((engine.predict(values).logits.argmax(1) == labels).mean())

    whole = accuracy(pixels)
    kinds: Mapping[str, Iterator[tuple[str, np.ndarray]]] = {
        "channels": (
            (name, _without_channel(pixels, channel, mean)) for channel, name in enumerate("RGB")
        ),
        "frequencies": (
            (f"{low:g}–{high:g}", _without_band(pixels, low, high)) for low, high in pairwise(BANDS)
        ),
        "regions": _without_regions(pixels, mean),
    }
    return {
        kind: {name: whole - accuracy(changed) for name, changed in parts}
        for kind, parts in kinds.items()
    }


def _without_regions(
    pixels: Pixels, mean: Float64[np.ndarray, " 3"]
) -> Iterator[tuple[str, np.ndarray]]:
    for row, column in product(range(CELLS), repeat=2):
        yield f"row {row + 1}, column {column + 1}", _without_region(pixels, row, column, mean)


def _without_channel(pixels: Pixels, channel: int, mean: Float64[np.ndarray, " 3"]) -> np.ndarray:
    changed = pixels.astype(np.float32)
    changed[..., channel] = mean[channel]
    return changed


def _without_band(pixels: Pixels, low: float, high: float) -> np.ndarray:
    """Removes frequencies above `low` and up to `high`, in shares of Nyquist's.

    The mean has frequency 0 and stays.
    """
    size = pixels.shape[1]
    along = np.abs(np.fft.fftfreq(size)) * 2
    frequency = np.maximum(along[:, None], along[None, : size // 2 + 1])
    spectrum = np.fft.rfft2(pixels, axes=(1, 2))
    spectrum[:, (frequency > low) & (frequency <= high)] = 0
    return np.asarray(np.fft.irfft2(spectrum, s=(size, size), axes=(1, 2)))


def _without_region(
    pixels: Pixels, row: int, column: int, mean: Float64[np.ndarray, " 3"]
) -> np.ndarray:
    ends = np.linspace(0, pixels.shape[1], CELLS + 1).astype(int)
    changed = pixels.astype(np.float32)
    changed[:, ends[row] : ends[row + 1], ends[column] : ends[column + 1]] = mean
    return changed
