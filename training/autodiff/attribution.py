"""The two graphs that explanations are computed with, made from a classifier x float32 (N, 3, H, W) → logits float32 (N, K)."""

from onnx import ModelProto, TensorProto, compose

from training.autodiff import rules  # noqa: F401 - registers the rules
from training.autodiff.graph import Graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
TARGET = {"target": (INT64, ["N"])}
FORWARD = "forward/"  # before every name of the given graph but its input, so that none is mistaken for one of ours


def gradient_graph(model: ModelProto, x: str = "x", logits: str = "logits") -> ModelProto:
    """x, target int64 (N,), −1 = the predicted class → logits, gradient float32 (N, 3, H, W) of the target's logit.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    graph, logits = _prefixed(model), FORWARD + logits
    gradient = graph.gradient({logits: _seed(graph, logits)}, [x])[x]
    outputs = {
        "logits": (logits, FLOAT, ["N", *graph.shape(logits)[1:]]),
        "gradient": (gradient, FLOAT, ["N", *graph.shape(x)[1:]]),
    }
    return graph.finish(TARGET, outputs)


def cam_graph(model: ModelProto, activation: str, logits: str = "logits") -> ModelProto:
    """x, target → logits, cam float32 (N, 1, h, w), activation and activation_gradient float32 (N, C, h, w).

    `activation` names a tensor (N, C, h, w) of the forward pass; nothing below it is differentiated. cam = Σ_c mean_hw(gradient)_c ·
    activation_c, signed: the rectifier of Selvaraju et al. 2017 (Grad-CAM) is left to who reads the map.

    Raises:
        DifferentiationError: an operator above the activation has no rule.
    """
    graph, logits, activation = _prefixed(model), FORWARD + logits, FORWARD + activation
    gradient = graph.gradient({logits: _seed(graph, logits)}, [activation])[activation]
    height, width = graph.shape(activation)[2:]
    pixels = graph.size(activation, (2, 3))
    weights = graph.node("Mul", graph.sum(gradient, (2, 3)), graph.constant(1 / pixels))
    cam = graph.sum(graph.node("Mul", weights, activation), (1,))
    layer = ["N", *graph.shape(activation)[1:]]
    return graph.finish(
        TARGET,
        {
            "logits": (logits, FLOAT, ["N", *graph.shape(logits)[1:]]),
            "cam": (cam, FLOAT, ["N", 1, height, width]),
            "activation": (activation, FLOAT, layer),
            "activation_gradient": (gradient, FLOAT, layer),
        },
    )


def _prefixed(model: ModelProto) -> Graph:
    return Graph(compose.add_prefix(model, FORWARD, rename_inputs=False))


def _seed(graph: Graph, logits: str) -> str:
    """One-hot rows (N, K) of the target; −1 becomes the predicted class."""
    predicted = graph.node("ArgMax", logits, axis=1, keepdims=0)
    negative = graph.node("Less", "target", graph.constant(0, "int64"))
    target = graph.node("Where", negative, predicted, "target")
    return graph.node(
        "OneHot", target, graph.integers(graph.size(logits, (1,))), graph.constant([0.0, 1.0])
    )
