"""Maps that no network made, which a map of a network has to beat: a blob and the image's edges.

Images are uint8 (H, W, 3), maps float32 (H, W), never negative, as large as the image.
"""

import numpy as np
from jaxtyping import Float32, Float64

from service.image.resize import InputPixels

BLOB = 0.25  # its standard deviation, as a share of the shorter side

Map = Float32[np.ndarray, "H W"]


def blob(pixels: InputPixels) -> Map:
    """A Gaussian at the centre, the same for each image of a size."""
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    squares = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    spread = BLOB * min(height, width)
    return np.asarray(np.exp(-squares / (2 * spread**2)), np.float32)


def edges(pixels: InputPixels) -> Map:
    """The length of the brightness's gradient by Sobel's filters; the image is mirrored outside."""
    grey = np.pad(pixels.mean(axis=2), 1, "symmetric")
    return np.asarray(np.hypot(_sobel(grey), _sobel(grey.T).T), np.float32)


def _sobel(padded: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "H W"]:
    """The slope downwards, smoothed across; without the border of `padded`."""
    slope = padded[2:] - padded[:-2]
    return np.asarray(slope[:, :-2] + 2 * slope[:, 1:-1] + slope[:, 2:])
