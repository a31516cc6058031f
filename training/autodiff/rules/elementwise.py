"""Arithmetic and activations: an element of y depends on one element of each input.

Inputs are broadcast; the gradient of a broadcast input is summed down to its shape.
"""

import math
from collections.abc import Callable, Mapping

from onnx import TensorProto

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, Rule, rule

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
SELU_ALPHA, SELU_GAMMA = 1.6732631921768188, 1.0507010221481323  # the defaults of ONNX's Selu

Slope = Callable[[Builder, str, str], str]


def _times(slope: Slope) -> Rule:
    """The rule g · slope(x, y) of a function of one variable."""
    return lambda ctx: {0: ctx.graph.node("Mul", ctx.gradient, slope(ctx.graph, ctx.x, ctx.y))}


def _gate(ctx: Context, condition: str, otherwise: str | float = 0.0) -> dict[int, str]:
    """The gradient: g where `condition` holds, `otherwise` elsewhere."""
    return {0: ctx.graph.node("Where", condition, ctx.gradient, otherwise)}


def _unbroadcast(ctx: Context, gradients: Mapping[int, str]) -> dict[int, str]:
    """Gradients shaped like y, each summed down to the shape of its input."""
    return {
        index: ctx.graph.unbroadcast(gradient, ctx.node.input[index], ctx.y)
        for index, gradient in gradients.items()
    }


def _needed(ctx: Context) -> list[int]:
    return [index for index, needed in enumerate(ctx.needs_gradient) if needed]


@rule("Identity", "Dropout")
def _identity(ctx: Context) -> dict[int, str]:
    """Gradient of y = x: g. Dropout is the identity at inference."""
    return {0: ctx.gradient}


@rule("Cast")
def _cast(ctx: Context) -> dict[int, str]:
    """Gradient of a change of type: g in the type of x; none through an integer."""
    source, target = ctx.graph.dtype(ctx.x), ctx.attribute("to")
    if source not in FLOATS or target not in FLOATS:
        return {}
    if source == target:
        return {0: ctx.gradient}
    return {0: ctx.graph.node("Cast", ctx.gradient, to=source)}


@rule("Add", "Sum")
def _add(ctx: Context) -> dict[int, str]:
    """Gradient of a + b + …: g for each input."""
    return _unbroadcast(ctx, dict.fromkeys(_needed(ctx), ctx.gradient))


@rule("Mean")
def _mean(ctx: Context) -> dict[int, str]:
    """Gradient of the mean of n inputs: g/n for each."""
    share = ctx.graph.node("Mul", ctx.gradient, 1 / len(ctx.node.input))
    return _unbroadcast(ctx, dict.fromkeys(_needed(ctx), share))


@rule("Sub")
def _sub(ctx: Context) -> dict[int, str]:
    """Gradients of a − b: g and −g."""
    gradients = {0: ctx.gradient}
    if ctx.needs_gradient[1]:
        gradients[1] = ctx.graph.node("Neg", ctx.gradient)
    return _unbroadcast(ctx, gradients)


@rule("Mul")
def _mul(ctx: Context) -> dict[int, str]:
    """Gradients of a·b: g·b and g·a."""
    a, b = ctx.node.input
    others = {0: b, 1: a}
    products = {index: ctx.graph.node("Mul", ctx.gradient, others[index]) for index in _needed(ctx)}
    return _unbroadcast(ctx, products)


@rule("Div")
def _div(ctx: Context) -> dict[int, str]:
    """Gradients of a/b: g/b and −g·y/b."""
    over_b = ctx.graph.node("Div", ctx.gradient, ctx.node.input[1])
    gradients = {0: over_b}
    if ctx.needs_gradient[1]:
        gradients[1] = ctx.graph.node("Neg", ctx.graph.node("Mul", over_b, ctx.y))
    return _unbroadcast(ctx, gradients)


@rule("Pow")
def _pow(ctx: Context) -> dict[int, str]:
    """Gradient of x^p: g·p·x^(p−1). The exponent p may not depend on the image."""
    if ctx.needs_gradient[1]:
        raise ctx.unsupported("its exponent depends on the image")
    graph, exponent = ctx.graph, ctx.node.input[1]
    value = graph.value(exponent)
    if value is not None and value.size == 1 and float(value.reshape(())) == 2:  # noqa: PLR2004
        # The general formula takes a Pow, which is slow; squares are the usual case.
        slope = graph.node("Mul", ctx.x, 2.0)
    else:
        exponent = graph.node("Cast", exponent, to=TensorProto.FLOAT)
        power = graph.node("Pow", ctx.x, graph.node("Sub", exponent, 1.0))
        slope = graph.node("Mul", exponent, power)
    return _unbroadcast(ctx, {0: graph.node("Mul", ctx.gradient, slope)})


