"""What stands for "nothing to see": the data's mean colour, black, white, or the image itself under a blur."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from service.runtime.engine import Engine
from service.runtime.graphs import Batch, Logits, Rows

BASELINES = ("mean", "black", "white", "blur")
BLUR_SHARE = 1 / 8  # the radius of the blur, as a share of the image's side

Fitted = UInt8[np.ndarray, "size size 3"]


def pixels_of(engine: Engine, pixels: Fitted, baseline: str) -> Fitted:
    """The baseline as an image, uint8 (S, S, 3)."""
    if baseline == "blur":
        return np.asarray(
            Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(len(pixels) * BLUR_SHARE))
        )
    colour = {
        "black": (0, 0, 0),
        "white": (255, 255, 255),
        "mean": tuple(round(255 * m) for m in engine.manifest.input.mean),
    }[baseline]
    return np.broadcast_to(np.array(colour, np.uint8), pixels.shape).copy()


def rows_of(engine: Engine, batch: Batch, baseline: str) -> Rows:
    """The baseline of each image of `batch`, normalised; `mean` is exactly zero."""
    if baseline == "mean":
        return np.zeros(np.moveaxis(batch, -1, 1).shape, np.float32)
    return engine.normalise(np.stack([pixels_of(engine, pixels, baseline) for pixels in batch]))


def logits_of(engine: Engine, batch: Batch, baseline: str) -> Logits:
    """The logits of each image's baseline; those of `mean` are known since the start."""
    if baseline == "mean":
        return np.broadcast_to(engine.mean_logits, (len(batch), len(engine.mean_logits)))
    return engine.predict(
        np.stack([pixels_of(engine, pixels, baseline) for pixels in batch])
    ).logits
