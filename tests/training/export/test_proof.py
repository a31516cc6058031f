"""In float64 every broken rule is found, and no right graph is refused, kinks or not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.image.resize import Input
from training.autodiff.registry import RULES
from training.autodiff.relevance import RELEVANCE
from training.autodiff.rules.borrowed import LINEAR
from training.export import parity
from training.export.core import derived, predict_graph
from training.export.exact import Exact
from training.export.proof import points, prove

SIZE, CLASSES = 12, 4
SPEC = Input(SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
X = points(np.random.default_rng(5).normal(size=(4, 3, SIZE, SIZE)).astype(np.float32))
RNG = np.random.default_rng(6)
node = helper.make_node


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def predict(nodes, constants, side=SIZE):
    """The file predict.onnx of a network x → logits."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "drawn",
        [info("x", TensorProto.FLOAT, ["N", 3, side, side])],
        [info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return predict_graph(model, Input(side, SPEC.mean, SPEC.std)).SerializeToString()


def files_of(content):
    names = [contract.GRADIENT]
    if b"activation" in content:
        names.append(contract.CAM)
    return {contract.PREDICT: content} | derived(content, names)


# Each operator stands once, so that a broken rule breaks one node.
EVERY = predict(
    [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("PRelu", ["c", "s"], ["p"]),
        node("GroupNormalization", ["p", "gs", "gb"], ["g"], num_groups=2),
        node("Resize", ["g", "", "scales"], ["r"], mode="linear"),
        node("LeakyRelu", ["r"], ["l"], alpha=0.1),
        node("MaxPool", ["l"], ["m"], kernel_shape=[3, 3], strides=[2, 2]),
        node("Relu", ["m"], ["u"]),
        node("Neg", ["m"], ["n"]),
        node("Sigmoid", ["n"], ["q"]),
        node("Mul", ["u", "q"], ["f"]),
        node("Clip", ["m", "low", "high"], ["i"]),
        node("Sub", ["f", "i"], ["d"]),
        node("Concat", ["d", "m"], ["t"], axis=1),
        node("AveragePool", ["t"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("BatchNormalization", ["a", "bs", "bb", "bm", "bv"], ["b"]),
        node("Gelu", ["b"], ["e"]),
        node("Tanh", ["b"], ["h"]),
        node("Max", ["e", "h"], ["activation"]),
        node("Div", ["activation", "over"], ["v"]),
        node("ReduceMax", ["v", "axes"], ["z"], keepdims=0),
        node("ReduceMean", ["v", "axes"], ["y"], keepdims=0),
        node("Add", ["z", "y"], ["w"]),
        node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        node("Gemm", ["wt", "head", "bias"], ["logits"], transA=1),
    ],
    {
        "k": weights(4, 3, 3, 3),
        "s": weights(4, 1, 1),
        "gs": weights(4),
        "gb": weights(4),
        "scales": np.array([1, 1, 1.5, 1.5], np.float32),
        "low": np.array(-0.5, np.float32),
        "high": np.array(0.7, np.float32),
        "bs": weights(8),
        "bb": weights(8),
        "bm": weights(8),
        "bv": np.abs(weights(8)) + 0.5,
        "over": np.array(1.7, np.float32),
        "axes": np.array([2, 3], np.int64),
        "head": weights(8, CLASSES),
        "bias": weights(CLASSES),
    },
)


# Scales by which some values round to the lowest integer and others, below, are clipped to it.
QUANTISED = predict(
    [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["k", "sk"], ["kd"], axis=0),
        node("Conv", ["xd", "kd"], ["c"]),
        node("QuantizeLinear", ["c", "sc", "zc"], ["cq"]),
        node("DequantizeLinear", ["cq", "sc", "zc"], ["activation"]),
        node("GlobalAveragePool", ["activation"], ["p"]),
        node("Flatten", ["p"], ["logits"]),
    ],
    {
        "sx": np.array(0.02, np.float32),
        "zx": np.array(3, np.int8),
        "k": np.random.default_rng(7).integers(-127, 128, (CLASSES, 3, 3, 3)).astype(np.int8),
        "sk": np.linspace(1e-3, 4e-3, CLASSES, dtype=np.float32),
        "sc": np.array(0.05, np.float32),
        "zc": np.array(0, np.uint8),
    },
)


def negated(ctx, gradients):
    return {index: ctx.graph.node("Neg", each) for index, each in gradients.items()}


def scaled(ctx, gradients):
    return {index: ctx.graph.node("Mul", each, 1.0001) for index, each in gradients.items()}


def mirrored(ctx, gradients):
    bounds = [ctx.graph.integers(value) for value in (-1, -(2**31), -1, -1)]
    return {index: ctx.graph.node("Slice", each, *bounds) for index, each in gradients.items()}


def without_mask(ctx, _):
    return {0: ctx.gradient}


def without_a_term(ctx, gradients):
    last = max(gradients)
    return {index: each for index, each in gradients.items() if index != last} | {
        last: ctx.graph.zeros_like(gradients[last])
    }


OPERATORS = sorted({each.op_type for each in onnx.load_model_from_string(EVERY).graph.node})
PASSED = {"Cast"}  # before x
BROKEN = [
    *((name, negated) for name in OPERATORS if name in RULES and name not in PASSED),
    *((name, scaled) for name in ("Conv", "AveragePool", "Gelu", "GroupNormalization", "Gemm")),
    *((name, mirrored) for name in ("Conv", "MaxPool", "Resize", "Max", "Clip")),
    *((name, without_mask) for name in ("Relu", "Clip", "LeakyRelu", "PRelu")),
    *((name, without_a_term) for name in ("Add", "Sub", "Mul", "Concat", "Max")),
]


def test_a_right_graph_is_proven_through_every_kink():
    measured = prove(files_of(EVERY), X).measured
    assert parity.check(measured) == measured
    assert set(measured) == {"exact/logits", "exact/saliency", "exact/grad_cam"}
    assert {entry.pictures for entry in measured.values()} == {4}
    assert max(entry.relative_difference for entry in measured.values()) < 5e-7


def test_a_graph_of_rounded_tensors_is_proven_where_they_are_clipped():
    measured = prove(files_of(QUANTISED), X).measured
    assert parity.check(measured) == measured
    assert {entry.pictures for entry in measured.values()} == {4}
    clipped = Exact(onnx.load_model_from_string(QUANTISED), ["c"], given=["x"]).run({"x": X})[0]
    between = (clipped < 0) & (clipped > -0.025)  # these round to 0, and are not clipped
    assert between.any()
    assert (clipped < -0.025).any()


@pytest.mark.parametrize(
    ("operator", "fault"), BROKEN, ids=[f"{name} {fault.__name__}" for name, fault in BROKEN]
)
def test_a_broken_rule_is_refused(operator, fault, monkeypatch):
    right = RULES[operator]
    monkeypatch.setitem(RULES, operator, lambda ctx: fault(ctx, dict(right(ctx))))
    with pytest.raises(parity.ParityError, match=r"differs from complex step, in float64"):
        parity.check(prove(files_of(EVERY), X).measured)


BORROWED = predict(  # operators whose rule is that of onnx-ad; a real filter in between
    [
        node("Conv", ["x", "k"], ["c"], strides=[2, 2], kernel_shape=[2, 2]),
        node("Reshape", ["c", "blocks"], ["r"]),
        node("Col2Im", ["r", "sides", "block"], ["f"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Unsqueeze", ["f", "last"], ["u"]),
        node("DFT", ["u", "", "axis"], ["d"]),
        node("Mul", ["d", "filter"], ["m"]),
        node("DFT", ["m", "", "axis"], ["i"], inverse=1),
        node("ReduceSumSquare", ["i", "axes"], ["s"], keepdims=0),
        node("Gemm", ["s", "head"], ["logits"]),
    ],
    {
        "k": weights(18, 3, 2, 2),
        "blocks": np.array([-1, 18, 36], np.int64),
        "sides": np.array([12, 12], np.int64),
        "block": np.array([3, 3], np.int64),
        "last": np.array([-1], np.int64),
        "axis": np.array(2, np.int64),
        "filter": weights(2, 12, 12, 1),
        "axes": np.array([2, 3, 4], np.int64),
        "head": weights(2, CLASSES),
    },
)


def test_borrowed_rules_are_proven_like_ours():
    measured = prove(files_of(BORROWED), X).measured
    assert parity.check(measured) == measured
    assert max(entry.relative_difference for entry in measured.values()) < 1e-6


@pytest.mark.parametrize("operator", LINEAR)
def test_a_broken_borrowed_rule_is_refused(operator, monkeypatch):
    right = RULES[operator]
    monkeypatch.setitem(RULES, operator, lambda ctx: scaled(ctx, dict(right(ctx))))
    with pytest.raises(parity.ParityError, match=r"differs from complex step, in float64"):
        parity.check(prove(files_of(BORROWED), X).measured)


def test_a_wrong_map_is_refused():
    files = files_of(EVERY)
    model = onnx.load_model_from_string(files[contract.CAM])
    (output,) = (each for each in model.graph.node if "cam" in each.output)
    output.op_type = "Neg"
    files[contract.CAM] = model.SerializeToString()
    with pytest.raises(parity.ParityError, match="grad_cam differs from complex step"):
        parity.check(prove(files, X).measured)


def test_other_logits_than_those_of_predict_onnx_are_refused():
    files = files_of(EVERY)
    model = onnx.load_model_from_string(files[contract.GRADIENT])
    (bias,) = (each for each in model.graph.initializer if each.name.endswith("bias"))
    values = numpy_helper.to_array(bias) * np.float32(1.0001)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    files[contract.GRADIENT] = model.SerializeToString()
    with pytest.raises(parity.ParityError, match=r"logits differs from predict\.onnx"):
        parity.check(prove(files, X).measured)


def head(*nodes, **constants):
    """The network that `nodes` make of x, up to "map" (N, 4, h, w), with its mean as logits."""
    last = [node("GlobalAveragePool", ["map"], ["mean"]), node("Flatten", ["mean"], ["logits"])]
    return predict([*nodes, *last], constants)


def test_constant_logits_are_left_out_and_counted():
    normalised = node("InstanceNormalization", ["c", "scale", "bias"], ["map"])
    content = head(
        node("Conv", ["x", "k"], ["c"]),
        normalised,
        k=weights(4, 3, 3, 3),
        scale=weights(4),
        bias=weights(4),
    )
    measured = prove(files_of(content), X).measured
    assert parity.check(measured) == measured
    assert (measured["exact/saliency"].pictures, measured["exact/saliency"].left_out) == (0, 4)


def test_tiny_logits_are_proven_like_others():
    small = np.float32(1e-18)
    content = head(
        node("Conv", ["x", "k"], ["c"]), node("Relu", ["c"], ["map"]), k=small * weights(4, 3, 3, 3)
    )
    (entry,) = (
        value for name, value in prove(files_of(content), X).measured.items() if "saliency" in name
    )
    assert (entry.pictures, entry.left_out) == (4, 0)
    assert entry.relative_difference < 1e-7  # the constant of the mean is float32


def test_an_image_is_moved_off_its_ties():
    x = points(np.zeros((40, 3, SIZE, SIZE), np.float32))
    assert len(x) == 40
    assert len(np.unique(x)) > 0.9 * x.size
    assert np.array_equal(x, x.astype(np.float32))
    assert len(points(np.zeros((9, 3, 224, 224), np.float32))) == 4


# Each rule of relevance that is not the gradient's stands once or twice.
ATTENTION = predict(
    [
        node("Conv", ["x", "k"], ["patches"], strides=[4, 4]),
        node("InstanceNormalization", ["patches", "is", "ib"], ["inorm"]),
        node("GroupNormalization", ["inorm", "gs", "gb"], ["gnorm"], num_groups=2),
        node("Reshape", ["gnorm", "grid"], ["rows"]),
        node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
        node("LayerNormalization", ["tokens", "ls", "lb"], ["norm"]),
        node("MatMul", ["norm", "q"], ["query"]),
        node("Transpose", ["query"], ["key"], perm=[0, 2, 1]),
        node("MatMul", ["norm", "key"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("Einsum", ["weights", "norm"], ["mixed"], equation="nij,njd->nid"),
        node("Add", ["tokens", "mixed"], ["sum"]),
        node("Gelu", ["sum"], ["gelu"]),
        node("HardSwish", ["mixed"], ["swish"]),
        node("Sigmoid", ["sum"], ["gate"]),
        node("Tanh", ["mixed"], ["tanh"]),
        node("Mul", ["gate", "tanh"], ["gated"]),
        node("Mul", ["gelu", "swish"], ["product"]),
        node("Add", ["gated", "product"], ["both"]),
        node("ReduceMean", ["both", "axes"], ["mean"], keepdims=0),
        node("Gemm", ["mean", "head", "bias"], ["logits"]),
    ],
    {
        "k": weights(8, 3, 4, 4),
        **{name: weights(8) for name in ("is", "ib", "gs", "gb", "ls", "lb")},
        "grid": np.array([0, 8, 9], np.int64),
        "q": weights(8, 8),
        "axes": np.array([1], np.int64),
        "head": weights(8, CLASSES),
        "bias": weights(CLASSES),
    },
)
PRODUCTS = ("Einsum", "MatMul", "Mul")
NORMS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization")
BROKEN_RELEVANCE = [
    *((name, scaled) for name in (*PRODUCTS, *NORMS, "Gelu", "HardSwish", "Tanh", "Softmax")),
    # The gradient in the place of relevance.
    *((name, None) for name in (*PRODUCTS, *NORMS, "Gelu", "HardSwish", "Tanh")),
]


def relevance_files():
    return {contract.PREDICT: ATTENTION} | derived(ATTENTION, [contract.GRADIENT, contract.LRP])


def test_right_relevance_is_proven_and_its_sum_is_compared():
    proof = prove(relevance_files(), X)
    assert parity.check(proof.measured) == proof.measured
    entry = proof.measured["exact/attn_lrp"]
    assert (entry.against, entry.pictures) == ("relevance forwards", 4)
    assert entry.relative_difference < 5e-7
    assert proof.relevance.shape == X.shape


@pytest.mark.parametrize(
    ("operator", "fault"),
    BROKEN_RELEVANCE,
    ids=[
        f"{name} {fault.__name__ if fault else 'as gradient'}" for name, fault in BROKEN_RELEVANCE
    ],
)
def test_a_broken_rule_of_relevance_is_refused(operator, fault, monkeypatch):
    right = RELEVANCE[operator]
    wrong = RULES[operator] if fault is None else lambda ctx: fault(ctx, dict(right(ctx)))
    monkeypatch.setitem(RELEVANCE, operator, wrong)
    with pytest.raises(parity.ParityError, match="attn_lrp differs from relevance forwards"):
        parity.check(prove(relevance_files(), X).measured)


@pytest.mark.parametrize("fault", [negated, scaled])
def test_a_broken_rule_is_refused_by_the_fewer_directions_of_large_images(fault, monkeypatch):
    side = 96
    content = predict(
        [
            node("Conv", ["x", "k"], ["c"], strides=[8, 8]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["mean"]),
            node("Flatten", ["mean"], ["logits"]),
        ],
        {"k": weights(CLASSES, 3, 8, 8)},
        side,
    )
    x = points(np.random.default_rng(7).standard_normal((4, 3, side, side)).astype(np.float32))
    measured = prove(files_of(content), x).measured
    assert parity.check(measured) == measured
    right = RULES["Relu"]
    monkeypatch.setitem(RULES, "Relu", lambda ctx: fault(ctx, dict(right(ctx))))
    with pytest.raises(parity.ParityError, match=r"saliency differs from complex step"):
        parity.check(prove(files_of(content), x).measured)
