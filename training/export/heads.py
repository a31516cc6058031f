"""The head of a foreign ONNX file: which output it is, what its values mean, and the logits behind.

A run on drawn images decides, whatever the operators are called:

    rows that sum to 1                    probabilities of a softmax
    rows with exp(values) that sum to 1   their logarithms
    values in 0…1, of a bounded operator  sigmoids: several classes, or none (multi-label)
    anything else                         logits

The logits are the first tensor that the softmax or the sigmoid turns into these values, on every
image: so it does not matter how the head is written, wrapped or split into outputs. Where there is
no such tensor, as behind the mean of several softmaxes, they are log p, and softmax(log p) is p.
One value z for each image is that of the second of two classes: the logits are −z/2 and z/2, and
their softmax is the sigmoid of z. (Of 0 and z, the first has no gradient to explain it by.)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from service.image.resize import Size
from training.autodiff import prune
from training.autodiff.model import constants_of
from training.data.images import drawn_images
from training.export.ends import ForeignError, dims_of
from training.export.original import Feed, Head, Meaning, session_of, show

# Images, and factors: faint ones are not saturated, and logits of strong ones leave 0…1, which
# probabilities do not.
DRAWN, FACTORS = 3, (0.1, 1.0, 30.0)
MEAN, STD = 0.45, 0.25
SUM_TOLERANCE = 1e-3  # rows of a float16 softmax sum to 1 within this
MOST_TAIL = 40  # tensors between a last layer and the output
LOG_TOLERANCE = 1e-3  # relative; a temperature that nobody would write
# Probabilities that float32 still turns into logits. ONNX Runtime cuts its sigmoid at 1e-8.
LEAST, LEAST_SIGMOID, MOST = 1e-30, 1e-3, 0.99
CLIP, NEAR_ONE = 1e-30, 1e-7
MATRIX = 2  # the rank of (N, K)

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"}
SOFTMAX = {"Softmax", "Exp"}
SIGMOIDS = {"Sigmoid", "HardSigmoid", "Tanh", "Clip", "Exp", "Min"}
BEST = {"TopK", "ArgMax"}
WRAPPING = {"ZipMap", "SequenceConstruct", "QuantizeLinear"}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED)
PREFIX = "candor/head/"

Rows = Float64[np.ndarray, "rows width"]


class Found(NamedTuple):
    """A head and the `tensor` that gives it: one of logits, or one of probabilities."""

    head: Head
    tensor: str
    is_logits: bool


def drop_sequences(model: ModelProto) -> None:
    """Puts, in place, tensors in the place of outputs that are lists or dictionaries of them.

    An output that is rounded to integers gives the values before. Where there are float outputs,
    the others (names of classes, say) are dropped.
    """
    makers = _makers(model)
    outputs = []
    for info in model.graph.output:
        name = info.name
        while name in makers and makers[name].op_type in WRAPPING:
            name = makers[name].input[0]
        outputs.append(info if name == info.name else ValueInfoProto(name=name))
    floats = [info for info in outputs if info.type.tensor_type.elem_type in FLOATS]
    if len(floats) < len(outputs) or outputs != list(model.graph.output):
        del model.graph.output[:]
        model.graph.output.extend(floats or outputs)
        prune(model)


def find_head(
    model: ModelProto, feed: Feed, size: Size, classes: int | None, name: str | None
) -> tuple[Head, str]:
    """The head of `model` and the tensor float32 (N, K) of its logits.

    It is the output or the tensor `name`, or the one output that has `classes` classes, any number
    if that is None. Nodes are appended to the graph, in place, where no tensor has the logits.

    Raises:
        ForeignError: no output fits, or several do; ONNX Runtime cannot run the graph.
    """
    makers = _makers(model)
    names = [output.name for output in model.graph.output] if name is None else [name]
    if name is not None and name not in makers:
        raise ForeignError(
            f"no tensor is called {name}; there are {_listed(model)}: name one with --output"
        )
    tails = {each: _tail(makers, each) for each in names}
    values = _values(model, feed, size, [tensor for tail in tails.values() for tensor in tail])
    best = {each: _best(makers, tails[each]) for each in names}
    fitting = _fitting(values, [each for each in names if best[each] is None], classes)
    if not fitting:
        raise ForeignError(_no_output(model, values, best, classes))
    found = [_found(model, values, tails[each], each) for each in fitting]
    if len({each.tensor for each in found}) > 1:
        raise ForeignError(
            f"several outputs may be the classes: {' and '.join(fitting)}; there are "
            f"{_listed(model)}: name one with --output"
        )
    chosen = next((each for each in found if each.head.meaning == "logits"), found[0])
    return chosen.head, _with_logits(model, chosen, values[chosen.tensor])


def _makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _tail(makers: Mapping[str, NodeProto], output: str) -> list[str]:
    """`output` and the tensors before it, nearest first, down to the last layers with weights."""
    found: list[str] = []
    waiting = [output]
    while waiting and len(found) < MOST_TAIL:
        name = waiting.pop(0)
        if name in makers and name not in found:
            found.append(name)
            node = makers[name]
            waiting += [] if node.op_type in LAYERS else node.input
    return found


def _best(makers: Mapping[str, NodeProto], tail: Sequence[str]) -> NodeProto | None:
    """The operator that leaves the best classes of an image alone, if there is one in `tail`."""
    return next((makers[tensor] for tensor in tail if makers[tensor].op_type in BEST), None)


def _values(
    model: ModelProto, feed: Feed, size: Size, tensors: Sequence[str]
) -> dict[str, np.ndarray]:
    """The values of `tensors` that are numbers, for drawn images, faint and strong, too."""
    shown = ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(tensors))
    show(shown, names)
    drawn = np.moveaxis(drawn_images(DRAWN, size), -1, 1).astype(np.float32)
    images = (drawn / 255 - np.float32(MEAN)) / np.float32(STD)
    batch = np.concatenate([np.float32(factor) * images for factor in FACTORS])
    found = feed.run(session_of(shown.SerializeToString()), batch, names)
    return {name: each for name, each in found.items() if each.dtype.kind == "f"}


def _fitting(
    values: Mapping[str, np.ndarray], names: Sequence[str], classes: int | None
) -> list[str]:
    """The outputs with a value for each class; of two classes one value will do."""
    widths = {name: _width(values[name]) for name in names if name in values}
    if classes is None:
        return [name for name, width in widths.items() if width]
    exact = [name for name, width in widths.items() if width == classes]
    return exact or [name for name, width in widths.items() if width == 1 and classes == 2]  # noqa: PLR2004


def _width(values: np.ndarray) -> int:
    """The number of values of an image, if they lie along one axis; else 0."""
    sides = [side for side in values.shape[1:] if side != 1]
    return 0 if len(sides) > 1 else int(np.prod(sides))


def _log_softmax(values: Rows) -> Rows:
    shifted = values - values.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _rows(values: np.ndarray) -> Rows:
    return np.asarray(values.reshape(len(values), -1), np.float64)


def _found(
    model: ModelProto, values: Mapping[str, np.ndarray], tail: Sequence[str], name: str
) -> Found:
    """The head with the output `name`, and the first tensor with its logits."""
    makers = _makers(model)
    output, step = _before_rounding(model, values, name)
    rows = _rows(values[output])
    finite = np.isfinite(rows).all(1)  # exponentials of strong images may overflow
    if not finite.any():
        raise ForeignError(
            f"the values of {name} are not finite for any drawn image: export the network again"
        )
    meaning = _meaning(rows[finite], {makers[tensor].op_type for tensor in tail}, name)
    head = Head(name, meaning, rows.shape[1], step)
    for tensor in (each for node in model.graph.node for each in node.output if each in tail):
        fits = tensor in values and values[tensor].size == rows.size
        if fits and _makes(meaning, _rows(values[tensor])[finite], rows[finite]):
            return Found(head, tensor, is_logits=True)
    return Found(head, output, is_logits=meaning == "logits")


def _before_rounding(
    model: ModelProto, values: Mapping[str, np.ndarray], name: str
) -> tuple[str, float]:
    """The tensor before the rounding of probabilities to int8, and the step of that."""
    makers = _makers(model)
    node = makers[name]
    if node.op_type != "DequantizeLinear" or node.input[0] not in makers:
        return name, 0.0
    before = makers[node.input[0]].input[0]
    known, rows = constants_of(model), values.get(before)
    if rows is None or rows.min() < 0 or rows.max() > 1 or node.input[1] not in known:
        return name, 0.0
    return before, float(numpy_helper.to_array(known[node.input[1]]).max())


def _meaning(rows: Rows, operators: set[str], name: str) -> Meaning:
    within = rows.min() >= 0 and rows.max() <= 1 + SUM_TOLERANCE
    if rows.shape[1] > 1 and within and _sum_to_one(rows):
        return "probabilities"
    if rows.shape[1] > 1 and rows.max() <= 0 and _sum_to_one(np.exp(rows)):
        return "log-probabilities"
    if not within:
        _check_unit(rows, operators, name)
        return "logits"
    if operators & SOFTMAX and ("ReduceSum" in operators or "Softmax" in operators):
        raise ForeignError(
            f"{name} is a softmax, but not over the {rows.shape[1]} values of an image, which sum "
            f"to {rows.sum(1).min():.3g} to {rows.sum(1).max():.3g}: correct its axis, or name the "
            "logits with --output"
        )
    return "sigmoids" if operators & SIGMOIDS else "logits"


def _check_unit(rows: Rows, operators: set[str], name: str) -> None:
    sums = rows.sum(1)
    if operators & SOFTMAX and rows.min() >= 0 and np.ptp(sums) <= SUM_TOLERANCE * sums.max():
        raise ForeignError(
            f"the values of {name} sum to {sums.max():.4g} for every image: name the tensor of the "
            "probabilities, which sum to 1, or that of the logits with --output"
        )


def _sum_to_one(rows: Rows) -> bool:
    return bool(np.abs(rows.sum(1) - 1).max() <= SUM_TOLERANCE)


def _makes(meaning: Meaning, candidate: Rows, rows: Rows) -> bool:
    """True if the `candidate` logits are turned into `rows` by the head."""
    if meaning == "logits":
        return bool(np.array_equal(candidate, rows))
    if not np.isfinite(candidate).all():
        return False
    if meaning == "sigmoids":
        sure = (rows > LEAST_SIGMOID) & (rows < MOST)
        return bool(
            sure.any()
            and np.allclose(1 / (1 + np.exp(-candidate)), rows, rtol=0, atol=1e-5)
            and _near(candidate[sure], np.log(rows[sure] / (1 - rows[sure])))
        )
    with np.errstate(divide="ignore"):
        logs = rows if meaning == "log-probabilities" else np.log(rows)
    # Softmax(p) is p where all p are equal: p themselves are no logits.
    if candidate.min() >= 0 and _sum_to_one(candidate):
        return False
    known = logs > np.log(LEAST)
    return _near(_log_softmax(candidate)[known], logs[known])


def _near(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool((np.abs(ours - theirs) <= LOG_TOLERANCE * (1 + np.abs(theirs))).all())


class _Appended:
    """A graph to which nodes with one output and float32 constants are appended, in place."""

    def __init__(self, model: ModelProto) -> None:
        self._graph, self._count = model.graph, 0

    def node(self, operator: str, *inputs: str | float | np.ndarray, **attributes: Any) -> str:
        """The output of a new node; numbers among its `inputs` become constants."""
        tensors = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        name = self._name(operator)
        self._graph.node.append(helper.make_node(operator, tensors, [name], name, **attributes))
        return name

    def _constant(self, value: float | np.ndarray) -> str:
        name = self._name("constant")
        array = np.asarray(value, np.float32 if isinstance(value, float) else None)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{PREFIX}{kind}_{self._count}"


def _with_logits(model: ModelProto, found: Found, values: np.ndarray) -> str:
    """The tensor float32 (N, K) of the logits, behind the one `found`, which has the `values`."""
    graph, head, tensor = _Appended(model), found.head, found.tensor
    if values.dtype != np.float32:
        tensor = graph.node("Cast", tensor, to=TensorProto.FLOAT)
    if values.ndim != MATRIX:
        tensor = graph.node("Reshape", tensor, np.array([0, head.width]))  # 0: as many as before
    if not found.is_logits and head.meaning == "probabilities":
        tensor = graph.node("Log", graph.node("Clip", tensor, CLIP))
    if not found.is_logits and head.meaning == "sigmoids":
        inside = graph.node("Clip", tensor, NEAR_ONE, 1 - NEAR_ONE)
        absence = graph.node("Sub", 1.0, inside)
        tensor = graph.node("Sub", graph.node("Log", inside), graph.node("Log", absence))
    if head.width == 1:
        tensor = graph.node("Mul", tensor, np.array([[-0.5, 0.5]], np.float32))
    return tensor


def _listed(model: ModelProto) -> str:
    return ", ".join(f"{info.name} {dims_of(info)}" for info in model.graph.output)


def _no_output(
    model: ModelProto,
    values: Mapping[str, np.ndarray],
    best: Mapping[str, NodeProto | None],
    classes: int | None,
) -> str:
    """The reason for which none of the outputs fits; `best` is `_best` of each."""
    for name, node in best.items():
        if node is not None:
            return (
                f"{name} holds the best classes of an image only ({node.op_type}): name the "
                f"tensor of all with --output, such as {node.input[0]}"
            )
    (name, width), *others = [(each, _width(values[each])) for each in best if each in values] or [
        ("", 0)
    ]
    if not (others or width) and name not in {info.name for info in model.graph.output}:
        sides = " × ".join(map(str, values[name].shape[1:])) if name in values else "no"
        return (
            f"{name} has {sides} values for an image, not one for each class: name another tensor"
        )
    if classes is not None and width > 1 and not others:
        more = abs(width - classes)
        return (
            f"the output {name} has {width:,} classes, and there are {classes:,} labels: "
            f"{more:,} {'labels are' if more > 1 else 'label is'} "
            f"{'missing' if width > classes else 'too many'}, or name another output with --output"
        )
    return (
        f"0 outputs are float32 (N, {'K' if classes is None else classes}); "
        f"there are {_listed(model)}: name one with --output, or correct --labels"
    )