@rule("Mod")
def _mod(ctx: Context) -> dict[int, str]:
    """Gradient of the remainder of x/b: g. The divisor may not depend on the image."""
    if ctx.needs_gradient[1]:
        raise ctx.unsupported("its divisor depends on the image")
    return _unbroadcast(ctx, {0: ctx.gradient})


@rule("Max", "Min")
def _extreme(ctx: Context) -> dict[int, str]:
    """Gradients of max(a, b, …): g for the input that equals y, 0 for the others.

    Of several that equal y the first takes all of g. torch.maximum shares g between them.
    """
    graph, remaining = ctx.graph, ctx.gradient
    zero, gradients = graph.constant(0.0), {}
    for index, name in enumerate(ctx.node.input):
        chosen = graph.node("Equal", name, ctx.y)
        if ctx.needs_gradient[index]:
            gradients[index] = graph.node("Where", chosen, remaining, zero)
        remaining = graph.node("Where", chosen, zero, remaining)
    return _unbroadcast(ctx, gradients)


@rule("Where")
def _where(ctx: Context) -> dict[int, str]:
    """Gradients of both branches: g where the branch was taken, 0 elsewhere."""
    condition, zero = ctx.node.input[0], ctx.graph.constant(0.0)
    branches = {1: (ctx.gradient, zero), 2: (zero, ctx.gradient)}
    gradients = {
        index: ctx.graph.node("Where", condition, *branches[index])
        for index in _needed(ctx)
        if index in branches
    }
    return _unbroadcast(ctx, gradients)


@rule("Clip")
def _clip(ctx: Context) -> dict[int, str]:
    """Gradient of min(max(x, low), high): g where low ≤ x ≤ high, else 0.

    At the bounds the gradient is g; torch 2.15 has 0 there, and g/2 where the bounds are tensors.
    """
    graph, inside = ctx.graph, []
    for operator, bound in zip(("GreaterOrEqual", "LessOrEqual"), ctx.node.input[1:], strict=False):
        if bound:
            inside.append(graph.node(operator, ctx.x, bound))
    if not inside:
        return {0: ctx.gradient}
    return _gate(ctx, inside[0] if len(inside) == 1 else graph.node("And", *inside))


@rule("Relu")
def _relu(ctx: Context) -> dict[int, str]:
    """Gradient of max(x, 0): g where y > 0, else 0; so it is 0 at x = 0."""
    return _gate(ctx, ctx.graph.node("Greater", ctx.y, 0.0))


@rule("ThresholdedRelu")
def _thresholded_relu(ctx: Context) -> dict[int, str]:
    """Gradient of x where x > α, else 0: g where x > α, else 0; so it is 0 at x = α."""
    return _gate(ctx, ctx.graph.node("Greater", ctx.x, ctx.attribute("alpha", 1.0)))


@rule("LeakyRelu")
def _leaky_relu(ctx: Context) -> dict[int, str]:
    """Gradient of x above zero and α·x below: g where x > 0, else α·g; so it is α·g at x = 0."""
    below = ctx.graph.node("Mul", ctx.gradient, ctx.attribute("alpha", 0.01))
    return _gate(ctx, _positive(ctx), below)


@rule("PRelu")
def _prelu(ctx: Context) -> dict[int, str]:
    """Gradient of x above zero and s·x below: g where x > 0, else s·g; so it is s·g at x = 0.

    The slope s is a weight, of which no gradient is taken.
    """
    below = ctx.graph.node("Mul", ctx.gradient, ctx.node.input[1])
    return _gate(ctx, _positive(ctx), below)


@rule("Elu")
def _elu(ctx: Context) -> dict[int, str]:
    """Gradient of x above zero and α(eˣ − 1) below: g where x > 0, else g·(y + α)."""
    slope = ctx.graph.node("Add", ctx.y, ctx.attribute("alpha", 1.0))
    return _gate(ctx, _positive(ctx), ctx.graph.node("Mul", ctx.gradient, slope))


