"""Methods made of the activation A of one layer and the gradient g of the target's logit there: numpy over cam.onnx.

`batch` uint8 (N, S, S, 3), `target` int64 (N,); maps float32 (N, S, S), scaled bilinearly from the layer's (h, w).
"""

import numpy as np
from jaxtyping import Float32
from PIL import Image

from service.runtime.engine import Engine
from service.runtime.graphs import Batch, Cam, Targets

Maps = Float32[np.ndarray, "rows size size"]
Cells = Float32[np.ndarray, "rows height width"]


def grad_cam(engine: Engine, batch: Batch, target: Targets) -> Maps:
    """Σ_c mean(g_c) · A_c. Selvaraju et al., "Grad-CAM", arXiv 1610.02391.

    Signed: the rectifier of the paper is left to who looks at the map (the overlay shows the positive part).
    """
    return _scaled(_run(engine, batch, target).cam[:, 0], batch.shape[1])


def grad_cam_plus_plus(engine: Engine, batch: Batch, target: Targets) -> Maps:
    """Σ_c w_c · A_c, w_c = Σ relu(g_c) · α_c, α = g² / (2g² + g³ Σ A): better where the class shows several times.

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063, for an exponential score, whose higher derivatives are powers of g.
    """
    cam = _run(engine, batch, target)
    square = cam.activation_gradient**2
    below = 2 * square + cam.activation_gradient**3 * cam.activation.sum((2, 3), keepdims=True)
    alpha = np.divide(square, below, out=np.zeros_like(square), where=below != 0)
    weights = (alpha * np.maximum(cam.activation_gradient, 0)).sum((2, 3), keepdims=True)
    return _scaled((weights * cam.activation).sum(1), batch.shape[1])


def layer_cam(engine: Engine, batch: Batch, target: Targets) -> Maps:
    """Σ_c relu(g_c) · A_c, pixel by pixel: finer than Grad-CAM. Jiang et al., "LayerCAM", IEEE TIP 2021."""
    cam = _run(engine, batch, target)
    return _scaled((np.maximum(cam.activation_gradient, 0) * cam.activation).sum(1), batch.shape[1])


def _run(engine: Engine, batch: Batch, target: Targets) -> Cam:
    return engine.cam(engine.normalise(batch), target)


def _scaled(cells: Cells, size: int) -> Maps:
    return np.stack(
        [
            np.asarray(Image.fromarray(row).resize((size, size), Image.Resampling.BILINEAR))
            for row in cells
        ]
    )
