"""Baselines, the inputs that stand for "nothing to see": mean colour, black, white, or a blur."""

import numpy as np
from PIL import Image, ImageFilter

from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Batch, Logits, Rows

BASELINES = ("mean", "black", "white", "blur")
BLUR_SHARE = 1 / 8  # the radius of the blur, as a share of the input's shorter side


def baseline_pixels(engine: Engine, pixels: InputPixels, baseline: str) -> InputPixels:
    """The baseline of an image as an image, uint8 (H, W, 3)."""
    if baseline == "blur":
        radius = min(pixels.shape[:2]) * BLUR_SHARE
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
    colour = {
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "mean": tuple(round(255 * m) for m in engine.manifest.input.mean),
    }[baseline]
    return np.broadcast_to(np.array(colour, np.uint8), pixels.shape).copy()


def baseline_rows(engine: Engine, batch: Batch, baseline: str) -> Rows:
    """The baseline of each image of `batch`, normalised: float32 (N, 3, H, W)."""
    if baseline == "mean":
        # Exactly zero: the mean as a colour would be rounded to whole grey levels.
        return np.zeros(np.moveaxis(batch, -1, 1).shape, np.float32)
    return engine.normalise(_baseline_batch(engine, batch, baseline))


def baseline_logits(engine: Engine, batch: Batch, baseline: str) -> Logits:
    """The logits of the baseline of each image of `batch`, float32 (N, K)."""
    if baseline == "mean":
        # The same for every image, so the engine computes them once.
        return np.broadcast_to(engine.mean_logits, (len(batch), len(engine.mean_logits)))
    return engine.predict(_baseline_batch(engine, batch, baseline)).logits


def _baseline_batch(engine: Engine, batch: Batch, baseline: str) -> Batch:
    return np.stack([baseline_pixels(engine, pixels, baseline) for pixels in batch])
