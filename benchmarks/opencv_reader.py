"""Runs in an environment of its own: reads images by OpenCV, one for each path on a line.

Writes a line of JSON, the shape, or null for what OpenCV does not read, then uint8 (H, W, 3), RGB.
Transparency is laid over white, 16 bits are scaled to 8, EXIF turns what OpenCV itself turns.
"""

import json
import os
import sys

import cv2
import numpy as np

os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
WHITE = 255.0


def read(path: str) -> np.ndarray | None:
    """The image at `path` as displayed, or None."""
    content = np.fromfile(path, np.uint8)
    if not content.size:
        return None
    as_stored = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if as_stored is None:
        return None
    if as_stored.ndim == 3 and as_stored.shape[2] == 4:
        return over_white(levels(as_stored))
    if as_stored.dtype == np.uint16:
        # In colour, too: read with other flags, its red and blue are sometimes exchanged.
        grey = as_stored.ndim == 2
        return rounded(levels(np.dstack([as_stored] * 3) if grey else as_stored[..., ::-1]))
    turned = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)  # which applies the orientation
    return None if turned is None else rounded(levels(turned))


def levels(pixels: np.ndarray) -> np.ndarray:
    """`pixels` in 0…255."""
    return pixels / 257.0 if pixels.dtype == np.uint16 else pixels.astype(np.float64)


def over_white(bgra: np.ndarray) -> np.ndarray:
    """RGB of BGR with transparency, over white."""
    share = bgra[..., 3:] / WHITE
    return rounded(share * bgra[..., 2::-1] + (1 - share) * WHITE)


def rounded(pixels: np.ndarray) -> np.ndarray:
    """`pixels` as whole numbers."""
    whole: np.ndarray = np.rint(np.clip(pixels, 0, WHITE)).astype(np.uint8)
    return whole


def main() -> None:
    """Answers until the end of the input."""
    for line in sys.stdin:
        try:
            pixels = read(line.rstrip("\n"))
        except cv2.error:
            pixels = None
        sys.stdout.buffer.write(
            json.dumps(None if pixels is None else pixels.shape).encode() + b"\n"
        )
        if pixels is not None:
            sys.stdout.buffer.write(pixels.tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
