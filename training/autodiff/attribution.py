"""The graphs that explanations are computed with, made of a classifier.

The classifier is x float32 (N, 3, H, W) → logits float32 (N, K). They take x and
target int64 (N,), the class to explain; −1 stands for the predicted class.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from onnx import ModelProto, TensorProto, compose

from training.autodiff import expansions, rules  # noqa: F401 - registers them
from training.autodiff.builder import DifferentiationError
from training.autodiff.graph import Graph, Outputs
from training.autodiff.relevance import RELEVANCE, differs, gates, nodes_before

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
TARGET = {"target": (INT64, ["N"])}
NO_LAYERS: Mapping[str, str] = MappingProxyType({})
# Goes before every name of the given graph but its input, so that none clashes with an added name.
FORWARD = "forward/"


def gradient_graph(
    model: ModelProto, x: str = "x", logits: str = "logits", layers: Mapping[str, str] = NO_LAYERS
) -> ModelProto:
    """The graph x, target → logits, gradient float32 (N, 3, H, W) of the target's logit by x.

    Of each tensor of `layers`, by name, activation/NAME and activation_gradient/NAME are outputs,
    too: the reverse pass meets them on its way.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    graph, logits = _prefixed(model), FORWARD + logits
    tensors = {name: FORWARD + tensor for name, tensor in layers.items()}
    gradients = graph.gradient({logits: _seed(graph, logits)}, [x, *tensors.values()])
    outputs: Outputs = {
        "logits": (logits, FLOAT, ["N", *graph.shape(logits)[1:]]),
        "gradient": (gradients[x], FLOAT, ["N", *graph.shape(x)[1:]]),
    }
    layer_outputs: Outputs = {
        f"{kind}/{name}": (values[tensor], FLOAT, ["N", *graph.shape(tensor)[1:]])
        for name, tensor in tensors.items()
        for kind, values in (("activation", {tensor: tensor}), ("activation_gradient", gradients))
    }
    return graph.finish(TARGET, {**outputs, **layer_outputs})


def relevance_graph(model: ModelProto, x: str = "x", logits: str = "logits") -> ModelProto:
    """The graph x, target → logits, relevance float32 (N, 3, H, W) of x in the target's logit.

    The rules are those of training.autodiff.relevance.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    graph, logits = _prefixed(model), FORWARD + logits
    constant = [node.output[0] for node in gates(nodes_before(graph, logits), x)]
    seeds = {logits: _seed(graph, logits)}
    share = graph.gradient(seeds, [x], RELEVANCE, constant)[x]
    outputs: Outputs = {
        "logits": (logits, FLOAT, ["N", *graph.shape(logits)[1:]]),
        "relevance": (graph.node("Mul", x, share), FLOAT, ["N", *graph.shape(x)[1:]]),
    }
    return graph.finish(TARGET, outputs)


def has_relevance(model: ModelProto, x: str = "x", logits: str = "logits") -> bool:
    """True if `relevance_graph` gives much else than x · gradient."""
    return differs(nodes_before(Graph(model), logits), x)


def gradients_of(model: ModelProto, tensors: Sequence[str], logits: str = "logits") -> ModelProto:
    """The graph x, target → the gradients of the target's logit by `tensors`, in their order.

    Raises:
        DifferentiationError: an operator has no rule, or the logits do not depend on a tensor.
    """
    graph, logits = _prefixed(model), FORWARD + logits
    found = graph.gradient({logits: _seed(graph, logits)}, [FORWARD + name for name in tensors])
    outputs: Outputs = {
        f"gradient/{number}": (gradient, FLOAT, ["N", *graph.shape(tensor)[1:]])
        for number, (tensor, gradient) in enumerate(found.items())
    }
    return graph.finish(TARGET, outputs)


def cam_graph(
    model: ModelProto, activation: str = "activation", logits: str = "logits"
) -> ModelProto:
    """The graph x, target → logits, cam, activation, activation_gradient.

    `activation` names a tensor A float32 (N, C, h, w); nothing before it is differentiated.
    cam float32 (N, 1, h, w) = Σ_c mean_hw(∂logit/∂A_c) · A_c, the map of Grad-CAM (Selvaraju et
    al., ICCV 2017) before its rectifier: readers of the map may want the sign.

    Raises:
        DifferentiationError: an operator after the activation has no rule, or no node computes it.
    """
    if not any(activation in node.output for node in model.graph.node):
        raise DifferentiationError(
            f"no node of the graph computes the tensor {activation!r} that a class activation map "
            "weighs: make the bundle again, by `python -m training bundle`"
        )
    graph, logits, activation = _prefixed(model), FORWARD + logits, FORWARD + activation
    gradient = graph.gradient({logits: _seed(graph, logits)}, [activation])[activation]
    height, width = graph.shape(activation)[2:]
    pixels = graph.size(activation, (2, 3))
    weights = graph.node("Mul", graph.sum(gradient, (2, 3)), 1 / pixels)
    cam = graph.sum(graph.node("Mul", weights, activation), (1,))
    layer = ["N", *graph.shape(activation)[1:]]
    outputs: Outputs = {
        "logits": (logits, FLOAT, ["N", *graph.shape(logits)[1:]]),
        "cam": (cam, FLOAT, ["N", 1, height, width]),
        "activation": (activation, FLOAT, layer),
        "activation_gradient": (gradient, FLOAT, layer),
    }
    return graph.finish(TARGET, outputs)


def _prefixed(model: ModelProto) -> Graph:
    return Graph(compose.add_prefix(model, FORWARD, rename_inputs=False))


def _seed(graph: Graph, logits: str) -> str:
    """The gradient of the target's logit by all logits: one-hot rows (N, K)."""
    predicted = graph.node("ArgMax", logits, axis=1, keepdims=0)
    negative = graph.node("Less", "target", graph.constant(0, "int64"))
    target = graph.node("Where", negative, predicted, "target")
    classes = graph.integers(graph.size(logits, (1,)))
    return graph.node("OneHot", target, classes, graph.constant([0.0, 1.0]))
