"""Arithmetic and activations: each answer element depends on one element of each input, after broadcasting."""

import math
from collections.abc import Callable, Mapping

from onnx import TensorProto

from training.autodiff.graph import Call, Graph, rule

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
SELU_ALPHA, SELU_GAMMA = 1.6732631921768188, 1.0507010221481323

Slope = Callable[[Graph, str, str], str]


def _times(slope: Slope) -> Callable[[Call], Mapping[int, str]]:
    """The rule g · slope(x, y) of a function of one variable."""
    return lambda call: {
        0: call.graph.node("Mul", call.gradient, slope(call.graph, call.x, call.y))
    }


def _gate(call: Call, condition: str, below: str | None = None) -> dict[int, str]:
    """G where `condition`, else `below` (zero if not given)."""
    return {
        0: call.graph.node("Where", condition, call.gradient, below or call.graph.constant(0.0))
    }


def _to_each(call: Call, gradients: Mapping[int, str]) -> dict[int, str]:
    """Each gradient, shaped like y, summed down to the shape of its input."""
    return {
        index: call.graph.unbroadcast(gradient, call.node.input[index], call.y)
        for index, gradient in gradients.items()
    }


@rule("Identity", "Dropout")
def _identity(call: Call) -> dict[int, str]:
    """g; dropout does nothing when a network answers."""
    return {0: call.gradient}


@rule("Cast")
def _cast(call: Call) -> dict[int, str]:
    """G in the type of x; nothing goes back through an integer."""
    kinds = call.graph.dtype(call.x), call.attribute("to")
    if any(kind not in FLOATS for kind in kinds):
        return {}
    return {
        0: call.gradient
        if kinds[0] == kinds[1]
        else call.graph.node("Cast", call.gradient, to=kinds[0])
    }


@rule("Add", "Sum")
def _add(call: Call) -> dict[int, str]:
    """G to each."""
    return _to_each(
        call, {index: call.gradient for index, wanted in enumerate(call.wanted) if wanted}
    )


@rule("Mean")
def _mean(call: Call) -> dict[int, str]:
    """G / n to each of the n inputs."""
    share = call.graph.node("Mul", call.gradient, call.graph.constant(1 / len(call.node.input)))
    return _to_each(call, {index: share for index, wanted in enumerate(call.wanted) if wanted})


@rule("Sub")
def _sub(call: Call) -> dict[int, str]:
    """G and −g."""
    gradients = {0: call.gradient}
    if call.wanted[1]:
        gradients[1] = call.graph.node("Neg", call.gradient)
    return _to_each(call, gradients)


@rule("Mul")
def _mul(call: Call) -> dict[int, str]:
    """G · the other factor."""
    other = dict(enumerate(reversed(call.node.input)))
    wanted = [index for index in (0, 1) if call.wanted[index]]
    return _to_each(
        call, {index: call.graph.node("Mul", call.gradient, other[index]) for index in wanted}
    )


@rule("Div")
def _div(call: Call) -> dict[int, str]:
    """a/b: g/b and −g·y/b."""
    over = call.graph.node("Div", call.gradient, call.node.input[1])
    gradients = {0: over}
    if call.wanted[1]:
        gradients[1] = call.graph.node("Neg", call.graph.node("Mul", over, call.y))
    return _to_each(call, gradients)


@rule("Pow")
def _pow(call: Call) -> dict[int, str]:
    """x^p: g·p·x^(p−1), for a p that is no function of the image."""
    if call.wanted[1]:
        raise call.unsupported("its exponent depends on the image")
    graph, exponent = call.graph, call.node.input[1]
    value = graph.value(exponent)
    if value is not None and value.size == 1 and float(value.reshape(())) == 2:  # noqa: PLR2004 - a square needs no logarithm
        slope = graph.node("Mul", call.x, graph.constant(2.0))
    else:
        exponent = graph.node("Cast", exponent, to=TensorProto.FLOAT)
        lower = graph.node("Pow", call.x, graph.node("Sub", exponent, graph.constant(1.0)))
        slope = graph.node("Mul", exponent, lower)
    return _to_each(call, {0: graph.node("Mul", call.gradient, slope)})


@rule("Max", "Min")
def _extreme(call: Call) -> dict[int, str]:
    """G to the first input that equals y."""
    graph = call.graph
    zero, gradients, rest = graph.constant(0.0), {}, call.gradient
    for index, name in enumerate(call.node.input):
        chosen = graph.node("Equal", name, call.y)
        if call.wanted[index]:
            gradients[index] = graph.node("Where", chosen, rest, zero)
        rest = graph.node("Where", chosen, zero, rest)
    return _to_each(call, gradients)