@rule("Celu")
def _celu(ctx: Context) -> dict[int, str]:
    """Gradient of x above zero and α(e^(x/α) − 1) below: g where x > 0, else g·(y/α + 1)."""
    graph = ctx.graph
    scaled = graph.node("Mul", ctx.y, 1 / ctx.attribute("alpha", 1.0))
    below = graph.node("Mul", ctx.gradient, graph.node("Add", scaled, 1.0))
    return _gate(ctx, _positive(ctx), below)


@rule("Selu")
def _selu(ctx: Context) -> dict[int, str]:
    """Gradient of γx above zero and γα(eˣ − 1) below: γ·g where x > 0, else g·(y + γα)."""
    graph = ctx.graph
    alpha, gamma = ctx.attribute("alpha", SELU_ALPHA), ctx.attribute("gamma", SELU_GAMMA)
    below = graph.node("Add", ctx.y, alpha * gamma)
    slope = graph.node("Where", _positive(ctx), gamma, below)
    return {0: graph.node("Mul", ctx.gradient, slope)}


@rule("HardSigmoid")
def _hard_sigmoid(ctx: Context) -> dict[int, str]:
    """Gradient of clip(αx + β, 0, 1): α·g where 0 < y < 1, else 0; so it is 0 at both kinks."""
    graph = ctx.graph
    slope = graph.node("Mul", _between_zero_and_one(graph, ctx.y), ctx.attribute("alpha", 0.2))
    return {0: graph.node("Mul", ctx.gradient, slope)}


@rule("HardSwish")
def _hard_swish(ctx: Context) -> dict[int, str]:
    """Gradient of x·h with h = clip(x/6 + ½, 0, 1): g·(h + x/6 where 0 < h < 1).

    At the kinks it is 0 (x = −3) and g (x = 3).
    """
    graph = ctx.graph
    gate = graph.node("HardSigmoid", ctx.x, alpha=1 / 6, beta=0.5)
    sixth = graph.node("Mul", ctx.x, 1 / 6)
    inner = graph.node("Mul", sixth, _between_zero_and_one(graph, gate))
    return {0: graph.node("Mul", ctx.gradient, graph.node("Add", gate, inner))}


def _positive(ctx: Context) -> str:
    return ctx.graph.node("Greater", ctx.x, 0.0)


def _between_zero_and_one(graph: Builder, name: str) -> str:
    """The number 1 where 0 < `name` < 1, else 0."""
    above, below = graph.node("Greater", name, 0.0), graph.node("Less", name, 1.0)
    return graph.node("Where", graph.node("And", above, below), 1.0, 0.0)


@rule("Gelu")
def _gelu(ctx: Context) -> dict[int, str]:
    """Gradient of x·Φ(x): g·(Φ(x) + x·φ(x)), or that of the tanh form.

    Φ and φ are the normal distribution and its density (Hendrycks and Gimpel, arXiv 1606.08415).
    """
    graph, x = ctx.graph, ctx.x
    if ctx.attribute("approximate", "none") == "tanh":
        return {0: graph.node("Mul", ctx.gradient, _gelu_tanh_slope(graph, x))}
    scaled = graph.node("Mul", x, math.sqrt(0.5))
    # Φ(x) = ½ + ½ erf(x/√2): HardSigmoid computes ½·e + ½ in one node, and never has to clip.
    normal = graph.node("HardSigmoid", graph.node("Erf", scaled), alpha=0.5, beta=0.5)
    # The forward pass takes the same Φ, which is the costly part.
    graph.replace(ctx.node, "Mul", x, normal)
    # x·φ(x) = x/√2 · exp(−½·ln π − (x/√2)²)
    offset = graph.constant(-0.5 * math.log(math.pi))
    bell = graph.node("Exp", graph.node("Sub", offset, graph.node("Mul", scaled, scaled)))
    slope = graph.node("Add", normal, graph.node("Mul", scaled, bell))
    return {0: graph.node("Mul", ctx.gradient, slope)}


def _gelu_tanh_slope(graph: Builder, x: str) -> str:
    """The slope ½(1 + t) + ½x(1 − t²)·c(1 + 3·0.044715x²) of ½x(1 + t).

    Here t = tanh(c(x + 0.044715x³)) and c = √(2/π), as in arXiv 1606.08415.
    """
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = graph.node("Mul", x, x)
    factor = graph.node("Add", graph.node("Mul", square, scale * cubic), scale)
    tanh = graph.node("Tanh", graph.node("Mul", x, factor))
    rise = graph.node("Add", graph.node("Mul", square, 3 * scale * cubic), scale)
    rest = _one_minus(graph, graph.node("Mul", tanh, tanh))
    second = graph.node("Mul", graph.node("Mul", x, rise), rest)
    both = graph.node("Add", graph.node("Add", tanh, 1.0), second)
    return graph.node("Mul", both, 0.5)


