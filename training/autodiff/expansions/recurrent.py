"""Recurrent layers, unrolled: a step for each element of the sequence, of a static length.

The formulas are those of https://onnx.ai/onnx/operators: X is (steps, N, inputs), a state (N, H);
W and R hold the weights of all gates, by direction. Lengths by row, clipped cells, peepholes and
activations other than the usual ones are refused.
"""

from collections.abc import Callable, Sequence

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, expansion

W, R, BIAS, LENGTHS, INITIAL, PEEPHOLES = 1, 2, 3, 4, 5, 7  # inputs; one INITIAL for each state
SPLIT_COUNTS = 18  # the opset since which Split names the number of equal parts
USUAL = {"clip": None, "input_forget": 0, "layout": 0}
IS_BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

State = tuple[str, ...]  # h; of an LSTM h and c
# Builder, projected input, state, R and what is left of the bias → next state
Cell = Callable[[Builder, str, State, str, str | None], State]


@expansion("RNN")
def _rnn(ctx: Context) -> tuple[str, ...]:
    """The state h = tanh(W·x + R·h + biases), or its positive part."""
    named = {name.decode() for name in ctx.attribute("activations", [b"Tanh"])}
    if named not in ({"Tanh"}, {"Relu"}):
        raise ctx.unsupported(f"its activations are {', '.join(sorted(named))}")
    activation = named.pop()

    def cell(graph: Builder, x: str, state: State, recurrent: str, _: str | None) -> State:
        return (graph.node(activation, _plus_product(graph, x, state[0], recurrent)),)

    return _unrolled(ctx, cell)


@expansion("LSTM")
def _lstm(ctx: Context) -> tuple[str, ...]:
    """Gates i, o, f, n of W·x + R·h + biases: c = σ(f)·c + σ(i)·tanh(n), h = σ(o)·tanh(c)."""
    _check_activations(ctx, ["Sigmoid", "Tanh", "Tanh"])

    def cell(graph: Builder, x: str, state: State, recurrent: str, _: str | None) -> State:
        *gates, n = _parts(graph, _plus_product(graph, x, state[0], recurrent), 4, axis=1)
        i, o, f = (graph.node("Sigmoid", gate) for gate in gates)
        fresh = graph.node("Mul", i, graph.node("Tanh", n))
        c = graph.node("Add", graph.node("Mul", f, state[1]), fresh)
        return graph.node("Mul", o, graph.node("Tanh", c)), c

    return _unrolled(ctx, cell, states=2)


@expansion("GRU")
def _gru(ctx: Context) -> tuple[str, ...]:
    """Gates z, r, n of W·x + R·h + biases: h = (1 − σ(z))·tanh(n) + σ(z)·h.

    In n, σ(r) multiplies h; with `linear_before_reset` it multiplies R·h and its bias.
    """
    _check_activations(ctx, ["Sigmoid", "Tanh"])
    if ctx.attribute("linear_before_reset", 0):
        return _unrolled(ctx, _gru_linear, merges=False)
    return _unrolled(ctx, _gru_cell)


def _gru_cell(graph: Builder, x: str, state: State, recurrent: str, _: str | None) -> State:
    xs, weights = (_parts(graph, name, 3, axis=1) for name in (x, recurrent))
    z, r = (
        graph.node("Sigmoid", _plus_product(graph, a, state[0], b))
        for a, b in zip(xs[:2], weights[:2], strict=True)
    )
    kept = graph.node("Mul", r, state[0])
    return _gru_mixed(graph, z, _plus_product(graph, xs[2], kept, weights[2]), state[0])


def _gru_linear(graph: Builder, x: str, state: State, recurrent: str, bias: str | None) -> State:
    product = graph.node("MatMul", state[0], recurrent)
    if bias is not None:
        product = graph.node("Add", product, bias)
    xs, products = (_parts(graph, name, 3, axis=1) for name in (x, product))
    z, r = (
        graph.node("Sigmoid", graph.node("Add", a, b))
        for a, b in zip(xs[:2], products[:2], strict=True)
    )
    kept = graph.node("Mul", r, products[2])
    return _gru_mixed(graph, z, graph.node("Add", xs[2], kept), state[0])