@rule("Where")
def _where(call: Call) -> dict[int, str]:
    """G where the branch was taken."""
    condition, zero = call.node.input[0], call.graph.constant(0.0)
    branches = {1: (condition, call.gradient, zero), 2: (condition, zero, call.gradient)}
    return _to_each(
        call,
        {
            index: call.graph.node("Where", *branches[index])
            for index in (1, 2)
            if call.wanted[index]
        },
    )


@rule("Clip")
def _clip(call: Call) -> dict[int, str]:
    """G inside the bounds, bounds included as in torch."""
    graph, inside = call.graph, []
    for operator, bound in zip(
        ("GreaterOrEqual", "LessOrEqual"), call.node.input[1:], strict=False
    ):
        if bound:
            inside.append(graph.node(operator, call.x, bound))
    if not inside:
        return {0: call.gradient}
    return _gate(call, inside[0] if len(inside) == 1 else graph.node("And", *inside))


@rule("Relu")
def _relu(call: Call) -> dict[int, str]:
    """G where y > 0."""
    return _gate(call, call.graph.node("Greater", call.y, call.graph.constant(0.0)))


@rule("ThresholdedRelu")
def _thresholded_relu(call: Call) -> dict[int, str]:
    """G where x > alpha."""
    return _gate(
        call, call.graph.node("Greater", call.x, call.graph.constant(call.attribute("alpha", 1.0)))
    )


@rule("LeakyRelu")
def _leaky_relu(call: Call) -> dict[int, str]:
    """G above zero, alpha·g below."""
    graph = call.graph
    below = graph.node("Mul", call.gradient, graph.constant(call.attribute("alpha", 0.01)))
    return _gate(call, graph.node("Greater", call.x, graph.constant(0.0)), below)


@rule("PRelu")
def _prelu(call: Call) -> dict[int, str]:
    """G above zero, slope·g below."""
    below = call.graph.node("Mul", call.gradient, call.node.input[1])
    return _gate(call, call.graph.node("Greater", call.x, call.graph.constant(0.0)), below)


@rule("Elu")
def _elu(call: Call) -> dict[int, str]:
    """G above zero, g·(y + alpha) below."""
    graph = call.graph
    slope = graph.node("Add", call.y, graph.constant(call.attribute("alpha", 1.0)))
    return _gate(
        call,
        graph.node("Greater", call.x, graph.constant(0.0)),
        graph.node("Mul", call.gradient, slope),
    )


@rule("Celu")
def _celu(call: Call) -> dict[int, str]:
    """G above zero, g·(y/alpha + 1) below."""
    graph = call.graph
    scaled = graph.node("Mul", call.y, graph.constant(1 / call.attribute("alpha", 1.0)))
    below = graph.node("Mul", call.gradient, graph.node("Add", scaled, graph.constant(1.0)))
    return _gate(call, graph.node("Greater", call.x, graph.constant(0.0)), below)


@rule("Selu")
def _selu(call: Call) -> dict[int, str]:
    """gamma·g above zero, g·(y + gamma·alpha) below."""
    graph = call.graph
    alpha, gamma = call.attribute("alpha", SELU_ALPHA), call.attribute("gamma", SELU_GAMMA)
    below = graph.node("Add", call.y, graph.constant(alpha * gamma))
    slope = graph.node(
        "Where", graph.node("Greater", call.x, graph.constant(0.0)), graph.constant(gamma), below
    )
    return {0: graph.node("Mul", call.gradient, slope)}


@rule("HardSigmoid")
def _hard_sigmoid(call: Call) -> dict[int, str]:
    """alpha·g where 0 < y < 1."""
    graph = call.graph
    slope = graph.node(
        "Mul", _between_zero_and_one(graph, call.y), graph.constant(call.attribute("alpha", 0.2))
    )
    return {0: graph.node("Mul", call.gradient, slope)}


@rule("HardSwish")
def _hard_swish(call: Call) -> dict[int, str]:
    """x·h(x) with h = clip(x/6 + ½, 0, 1): g·(h + x/6 where 0 < h < 1)."""
    graph = call.graph
    gate = graph.node("HardSigmoid", call.x, alpha=1 / 6, beta=0.5)
    inner = graph.node(
        "Mul", graph.node("Mul", call.x, graph.constant(1 / 6)), _between_zero_and_one(graph, gate)
    )
    return {0: graph.node("Mul", call.gradient, graph.node("Add", gate, inner))}


