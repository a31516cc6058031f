"""Shape arithmetic of any exporter is settled; graphs take any batch; failures are sentences."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.autodiff import DifferentiationError, gradient_graph
from training.export.ends import ForeignError, Names
from training.export.foreign import read_core

SIZE, CLASSES, WIDTH = 16, 5, 8
BATCHES = {"free": "N", "fixed": 1}


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs.split(), outputs.split(), outputs, **attributes)


def weights():
    rng = np.random.default_rng(0)
    drawn = {"w": (WIDTH, 3, 8, 8), "v": (CLASSES, WIDTH), "class": (1, 1, WIDTH)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in drawn.items()}
    integers = {"0": 0, "1": 1, "[0]": [0], "[1]": [1], "[-1]": [-1], "[2]": [2], "[8]": [WIDTH]}
    arrays |= {name: np.array(value, np.int64) for name, value in integers.items()}
    arrays |= {"-1": np.array(-1, np.int64), "[8]/32": np.array([WIDTH], np.int32)}
    arrays |= {"tokens": np.array([0, WIDTH, 4]), "one image": np.array([1, WIDTH, 4])}
    return arrays


def file_of(nodes, tmp_path, batch="N", opset=17, **more):
    """x → patches c (N, 8, 2, 2) → `nodes` → f (N, 8) → logits."""
    arrays = weights() | more
    body = [
        node("Conv", "x w", "c", strides=[8, 8]),
        *nodes,
        node("Gemm", "f v", "y", transB=1),
    ]
    used = {name for part in body for name in part.input}
    graph = helper.make_graph(
        body,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items() if name in used],
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return path


TOKENS = [node("Reshape", "c tokens", "q"), node("Transpose", "q", "k", perm=[0, 2, 1])]
MIXED = [
    node("Concat", "token k", "all", axis=1),
    node("Softmax", "all", "soft", axis=1),
    node("Gather", "soft 0", "f", axis=1),
]
ROWS = [
    node("Shape", "k", "shape"),
    node("Gather", "shape 0", "rows", axis=0),
    node("Unsqueeze", "rows [0]", "rows1"),
]
KINDS = {
    # A class token, as TorchScript writes x.expand(n, -1, -1).
    "where over equal": [
        *TOKENS,
        *ROWS,
        node("Concat", "rows1 [-1] [-1]", "wanted", axis=0),
        node("Equal", "wanted [-1]", "open"),
        node("Where", "open [1] wanted", "filled"),
        node("Expand", "class filled", "token"),
        *MIXED,
    ],
    # Keras' Flatten, as tf2onnx and Paddle write it.
    "int32 casts": [
        node("Shape", "c", "shape"),
        node("Cast", "shape", "shape32", to=TensorProto.INT32),
        node("Slice", "shape32 [0] [1] [0]", "rows"),
        node("Concat", "rows [8]/32 rest", "wanted", axis=0),
        node("Cast", "wanted", "wanted64", to=TensorProto.INT64),
        node("Reshape", "c wanted64", "k"),
        node("Tanh", "k", "bent"),
        node("ReduceMean", "bent", "f", axes=[2], keepdims=0),
    ],
    # A border, as TorchScript writes torch.nn.functional.pad.
    "pads": [
        node("ConstantOfShape", "[8]/2", "none", value=helper.make_tensor("v", 7, [1], [0])),
        node("Concat", "borders none", "listed", axis=0),
        node("Reshape", "listed pairs", "paired"),
        node("Slice", "paired [-1] far [0] [-1]", "reversed"),
        node("Transpose", "reversed", "turned", perm=[1, 0]),
        node("Reshape", "turned [-1]", "flat"),
        node("Cast", "flat", "pads", to=TensorProto.INT64),
        node("Pad", "c pads", "padded"),
        node("Tanh", "padded", "bent"),
        node("ReduceMean", "bent", "f", axes=[2, 3], keepdims=0),
    ],
    # Tokens beside themselves in the opposite order, as more rows, and their mean.
    "an image beside its mirror image": [
        *TOKENS,
        node("Slice", "k [-1] far [1] [-1]", "turned"),
        node("Concat", "k turned", "both", axis=0),
        node("Tanh", "both", "bent"),
        node("ReduceMean", "bent", "means", axes=[1], keepdims=0),
        node("Reshape", "means pairs8", "apart"),
        node("ReduceMean", "apart", "f", axes=[0], keepdims=0),
    ],
    # A window whose bounds are computed from the shape, and a slice of all rows.
    "slices": [
        *TOKENS,
        *ROWS,
        node("Gather", "shape 1", "count", axis=0),
        node("Sub", "count 1", "less"),
        node("Unsqueeze", "less [0]", "end"),
        node("Slice", "k [1] end [1]", "middle"),
        node("Slice", "middle [0] rows1 [0]", "kept"),
        node("Tanh", "kept", "bent"),
        node("ReduceMean", "bent", "f", axes=[1], keepdims=0),
    ],
}


def squeezing():
    """A Squeeze that TorchScript is not sure of: an If on a dimension."""
    info = helper.make_tensor_value_info
    branches = {
        "then_branch": helper.make_graph(
            [node("Squeeze", "pooled [2]", "thin")], "t", [], [info("thin", 1, None)]
        ),
        "else_branch": helper.make_graph(
            [node("Identity", "pooled", "same")], "e", [], [info("same", 1, None)]
        ),
    }
    return [
        *TOKENS,
        node("Transpose", "k", "q2", perm=[0, 2, 1]),
        node("Tanh", "q2", "bent"),
        node("ReduceMean", "bent", "pooled", axes=[2], keepdims=1),
        node("Shape", "pooled", "shape"),
        node("Gather", "shape [2]", "last", axis=0),
        node("Equal", "last [1]", "is_one"),
        node("If", "is_one", "f", **branches),
    ]


def answers(path, model, rows):
    """Logits of the file, image by image, and of the core."""
    x = np.random.default_rng(1).normal(size=(rows, 3, SIZE, SIZE)).astype(np.float32)
    cpu = ["CPUExecutionProvider"]
    theirs = ort.InferenceSession(path, providers=cpu)
    ours = ort.InferenceSession(model.SerializeToString(), providers=cpu)
    expected = np.concatenate([theirs.run(None, {"x": row[None]})[0] for row in x])
    return ours.run(["logits"], {"x": x})[0], expected, x


def slope(model, x):
    """The derivative of the first logit along the images' own gradient, and its difference."""
    session = ort.InferenceSession(
        gradient_graph(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    target = np.zeros(len(x), np.int64)
    gradient = session.run(["gradient"], {"x": x, "target": target})[0]
    norm = np.sqrt((gradient**2).sum((1, 2, 3)))
    step = 1e-2 * gradient / norm[:, None, None, None]
    ahead, behind = (
        session.run(["logits"], {"x": x + sign * step, "target": target})[0][:, 0]
        for sign in (1, -1)
    )
    return norm, (ahead - behind) / 2e-2


def needed(kind):
    """The shape arithmetic that stays: a token is expanded to the rows of the batch."""
    return {"Shape"} if kind == "where over equal" else set()


@pytest.mark.parametrize("kind", [*KINDS, "if"])
def test_shape_arithmetic_is_settled_and_differentiated(kind, tmp_path):
    nodes = squeezing() if kind == "if" else KINDS[kind]
    sizes = {
        "pairs": [-1, 2],
        "pairs8": [2, -1, 8],
        "far": [-(2**63) + 1],
        "borders": [1, 0, 0, 1],
        "[8]/2": [4],
    }
    arrays = {name: np.array(value) for name, value in sizes.items()}
    path = file_of(nodes, tmp_path, rest=np.array([4], np.int32), **arrays)
    model = read_core(path, SIZE, CLASSES, Names()).model
    operators = {part.op_type for part in model.graph.node}
    assert not operators & {"If", "Where", "Shape", "ConstantOfShape"} - needed(kind)
    for rows in (1, 5):
        ours, expected, x = answers(path, model, rows)
        assert np.abs(ours - expected).max() < 1e-4
    norm, difference = slope(model, x)
    assert norm == pytest.approx(difference, rel=0.02)


@pytest.mark.parametrize("kind", ["token", "expanded token", "merged and parted"])
def test_a_file_for_one_image_takes_a_batch(kind, tmp_path):
    token = [node("Identity", "class", "token")]
    if kind == "expanded token":
        token = [node("Expand", "class one", "token")]
    parts = [
        node("Reshape", "c one_image", "q"),
        node("Transpose", "q", "k", perm=[0, 2, 1]),
        *token,
        *MIXED,
    ]
    if kind == "merged and parted":
        parts = [
            node("Reshape", "c merged", "m"),
            node("Softmax", "m", "s", axis=1),
            node("Reshape", "s parted", "k"),
            node("Tanh", "k", "bent"),
            node("ReduceMean", "bent", "f", axes=[2], keepdims=0),
        ]
    path = file_of(
        parts,
        tmp_path,
        batch=1,
        one=np.array([1, 1, WIDTH]),
        one_image=np.array([1, WIDTH, 4]),
        merged=np.array([WIDTH, 4]),
        parted=np.array([1, WIDTH, 4]),
    )
    model = read_core(path, SIZE, CLASSES, Names()).model
    for rows in (1, 3):
        ours, expected, x = answers(path, model, rows)
        assert np.abs(ours - expected).max() < 1e-4
    norm, difference = slope(model, x)
    assert norm == pytest.approx(difference, rel=0.02)


PLAIN = [node("GlobalMaxPool", "c", "p"), node("Flatten", "p", "f")]
REFUSED = {
    "acme:Pool is no operator of ONNX Runtime": (
        [helper.make_node("Pool", ["c"], ["p"], "pool", domain="acme"), PLAIN[1]],
        {},
    ),
    r"cannot run the graph.*Reshape \(node q\) failed.*correct --size": (
        [node("Reshape", "c odd", "q"), node("ReduceMax", "q", "f", axes=[2], keepdims=0)],
        {"odd": np.array([0, WIDTH, 5])},
    ),
    "an image gets another answer.*free batch": (
        [
            node("ReduceMean", "c", "m", axes=[0]),
            node("Sub", "c m", "d"),
            node("GlobalMaxPool", "d", "p"),
            PLAIN[1],
        ],
        {},
    ),
    r"BatchNormalization \(node n\) is in training mode: .*eval": (
        [
            node("BatchNormalization", "c g g g g", "n", training_mode=1),
            node("GlobalMaxPool", "n", "p"),
            PLAIN[1],
        ],
        {"g": np.ones(WIDTH, np.float32)},
    ),
    "cannot load the graph: .*'nowhere' is not a graph input.*; export": (
        [node("GlobalMaxPool", "c", "p"), node("Reshape", "p nowhere", "f")],
        {},
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_refusal_names_the_reason_and_a_remedy(sentence, tmp_path):
    nodes, more = REFUSED[sentence]
    with pytest.raises(ForeignError, match=sentence):
        read_core(file_of(nodes, tmp_path, **more), SIZE, CLASSES, Names())


def test_an_operator_of_the_optimizer_is_named_as_such(tmp_path):
    fused = helper.make_node("Trilu", ["c"], ["a"], "fused", domain="com.microsoft")
    path = file_of([fused, node("GlobalMaxPool", "a", "p"), PLAIN[1]], tmp_path)
    model = onnx.load(path)
    model.opset_import[1].domain = "com.microsoft"
    onnx.save(model, path)
    core = read_core(path, SIZE, CLASSES, Names())
    with pytest.raises(DifferentiationError, match="optimiser or quantiser wrote it; give"):
        gradient_graph(core.model)


def test_a_missing_file_of_weights_is_named(tmp_path):
    path = file_of(PLAIN, tmp_path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ForeignError, match=r"w\.bin is missing, in which .*net\.onnx keeps"):
        read_core(path, SIZE, CLASSES, Names())


def test_a_second_input_is_named(tmp_path):
    path = file_of([node("GlobalMaxPool", "c", "p"), node("Reshape", "p sizes", "f")], tmp_path)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]))
    onnx.save(model, path)
    with pytest.raises(ForeignError, match="depends on a second input, sizes: make it a constant"):
        read_core(path, SIZE, CLASSES, Names())


def test_a_mask_of_ones_grows_with_the_batch(tmp_path):
    nodes = [
        node("Dropout", "c", "d mask"),
        node("Cast", "mask", "ones", to=TensorProto.FLOAT),
        node("Mul", "d ones", "m"),
        node("ReduceMean", "m", "f", axes=[2, 3], keepdims=0),
    ]
    assert_same_answers(file_of(nodes, tmp_path))


@pytest.mark.parametrize("back", [0, 1], ids=["forwards", "backwards"])
def test_a_scan_over_pixels_is_unrolled(back, tmp_path):
    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    body = helper.make_graph(
        [node("Add", "h r", "s"), node("Tanh", "s", "next"), node("Identity", "next", "kept")],
        "body",
        [info("h"), info("r")],
        [info("next"), info("kept")],
    )
    nodes = [
        node("ReduceMean", "c", "rows", axes=[3], keepdims=0),
        node("Transpose", "rows", "steps", perm=[2, 0, 1]),
        node("ReduceMax", "steps", "start", axes=[0], keepdims=0),
        node(
            "Scan",
            "start steps",
            "end all",
            num_scan_inputs=1,
            scan_input_directions=[back],
            body=body,
        ),
        node("ReduceMean", "all", "middle", axes=[0], keepdims=0),
        node("Add", "end middle", "f"),
    ]
    assert_same_answers(file_of(nodes, tmp_path))


def assert_same_answers(path):
    core = read_core(path, SIZE, CLASSES, Names()).model
    assert not {"Dropout", "Scan"} & {each.op_type for each in core.graph.node}
    x = np.random.default_rng(1).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    (expected,) = ort.InferenceSession(path).run(None, {"x": x})
    graph = gradient_graph(core).SerializeToString()
    session = ort.InferenceSession(graph)
    logits, gradient = session.run(["logits", "gradient"], {"x": x, "target": np.full(3, -1)})
    assert np.abs(logits - expected).max() < 1e-5
    assert np.abs(gradient).max() > 0