def _gru_mixed(graph: Builder, z: str, n: str, before: str) -> State:
    """(1 − z)·tanh(n) + z·before, as tanh(n) + z·(before − tanh(n))."""
    fresh = graph.node("Tanh", n)
    change = graph.node("Mul", z, graph.node("Sub", before, fresh))
    return (graph.node("Add", fresh, change),)


def _check_activations(ctx: Context, usual: list[str]) -> None:
    named = [name.decode() for name in ctx.attribute("activations", [])]
    if named not in ([], usual, 2 * usual):
        raise ctx.unsupported(f"its activations are {', '.join(named)}")


def _unrolled(ctx: Context, cell: Cell, *, states: int = 1, merges: bool = True) -> tuple[str, ...]:
    """All h (steps, directions, N, H), and the last of each state (directions, N, H).

    With `merges` the bias of R is added beforehand, to that of W.
    """
    graph = ctx.graph
    unusual = [name for name, usual in USUAL.items() if ctx.attribute(name, usual) != usual]
    if unusual or _has(ctx, LENGTHS) or _has(ctx, PEEPHOLES):
        raise ctx.unsupported(f"it has {', '.join(unusual) or 'lengths by row or peepholes'}")
    runs, lasts = [], []
    for place, is_backward in enumerate(IS_BACKWARD[ctx.attribute("direction", "forward")]):
        steps = _run(ctx, cell, place, states, is_backward=is_backward, merges=merges)
        lasts.append(steps[-1])
        in_order = reversed(steps) if is_backward else steps
        runs.append(_stacked(graph, [state[0] for state in in_order], (0, 1)))
    last = [_stacked(graph, kind, (0,)) for kind in zip(*lasts, strict=True)]
    return graph.node("Concat", *runs, axis=1), *last


def _run(
    ctx: Context, cell: Cell, place: int, states: int, *, is_backward: bool, merges: bool
) -> list[State]:
    """The states of the direction at `place`, in the order of its steps."""
    graph = ctx.graph

    def at(index: int) -> str:
        return graph.node("Gather", ctx.node.input[index], graph.constant(place, "int64"), axis=0)

    projected = graph.node("MatMul", ctx.x, graph.node("Transpose", at(W), perm=[1, 0]))
    late: str | None = None
    if _has(ctx, BIAS):
        early, late = _parts(graph, at(BIAS), 2, axis=0)
        projected = graph.node("Add", projected, early)
        if merges:
            projected = graph.node("Add", projected, late)
    count, axis = graph.size(ctx.x, (0,)), graph.integers(0)
    xs = [graph.node("Squeeze", x, axis) for x in _parts(graph, projected, count, axis=0)]
    zeros = _zero_state(ctx, xs[0])
    state = tuple(
        at(INITIAL + kind) if _has(ctx, INITIAL + kind) else zeros for kind in range(states)
    )
    recurrent = graph.node("Transpose", at(R), perm=[1, 0])
    result = []
    for x in reversed(xs) if is_backward else xs:
        state = cell(graph, x, state, recurrent, late)
        result.append(state)
    return result


def _zero_state(ctx: Context, x: str) -> str:
    """Zeros (N, H), made of a projected input (N, gates · H)."""
    graph = ctx.graph
    bounds = (graph.integers(value) for value in (0, ctx.attribute("hidden_size"), 1))
    return graph.zeros_like(graph.node("Slice", x, *bounds))


def _has(ctx: Context, index: int) -> bool:
    return len(ctx.node.input) > index and bool(ctx.node.input[index])


def _plus_product(graph: Builder, total: str, state: str, weights: str) -> str:
    return graph.node("Add", total, graph.node("MatMul", state, weights))


def _parts(graph: Builder, name: str, count: int, *, axis: int) -> tuple[str, ...]:
    """`name` in `count` equal parts along `axis`."""
    equal = {"num_outputs": count} if graph.opset >= SPLIT_COUNTS else {}
    return graph.nodes("Split", name, outputs=count, axis=axis, **equal)


def _stacked(graph: Builder, names: Sequence[str], axes: Sequence[int]) -> str:
    """`names`, each with new axes, one after another along the first."""
    places = graph.integers(*axes)
    return graph.node("Concat", *(graph.node("Unsqueeze", n, places) for n in names), axis=0)