def _between_zero_and_one(graph: Graph, name: str) -> str:
    inside = graph.node(
        "And",
        graph.node("Greater", name, graph.constant(0.0)),
        graph.node("Less", name, graph.constant(1.0)),
    )
    return graph.node("Where", inside, graph.constant(1.0), graph.constant(0.0))


@rule("Gelu")
def _gelu(call: Call) -> dict[int, str]:
    """x·Φ(x): g·(Φ(x) + x·φ(x)), and both ways share Φ; or the derivative of the tanh form."""
    if call.attribute("approximate", "none") == "tanh":
        return {0: call.graph.node("Mul", call.gradient, _gelu_tanh_slope(call.graph, call.x))}
    graph, x = call.graph, call.x
    part = graph.node("Mul", x, graph.constant(math.sqrt(0.5)))
    normal = graph.node(
        "HardSigmoid", graph.node("Erf", part), alpha=0.5, beta=0.5
    )  # Φ = ½ + ½ erf(x / √2), in one node
    graph.replace(call.node, "Mul", x, normal)
    bell = graph.node(
        "Exp",
        graph.node("Sub", graph.constant(-0.5 * math.log(math.pi)), graph.node("Mul", part, part)),
    )
    return {
        0: graph.node(
            "Mul", call.gradient, graph.node("Add", normal, graph.node("Mul", part, bell))
        )
    }


def _gelu_tanh_slope(graph: Graph, x: str) -> str:
    """½(1 + t) + ½x(1 − t²)·c(1 + 3·0.044715x²), with t = tanh(c(x + 0.044715x³)) and c = √(2/π)."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = graph.node("Mul", x, x)
    inner = graph.node(
        "Mul",
        x,
        graph.node(
            "Add", graph.node("Mul", square, graph.constant(scale * cubic)), graph.constant(scale)
        ),
    )
    tanh = graph.node("Tanh", inner)
    rise = graph.node(
        "Add", graph.node("Mul", square, graph.constant(3 * scale * cubic)), graph.constant(scale)
    )
    second = graph.node(
        "Mul", graph.node("Mul", x, rise), _one_minus(graph, graph.node("Mul", tanh, tanh))
    )
    both = graph.node("Add", graph.node("Add", tanh, graph.constant(1.0)), second)
    return graph.node("Mul", both, graph.constant(0.5))


def _one_minus(graph: Graph, name: str) -> str:
    return graph.node("Sub", graph.constant(1.0), name)


def _mish_slope(graph: Graph, x: str, _y: str) -> str:
    """t + x·σ(x)·(1 − t²) with t = tanh(softplus(x))."""
    tanh = graph.node("Tanh", graph.node("Softplus", x))
    inner = graph.node(
        "Mul",
        graph.node("Mul", x, graph.node("Sigmoid", x)),
        _one_minus(graph, graph.node("Mul", tanh, tanh)),
    )
    return graph.node("Add", tanh, inner)


def _softsign_slope(graph: Graph, x: str, _y: str) -> str:
    root = graph.node("Add", graph.node("Abs", x), graph.constant(1.0))
    return graph.node("Reciprocal", graph.node("Mul", root, root))


def _erf_slope(graph: Graph, x: str, _y: str) -> str:
    bell = graph.node("Exp", graph.node("Neg", graph.node("Mul", x, x)))
    return graph.node("Mul", bell, graph.constant(2 / math.sqrt(math.pi)))


rule("Abs")(_times(lambda graph, x, _: graph.node("Sign", x)))
rule("Cos")(_times(lambda graph, x, _: graph.node("Neg", graph.node("Sin", x))))
rule("Erf")(_times(_erf_slope))
rule("Exp")(_times(lambda _graph, _x, y: y))
rule("Log")(_times(lambda graph, x, _: graph.node("Reciprocal", x)))
rule("Mish")(_times(_mish_slope))
rule("Neg")(lambda call: {0: call.graph.node("Neg", call.gradient)})
rule("Reciprocal")(_times(lambda graph, _, y: graph.node("Neg", graph.node("Mul", y, y))))
rule("Sigmoid")(_times(lambda graph, _, y: graph.node("Mul", y, _one_minus(graph, y))))
rule("Sin")(_times(lambda graph, x, _: graph.node("Cos", x)))
rule("Softplus")(_times(lambda graph, x, _: graph.node("Sigmoid", x)))
rule("Softsign")(_times(_softsign_slope))
rule("Sqrt")(_times(lambda graph, _, y: graph.node("Div", graph.constant(0.5), y)))
rule("Tanh")(_times(lambda graph, _, y: _one_minus(graph, graph.node("Mul", y, y))))
