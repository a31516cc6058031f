"""The head of a network: from the activation of its last layer to a class activation map.

A prediction computes that activation on its way. With it the map needs no second pass: what follows
the layer, the head, is differentiated alone. Two graphs are made of those of a bundle, with their
operators and their weights:

    explained    predict.onnx, which on request gives `activation/last` float32 (N, C, h, w), too
    head         the end of cam.onnx: an activation (N, C, h, w) and target int64 (N,) → logits
                 float32 (N, K) and, of the target's, activation_gradient float32 (N, C, h, w)

Behind a mean of each channel and a linear head, as of most CNNs, the gradient of a logit is one
number a channel, the same for every image. It is then computed once for each class, and Grad-CAM is
a sum of products.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import onnx
import onnxruntime as ort
from jaxtyping import Float32
from onnx import TensorProto, helper
from onnx.utils import Extractor

from service.runtime import providers
from service.runtime.graphs import Cam, Logits, Targets

ACTIVATION = "activation/last"
TARGET, LOGITS, GRADIENT = "target", "logits", "activation_gradient"
NAMED = "activation"  # in predict.onnx, and as an output of cam.onnx

REMEMBERED = 1_000  # classes of a linear head: 5 MB of gradients of 1,280 channels
SEED = 0  # of the activations that tell a linear head

ImageLogits = Float32[np.ndarray, " classes"]
Activation = Float32[np.ndarray, "channels height width"]
Activations = Float32[np.ndarray, "rows channels height width"]
Run = Callable[[Activations, Targets], tuple[Logits, Activations]]


def explained_graph(predict: bytes) -> bytes | None:
    """The explained graph, of the file predict.onnx; None if that names no layer."""
    model = onnx.load_model_from_string(predict)
    if not any(NAMED in node.output for node in model.graph.node):
        return None
    model.graph.node.append(helper.make_node("Identity", [NAMED], [ACTIVATION]))
    model.graph.output.append(helper.make_tensor_value_info(ACTIVATION, TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def head_graph(cam: bytes) -> bytes | None:
    """The head, of the file cam.onnx; None if the logits have another way from the image, too."""
    model = onnx.load_model_from_string(cam)
    (layer,) = (node.input[0] for node in model.graph.node if NAMED in node.output)
    (info,) = (output for output in model.graph.output if output.name == NAMED)
    described = model.graph.value_info.add()
    described.CopyFrom(info)
    described.name = layer
    head = Extractor(model).extract_model([layer, TARGET], [LOGITS, GRADIENT])
    if any("x" in node.input for node in head.graph.node):
        return None
    onnx.checker.check_model(head)
    return bytes(head.SerializeToString())


class Head:
    """The head of one network, on one core; safe for threads."""

    def __init__(self, graph: bytes) -> None:
        """Opens the head `graph`, made by `head_graph`.

        Raises:
            BundleError: ONNX Runtime cannot open it.
        """
        session = providers.open_session("the head of cam.onnx", graph, "cpu", 1)
        layer, classes = session.get_inputs()[0], session.get_outputs()[0].shape[1]
        zeros = np.zeros((1, *layer.shape[1:]), np.float32)
        # Neither refers to the head, so that the last reference to it frees all of it at once.
        self._run = partial(_run, session, layer.name)
        self._weights_of = lru_cache(REMEMBERED)(partial(_weights, self._run, zeros))
        self._is_linear = _has_one_gradient(self._run, zeros, classes)
        # The logits (K,) of an activation of zeros; None if the head is not linear.
        self.bias = self._run(zeros, np.zeros(1, np.int64))[0][0] if self._is_linear else None

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

    def cams(
        self, activations: Activations, classes: Sequence[tuple[int, ...]]
    ) -> Float32[np.ndarray, "rows each height width"]:
        """Grad-CAM of each image for each of its `classes`; of a linear head alone."""
        rows, channels, height, width = activations.shape
        every = np.array([self._weights_of(index) for each in classes for index in each])
        cams = every.reshape(rows, -1, channels) @ activations.reshape(rows, channels, -1)
        return np.asarray(cams.reshape(rows, -1, height, width))


def _run(
    session: ort.InferenceSession, layer: str, activation: Activations, target: Targets
) -> tuple[Logits, Activations]:
    logits, gradient = session.run([LOGITS, GRADIENT], {layer: activation, TARGET: target})
    return logits, gradient


def _weights(run: Run, zeros: Activations, index: int) -> np.ndarray:
    """The gradient (C,) of a class of a linear head, at each cell."""
    return run(zeros, np.array([index]))[1][0, :, 0, 0].copy()


def _has_one_gradient(run: Run, zeros: Activations, classes: int) -> bool:
    """True if the first and the last class have the same gradient at every activation tried, at all
    cells.
    """
    drawn = np.random.default_rng(SEED).standard_normal((2, *zeros.shape[1:]), np.float32)
    tried = np.concatenate([zeros, drawn, 100 * np.abs(drawn)])
    for index in (0, classes - 1):
        gradient = run(tried, np.full(len(tried), index))[1]
        if not (gradient == gradient[:1, :, :1, :1]).all():
            return False
    return True


def _repeated(values: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """A view of float32 `values`, repeated along the axes of stride 0."""
    # np.broadcast_to takes four times as long, and three of them a tenth of a map's time.
    return np.ndarray(shape, np.float32, np.ascontiguousarray(values), strides=strides)