def _one_minus(graph: Builder, name: str) -> str:
    return graph.node("Sub", 1.0, name)


def _mish_slope(graph: Builder, x: str, _y: str) -> str:
    """The slope t + x·σ(x)·(1 − t²) of x·t with t = tanh(softplus(x)) (Misra, arXiv 1908.08681)."""
    tanh = graph.node("Tanh", graph.node("Softplus", x))
    gated = graph.node("Mul", x, graph.node("Sigmoid", x))
    rest = _one_minus(graph, graph.node("Mul", tanh, tanh))
    return graph.node("Add", tanh, graph.node("Mul", gated, rest))


def _softsign_slope(graph: Builder, x: str, _y: str) -> str:
    """The slope 1/(1 + |x|)² of x/(1 + |x|)."""
    root = graph.node("Add", graph.node("Abs", x), 1.0)
    return graph.node("Reciprocal", graph.node("Mul", root, root))


def _erf_slope(graph: Builder, x: str, _y: str) -> str:
    """The slope 2/√π·exp(−x²) of erf(x)."""
    bell = graph.node("Exp", graph.node("Neg", graph.node("Mul", x, x)))
    return graph.node("Mul", bell, 2 / math.sqrt(math.pi))


def _root_slope(shift: float, sign: float) -> Slope:
    """The slope 1/√(shift + sign·x²)."""

    def slope(graph: Builder, x: str, _y: str) -> str:
        square = graph.node("Mul", graph.node("Mul", x, x), sign)
        return graph.node("Reciprocal", graph.node("Sqrt", graph.node("Add", square, shift)))

    return slope


def _atan_slope(graph: Builder, x: str, _y: str) -> str:
    return graph.node("Reciprocal", graph.node("Add", graph.node("Mul", x, x), 1.0))


def _atanh_slope(graph: Builder, x: str, _y: str) -> str:
    return graph.node("Reciprocal", _one_minus(graph, graph.node("Mul", x, x)))


def _negative(slope: Slope) -> Slope:
    return lambda graph, x, y: graph.node("Neg", slope(graph, x, y))


# Functions of one variable, by their slopes. Abs: 0 at x = 0. Sqrt: infinite at x = 0.
rule("Abs")(_times(lambda graph, x, _: graph.node("Sign", x)))
rule("Acos")(_times(_negative(_root_slope(1.0, -1.0))))
rule("Acosh")(_times(_root_slope(-1.0, 1.0)))
rule("Asin")(_times(_root_slope(1.0, -1.0)))
rule("Asinh")(_times(_root_slope(1.0, 1.0)))
rule("Atan")(_times(_atan_slope))
rule("Atanh")(_times(_atanh_slope))
rule("Cos")(_times(lambda graph, x, _: graph.node("Neg", graph.node("Sin", x))))
rule("Cosh")(_times(lambda graph, x, _: graph.node("Sinh", x)))
rule("Erf")(_times(_erf_slope))
rule("Exp")(_times(lambda _graph, _x, y: y))
rule("Log")(_times(lambda graph, x, _: graph.node("Reciprocal", x)))
rule("Mish")(_times(_mish_slope))
rule("Neg")(lambda ctx: {0: ctx.graph.node("Neg", ctx.gradient)})
rule("Reciprocal")(_times(lambda graph, _, y: graph.node("Neg", graph.node("Mul", y, y))))
rule("Sigmoid")(_times(lambda graph, _, y: graph.node("Mul", y, _one_minus(graph, y))))
rule("Sin")(_times(lambda graph, x, _: graph.node("Cos", x)))
rule("Sinh")(_times(lambda graph, x, _: graph.node("Cosh", x)))
rule("Softplus")(_times(lambda graph, x, _: graph.node("Sigmoid", x)))
rule("Softsign")(_times(_softsign_slope))
rule("Sqrt")(_times(lambda graph, _, y: graph.node("Div", 0.5, y)))
rule("Tan")(_times(lambda graph, _, y: graph.node("Add", graph.node("Mul", y, y), 1.0)))
rule("Tanh")(_times(lambda graph, _, y: _one_minus(graph, graph.node("Mul", y, y))))
