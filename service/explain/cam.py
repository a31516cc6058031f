"""Methods made of the activation of one layer: numpy over cam.onnx."""

import numpy as np
from jaxtyping import Float32
from PIL import Image

from service.engine import Batch, Engine, Targets


def grad_cam(engine: Engine, batch: Batch, target: Targets) -> Float32[np.ndarray, "rows size size"]:
    """Each channel of the layer weighed by its mean gradient. Selvaraju et al., "Grad-CAM", arXiv 1610.02391.

    Signed: the rectifier of the paper is left to who looks at the map (the overlay shows the positive part). Scaled bilinearly from
    the layer's (h, w) to the input's (S, S).
    """
    cam = engine.cam(engine.normalise(batch), target).cam
    return np.stack([scaled(row[0], batch.shape[1]) for row in cam])


def scaled(values: Float32[np.ndarray, "height width"], size: int) -> Float32[np.ndarray, "size size"]:
    """`values` interpolated bilinearly to (size, size)."""
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))
