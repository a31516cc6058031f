"""Files are written in operators that can be differentiated, and answer as before."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnxscript import optimizer

from support.servers import ROOT
from training.autodiff import NEWEST_OPSET, DifferentiationError, Graph, opset_of
from training.autodiff.registry import EXPANSIONS, RULES
from training.export.ends import ForeignError
from training.export.integers import BINARY, CONCAT, UNARY
from training.export.microsoft import FUNCTIONS
from training.export.microsoft import FUSED as FUSED_OPERATORS
from training.export.opsets import CAST_LIKE, INLINED, plain

DOCUMENT = (ROOT / "docs" / "training.md").read_text()


def model_of(body, *, opset=18, shape="2,3,4", weights=None):
    """A model x → y from ONNX's text; `weights` are initialisers."""
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g (float[{shape}] x) => (float y) {{ {body} }}"
    )
    model = parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, array in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def drawn(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answers(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    sizes = [size if isinstance(size, int) else 2 for size in session.get_inputs()[0].shape]
    return session.run(["y"], {"x": drawn(*sizes, seed=3)})[0]


def gradient_of(model):
    """The gradient of the sum of y, computed by a graph."""
    graph = Graph(model)
    ones = graph.node("Add", graph.zeros_like("y"), 1.0)
    gradient = graph.gradient({"y": ones}, ["x"])["x"]
    shape = list(graph.shape("x"))
    made = graph.finish({}, {"gradient": (gradient, TensorProto.FLOAT, shape)})
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": drawn(*shape, seed=3)})[0]


C = drawn(4)
SQUARE, IMAGE = drawn(4, 4), drawn(3, 3, 3, 3)
MICROSOFT = {
    "QuickGelu": ("y = com.microsoft.QuickGelu <alpha = 1.5> (x)", {}),
    "Gelu": ("y = com.microsoft.Gelu (x)", {}),
    "BiasGelu": ("y = com.microsoft.BiasGelu (x, c)", {"c": C}),
    "FastGelu": ("y = com.microsoft.FastGelu (x)", {}),
    "FastGelu with a bias": ("y = com.microsoft.FastGelu (x, c)", {"c": C}),
    "SkipLayerNormalization": (
        "y, , , s = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (x, k, c, , c)",
        {"c": C, "k": drawn(2, 3, 4)},
    ),
    "SkipSimplifiedLayerNormalization": (
        "y = com.microsoft.SkipSimplifiedLayerNormalization (x, k, c)",
        {"c": C, "k": drawn(2, 3, 4)},
    ),
    "SimplifiedLayerNormalization": (
        "y = SimplifiedLayerNormalization <epsilon = 0.1> (x, c)",
        {"c": C},
    ),
    "FusedMatMul": ("y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w)", {"w": SQUARE}),
    "FusedMatMul transposed": (
        "y = com.microsoft.FusedMatMul <transA = 1, transB = 1> (x, w)",
        {"w": drawn(2, 5, 3)},
    ),
}
FUSED = {
    "FusedConv": 'y = com.microsoft.FusedConv <pads = [1, 1, 1, 1], activation = "Relu"> (x, w)',
    "FusedConv LeakyRelu": """
        y = com.microsoft.FusedConv <activation = "LeakyRelu", activation_params = [0.3]> (x, w)
    """,
    "FusedConv Clip": """
        y = com.microsoft.FusedConv <activation = "Clip", activation_params = [-0.5, 2.0]> (x, w)
    """,
    "FusedConv with a sum": """
        y = com.microsoft.FusedConv <pads = [1, 1, 1, 1], activation = "Relu"> (x, w, b, z)
    """,
    "FusedGemm": """
        f = Flatten (x)
        y = com.microsoft.FusedGemm
            <transB = 1, alpha = 0.5, activation = "LeakyRelu", activation_alpha = 0.2> (f, v, d)
    """,
}


# Their definitions compute with shapes that only a run of the whole file finds.
NEED_A_RUN = {"CenterCropPad", "RotaryEmbedding"}


def check(model, *, differs=1e-6, differentiates=True):
    """Checks that the plain model answers as the model does, and has a gradient."""
    made = plain(model)
    assert {node.domain for node in made.graph.node} <= {""}
    optimizer.fold_constants(made)  # the arithmetic of shapes, as for every file
    expected, found = answers(model), answers(made)
    assert np.allclose(found, expected, atol=differs), np.abs(found - expected).max()
    if differentiates:
        assert np.isfinite(gradient_of(made)).all()
    return made


@pytest.mark.parametrize("name", MICROSOFT)
def test_opsets_of_onnx_runtimes_optimiser_are_expanded(name):
    body, weights = MICROSOFT[name]
    check(model_of(body, weights=weights, opset=14))


@pytest.mark.parametrize("name", FUSED)
def test_fused_activations_are_taken_apart(name):
    weights = {"w": IMAGE, "b": drawn(3), "z": drawn(2, 3, 5, 5), "v": drawn(6, 75), "d": drawn(6)}
    check(model_of(FUSED[name], weights=weights, shape="2,3,5,5"), differs=1e-5)


def test_an_operator_of_onnx_runtime_that_is_not_expanded_is_named():
    model = plain(model_of("y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)"))
    with pytest.raises(
        DifferentiationError, match=r"com.microsoft:MultiHeadAttention.*as it was before"
    ):
        Graph(model).gradient({"y": "seed"}, ["x"])


def test_a_file_that_onnx_runtime_has_optimised_can_be_differentiated(tmp_path):
    model = model_of(
        """
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        n = LayerNormalization (r, g, g)
        scaled = Div (n, root)
        erf = Erf (scaled)
        normal = Add (erf, one)
        product = Mul (n, normal)
        gelu = Mul (product, half)
        turned = Transpose <perm = [0, 1, 3, 2]> (gelu)
        scores = MatMul (gelu, turned)
        y = Mul (scores, half)
        """,
        opset=17,
        shape="2,3,5,5",
        weights={
            "w": IMAGE,
            "g": drawn(5),
            "root": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    )
    options, path = ort.SessionOptions(), tmp_path / "optimised.onnx"
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    optimised = onnx.load(path)
    written = {node.op_type for node in optimised.graph.node if node.domain == "com.microsoft"}
    assert {"FusedConv", "FusedMatMul", "Gelu"} <= written
    check(optimised, differs=1e-5)


STANDARD = {
    "Attention": (23, "2,3,4", "y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)"),
    "Attention, causal": (
        23,
        "2,2,3,4",
        "y = Attention <is_causal = 1, scale = 0.7, softcap = 2.0> (x, x, x)",
    ),
    "RMSNormalization": (23, "2,3,4", "y = RMSNormalization <epsilon = 0.1> (x, c)"),
    "RotaryEmbedding": (23, "2,2,3,4", "y = RotaryEmbedding (x, k, s)"),
    "Swish": (24, "2,3,4", "y = Swish <alpha = 0.5> (x)"),
    "MeanVarianceNormalization": (13, "2,3,4,2", "y = MeanVarianceNormalization (x)"),
    "Shrink": (20, "2,3,4", "y = Shrink <lambd = 0.3, bias = 0.1> (x)"),
    "ReduceLogSum": (18, "2,3,4", "e = Exp (x) y = ReduceLogSum <keepdims = 0> (e, a)"),
    "CenterCropPad": (18, "2,3,4", "y = CenterCropPad <axes = [1, 2]> (x, n)"),
}


@pytest.mark.parametrize("name", STANDARD)
def test_opsets_that_the_standard_defines_by_others_are_inlined(name):
    opset, shape, body = STANDARD[name]
    weights = {
        "c": C,
        "k": drawn(2, 3, 2),
        "s": drawn(2, 3, 2, seed=2),
        "a": np.array([1]),
        "n": np.array([2, 5]),
    }
    model = model_of(body, opset=opset, shape=shape, weights=weights)
    made = check(model, differs=1e-5, differentiates=name not in NEED_A_RUN)
    assert opset_of(made) <= NEWEST_OPSET


@pytest.mark.parametrize("opset", [22, 23, 24, 25, 26])
def test_a_newer_opset_is_named_21_where_its_operators_mean_the_same(opset):
    made = plain(model_of("a = Relu (x) y = Cast <to = 1> (a)", opset=opset))
    assert opset_of(made) == NEWEST_OPSET
    assert [node.op_type for node in made.graph.node] == ["Relu", "Cast"]


def test_an_operator_that_only_newer_opsets_know_is_named():
    with pytest.raises(ForeignError, match=r"CumProd \(node y\) of opset 26 cannot be written in"):
        plain(model_of("y = CumProd (x, a)", opset=26, weights={"a": np.array(1)}))


@pytest.mark.parametrize("opset", [7, 9, 11])
def test_older_opsets_are_converted(opset):
    check(model_of("a = Relu (x) y = ReduceMean <axes = [1]> (a)", opset=opset))


def looped(rounds, *, goes_on="Identity (going)"):
    body = f"""
        y, all = Loop (count, yes, x) <body = each (int64 number, bool going, float[2,3,4] state)
            => (bool more, float[2,3,4] next, float[2,3,4] seen) {{
                more = {goes_on}
                share = Cast <to = 1> (number)
                seen = Mul (state, share)
                next = Add (seen, x)
            }}>
    """
    yes = {"yes": np.array(True), "count": np.array(rounds)}
    return model_of(body + "\n", weights=yes)


def test_a_loop_of_a_known_number_of_rounds_is_unrolled():
    made = check(looped(3))
    assert "Loop" not in {node.op_type for node in made.graph.node}


def test_a_loop_that_may_end_earlier_is_named():
    model = plain(looped(3, goes_on="Not (going)"))
    with pytest.raises(
        DifferentiationError, match=r"Loop .*: the number of its rounds is not a con"
    ):
        Graph(model).gradient({"y": "seed"}, ["x"])


def test_a_network_in_training_mode_is_refused():
    names = ["g", "d", "m", "q"]
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "a", "b"], training_mode=1)
    model = model_of("y = Relu (x)", weights={name: drawn(3) for name in names})
    model.graph.node[0].CopyFrom(node)
    with pytest.raises(ForeignError, match=r"BatchNormalization \(node y\) is in training mode"):
        plain(model)


QUANTISED = """
    r = QLinearConv <pads = [1, 1, 1, 1]> (x, sx, zx, w, sw, zw, sy, zy, b)
    a = QLinearConv (r, sy, zy, w2, sw2, zw2, sx, zx)
    s = com.microsoft.QLinearAdd (r, sy, zy, a, sx, zx, sy, zy)
    m = com.microsoft.QLinearMul (s, sy, zy, a, sx, zx, sy, zy)
    t = com.microsoft.QLinearConcat <axis = 1> (sy, zy, m, sy, zy, a, sx, zx)
    l = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (t, sy, zy, sx, zx)
    p = com.microsoft.QLinearGlobalAveragePool (l, sx, zx, sx, zx)
    f = Flatten (p)
    g = com.microsoft.QGemm <transB = 1> (f, sx, zx, v, sv, zv, c, sx, zx)
    k = QLinearMatMul (g, sx, zx, u, su, zu, sy, zy)
    y = DequantizeLinear (k, sy, zy)
"""


def quantised():
    """A network of integers, with a step for each output channel."""
    rng = np.random.default_rng(0)

    def integers(*shape):
        return rng.integers(-100, 101, shape).astype(np.int8)

    def steps(count, largest):
        return np.linspace(largest / 2, largest, count, dtype=np.float32)

    values = {
        "sx": np.float32(0.02),
        "zx": np.int8(-3),
        "sy": np.float32(0.03),
        "zy": np.int8(5),
        "w": integers(4, 3, 3, 3),
        "sw": steps(4, 4e-3),
        "zw": np.zeros(4, np.int8),
        "b": rng.integers(-9000, 9000, 4).astype(np.int32),
        "w2": integers(4, 4, 1, 1),
        "sw2": np.float32(0.01),
        "zw2": np.int8(1),
        "v": integers(6, 8),
        "sv": steps(6, 0.02),
        "zv": np.zeros(6, np.int8),
        "c": rng.integers(-900, 900, 6).astype(np.int32),
        "u": integers(6, 5),
        "su": steps(5, 0.02),
        "zu": np.zeros(5, np.int8),
    }
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>\n'
        f"agraph (int8[N, 3, 6, 6] x) => (float[N, 5] y) {{{QUANTISED}}}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )
    return model


def test_integer_arithmetic_becomes_that_between_roundings():
    model = quantised()
    plainer = plain(model)
    operators = {node.op_type for node in plainer.graph.node}
    assert not {name for name in operators if name.startswith("Q")} - {"QuantizeLinear"}
    assert {"Add", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul"} < operators
    x = np.random.default_rng(1).integers(-128, 128, (5, 3, 6, 6)).astype(np.int8)
    ours, theirs = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for each in (plainer, model)
    )
    # Where a sum lies between two integers, float32 may round it to the other one.
    assert np.abs(ours - theirs).max() < 0.031
    assert (ours == theirs).mean() > 0.9
    assert len(np.unique(theirs)) > 5


def test_an_image_that_is_rounded_by_its_batch_is_refused():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "point"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(ForeignError, match=r"DynamicQuantizeLinear \(node q\) rounds an image by"):
        plain(model)


def test_weights_may_be_standardised_by_a_norm_in_training_mode():
    names = ["g", "d", "m", "q"]
    node = helper.make_node("BatchNormalization", ["w", *names], ["k", "a", "b"], training_mode=1)
    model = model_of(
        "y = Conv (x, k)", weights={"w": drawn(2, 3, 3, 3)} | {n: drawn(3) for n in names}
    )
    model.graph.node.insert(0, node)
    assert "BatchNormalization" in {each.op_type for each in plain(model).graph.node}


def test_the_documents_list_every_operator_that_is_differentiated():
    section = DOCUMENT.split("### Which operators")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    listed = {row: set(re.findall(r"\b[A-Z]\w+", names)) for row, names in rows[1:]}
    microsoft = listed.pop("ONNX Runtime's optimiser")
    assert microsoft == {*FUNCTIONS, *FUSED_OPERATORS}
    assert listed.pop("control") == {"Loop", "Scan", "If"}
    assert listed.pop("8-bit integers (QOperator)") == {*BINARY, *UNARY, CONCAT}
    assert set().union(*listed.values()) == {*RULES, *EXPANSIONS, *INLINED, *CAST_LIKE}
