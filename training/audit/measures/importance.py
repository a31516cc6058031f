"""Global importance: the accuracy lost when images lack a channel, a frequency band or a region."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise, product

import numpy as np
from jaxtyping import Float64

from service.runtime.engine import Engine
from training.data import ClassIndices, Pixels
from training.data.images import in_threads
from training.figures.outputs import classes_of

CELLS = 4  # regions a side
# ends of the bands, as shares of the highest frequency along an axis
BANDS = (0.0, 0.125, 0.25, 0.5, 1.0)

Change = Callable[[Pixels], np.ndarray]


def importance(
    engine: Engine, pixels: Pixels, labels: ClassIndices
) -> Mapping[str, Mapping[str, float]]:
    """The accuracy on whole images minus that on images without a part, by kind and part."""
    # a change a core: changing an image leaves the other cores idle otherwise
    alone, kinds = engine.on_one_core(), _changes(pixels.mean((0, 1, 2)))

    def accuracy(change: Change) -> float:
        classes = classes_of(alone, len(pixels), lambda part: _rounded(change(pixels[part])))
        return float((classes == labels).mean())

    changes = [change for of_kind in kinds.values() for change in of_kind.values()]
    whole, *without = in_threads(accuracy, [lambda part: part, *changes])
    left = iter(without)
    return {kind: {name: whole - next(left) for name in of_kind} for kind, of_kind in kinds.items()}


def _changes(mean: Float64[np.ndarray, " 3"]) -> Mapping[str, Mapping[str, Change]]:
    """The changes by kind and by the part that they take away."""
    return {
        "channels": {
            name: partial(_without_channel, channel=channel, mean=mean)
            for channel, name in enumerate("RGB")
        },
        "frequencies": {
            f"{low:g}–{high:g}": partial(_without_band, low=low, high=high)
            for low, high in pairwise(BANDS)
        },
        "regions": {
            f"row {row + 1}, column {column + 1}": partial(
                _without_region, row=row, column=column, mean=mean
            )
            for row, column in product(range(CELLS), repeat=2)
        },
    }


def _rounded(values: np.ndarray) -> Pixels:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def _without_channel(pixels: Pixels, channel: int, mean: Float64[np.ndarray, " 3"]) -> np.ndarray:
    changed = pixels.astype(np.float32)
    changed[..., channel] = mean[channel]
    return changed


def _without_band(pixels: Pixels, low: float, high: float) -> np.ndarray:
    """Removes frequencies above `low` and up to `high`, in shares of Nyquist's.

    The mean has frequency 0 and stays.
    """
    height, width = pixels.shape[1:3]
    down, across = np.abs(np.fft.fftfreq(height)) * 2, np.fft.rfftfreq(width) * 2
    frequency = np.maximum(down[:, None], across[None])
    spectrum = np.fft.rfft2(pixels, axes=(1, 2))
    spectrum[:, (frequency > low) & (frequency <= high)] = 0
    return np.asarray(np.fft.irfft2(spectrum, s=(height, width), axes=(1, 2)))


def _without_region(
    pixels: Pixels, row: int, column: int, mean: Float64[np.ndarray, " 3"]
) -> np.ndarray:
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int) for side in pixels.shape[1:3])
    changed = pixels.astype(np.float32)
    changed[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
    return changed
