"""Methods made of the activation A of one layer and the gradient g of the target's logit there.

`at_layer` takes A and g from a prediction, from cam.onnx, or for an earlier layer from
gradient.onnx: `batch` uint8 (N, H, W, 3), or (1, H, W, 3) for all rows, `target` int64 (N,),
`layer` a name of the manifest's.
With `against` int64 (N,), another class of each row, the explained score is the difference of the
two logits, and g its gradient. What rectifies g then rectifies that of the difference: the
difference of two rectified maps is no map of either.

A method makes cells float32 (N, h, w) of them, which `scaled` turns into maps float32 (N, H, W),
bilinearly.

Behind a mean of each channel and a linear head, g_c is one number at all cells of the last layer.
Grad-CAM++ and LayerCAM then weigh the same channels, those with g_c > 0, and LayerCAM is Grad-CAM
without the others. They earn their names at earlier layers, where g differs from cell to cell.
"""

import numpy as np
from jaxtyping import Float32

from service.bundle.manifest import LAST
from service.explain.maps.scaling import spread
from service.runtime.engine import Engine
from service.runtime.graphs import Cam, Shared, Targets

Maps = Float32[np.ndarray, "rows H W"]
Cells = Float32[np.ndarray, "rows height width"]


def grad_cam(cam: Cam) -> Cells:
    """Σ_c mean(g_c) · A_c. Selvaraju et al., "Grad-CAM", arXiv 1610.02391."""
    # Signed, without the paper's rectifier: an overlay shows the positive part, a reader of
    # numbers gets both.
    return cam.cam[:, 0]


def grad_cam_plus_plus(cam: Cam) -> Cells:
    """Σ_c w_c · A_c, w_c = Σ relu(g_c) · α_c, α = g² / (2g² + g³ Σ A).

    Chattopadhay et al., "Grad-CAM++", arXiv 1710.11063: better where a class shows several times.
    """
    # The paper's score is the exponential of this one; its higher derivatives are powers of g.
    square = cam.activation_gradient**2
    denominator = 2 * square + cam.activation_gradient**3 * cam.activation.sum(
        (2, 3), keepdims=True
    )
    # Where g is zero, α is 0 / 0; its weight relu(g) is zero there, so any value will do.
    alpha = np.divide(square, denominator, out=np.zeros_like(square), where=denominator != 0)
    weights = (alpha * np.maximum(cam.activation_gradient, 0)).sum((2, 3), keepdims=True)
    return np.asarray((weights * cam.activation).sum(1))


def layer_cam(cam: Cam) -> Cells:
    """Σ_c relu(g_c) · A_c, cell by cell: finer than Grad-CAM.

    Jiang et al., "LayerCAM", IEEE TIP 2021.
    """
    return np.asarray((np.maximum(cam.activation_gradient, 0) * cam.activation).sum(1))


def at_layer(
    engine: Engine,
    batch: Shared,
    target: Targets,
    layer: str = LAST,
    against: Targets | None = None,
) -> Cam:
    """Activation, gradient and Grad-CAM of the score of each row; `logits` are of all classes."""
    if against is None:
        return engine.cam_of(batch, target, layer)
    # Both rows run together; Grad-CAM is linear in the gradient.
    twice = batch if len(batch) == 1 else np.concatenate([batch, batch])
    both = engine.cam_of(twice, np.concatenate([target, against]), layer)
    rows = len(target)
    return Cam(
        both.logits[:rows],
        both.cam[:rows] - both.cam[rows:],
        both.activation[:rows],
        both.activation_gradient[:rows] - both.activation_gradient[rows:],
    )


def scaled(cells: Cells, shape: tuple[int, ...]) -> Maps:
    """`cells` scaled to images of `shape` (H, W)."""
    (height, width), (rows, columns) = shape, cells.shape[1:]
    return np.asarray(spread(rows, height) @ cells @ spread(columns, width).T)
