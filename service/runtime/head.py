"""The head of a network: from the activation of its last layer to a class activation map.

Behind a mean of each channel and a linear head, as of most CNNs, the gradient of a logit is one
number a channel, the same for every image. It is then computed once for each class, and Grad-CAM is
a sum of products.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from service.runtime import providers
from service.runtime.graphs import Cam, Logits, Targets
from service.runtime.one_pass import GRADIENT, LOGITS, TARGET

REMEMBERED = 1_000  # classes of a linear head: 5 MB of gradients of 1,280 channels
SEED = 0  # of the activations that tell a linear head

ImageLogits = Float32[np.ndarray, " classes"]
Activation = Float32[np.ndarray, "channels height width"]
Activations = Float32[np.ndarray, "rows channels height width"]


class Head:
    """The head of one network, on one core; safe for threads."""

    def __init__(self, graph: bytes) -> None:
        """Opens the head `graph` (service.runtime.one_pass).

        Raises:
            BundleError: ONNX Runtime cannot open it.
        """
        self._session = providers.open_session("the head of cam.onnx", graph, "cpu", 1)
        layer = self._session.get_inputs()[0]
        self._layer = layer.name
        self._zeros = np.zeros((1, *layer.shape[1:]), np.float32)
        self._weights_of = lru_cache(REMEMBERED)(self._weights)
        self._is_linear = self._has_one_gradient()
        # The logits (K,) of an activation of zeros; None if the head is not linear.
        self.bias = self._run(self._zeros, np.zeros(1, np.int64))[0][0] if self._is_linear else None

    def cam(self, activation: Activation, logits: ImageLogits, target: Targets) -> Cam:
        """Grad-CAM of one image for each `target`; the image's `logits` are known."""
        rows = len(target)
        channels, height, width = shape = activation.shape
        repeated = _repeated(activation, (rows, *shape), (0, *activation.strides))
        if self._is_linear:
            weights = np.array([self._weights_of(index) for index in target.tolist()])
            gradient = _repeated(weights, (rows, *shape), (*weights.strides, 0, 0))
        else:
            gradient = self._run(repeated, target)[1]
            weights = gradient.mean((2, 3))
        cam = (weights @ activation.reshape(channels, -1)).reshape(rows, 1, height, width)
        return Cam(_repeated(logits, (rows, len(logits)), (0, 4)), cam, repeated, gradient)

    def _weights(self, index: int) -> np.ndarray:
        """The gradient (C,) of a class of a linear head, at each cell."""
        return self._run(self._zeros, np.array([index]))[1][0, :, 0, 0].copy()

    def _has_one_gradient(self) -> bool:
        """True if the first and the last class have the same gradient at every activation tried,
        at all cells.
        """
        drawn = np.random.default_rng(SEED).standard_normal((2, *self._zeros.shape[1:]), np.float32)
        tried = np.concatenate([self._zeros, drawn, 100 * np.abs(drawn)])
        classes = self._session.get_outputs()[0].shape[1]
        for index in (0, classes - 1):
            gradient = self._run(tried, np.full(len(tried), index))[1]
            if not (gradient == gradient[:1, :, :1, :1]).all():
                return False
        return True

    def _run(self, activation: Activations, target: Targets) -> tuple[Logits, Activations]:
        logits, gradient = self._session.run(
            [LOGITS, GRADIENT], {self._layer: activation, TARGET: target}
        )
        return logits, gradient


def _repeated(values: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """A view of float32 `values`, repeated along the axes of stride 0."""
    # np.broadcast_to takes four times as long, and three of them a tenth of a map's time.
    return np.ndarray(shape, np.float32, np.ascontiguousarray(values), strides=strides)
