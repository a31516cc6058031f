"""The normalisation with which a graph begins is read from its constants, however it is written."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.export.ends import Names
from training.export.foreign import read_core
from training.export.inputs import Asked

SIZE, CLASSES = 8, 3
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3
ASSUMED = "the file does not say how its images are normalised"
CONSTANTS = {
    "white": 255.0,
    "zero": 0.0,
    "one": 1.0,
    "six": 6.0,
    "middle": 127.5,
    "mean": np.reshape(IMAGENET[0], (1, 3, 1, 1)),
    "std": np.reshape(IMAGENET[1], (1, 3, 1, 1)),
    "blue first": [103.939, 116.779, 123.68],
    "red first": np.reshape([123.68, 116.779, 103.939], (3, 1, 1)),
    "gain": np.reshape([0.458, 0.448, 0.45], (1, 3, 1, 1)),
    "shift": np.reshape([-0.03, -0.088, -0.188], (1, 3, 1, 1)),
    "ones": np.ones(3),
    "zeros": np.zeros(3),
    "levels": [123.68, 116.779, 103.939],
    "squares": np.square([58.4, 57.1, 57.4]),
    "small": [0.1, -0.2, 0.05],
    "level 0": 123.68,
    "level 1": 116.779,
    "level 2": 103.939,
    "shares": np.full((3, 1, 1, 1), 1 / 255),
    "shifts": np.array([-123.68, -116.779, -103.939]) / 255,
}
PLACES = {
    "turn": [2, 1, 0],
    "-1": [-1],
    "-9": [-9],
    "3": [3],
    "1": [1],
    "0 and 0": [0],
    "1 and 2": [1, 2],
    "0": [0],
    "2": [2],
}
IMAGENET_TAIL = [("Sub", ["u", "mean"], ["v"]), ("Div", ["v", "std"], ["x"])]
LAST = {"perm": [0, 3, 1, 2]}
# By the way that it is written: nodes from i to x, mean and std (None: not the file's word), last.
WRITTEN = {
    "clipped to levels first": (
        [("Clip", ["i", "zero", "white"], ["c"]), ("Div", ["c", "white"], ["u"]), *IMAGENET_TAIL],
        IMAGENET,
        False,
    ),
    "clipped to shares within": (
        [("Div", ["i", "white"], ["c"]), ("Clip", ["c", "zero", "one"], ["u"]), *IMAGENET_TAIL],
        IMAGENET,
        False,
    ),
    "clipped to shares first": (
        [("Clip", ["i", "zero", "one"], ["u"]), *IMAGENET_TAIL],
        IMAGENET,
        False,
    ),
    "levels alone": ([("Clip", ["i", "zero", "white"], ["x"])], ((0,) * 3, (1 / 255,) * 3), False),
    "halved": (
        [("Div", ["i", "middle"], ["u"]), ("Sub", ["u", "one"], ["x"])],
        ((0.5,) * 3, (0.5,) * 3),
        False,
    ),
    "turned by Gather, blue first": (
        [
            ("Gather", ["i", "turn"], ["t"], {"axis": 3}),
            ("Sub", ["t", "blue first"], ["l"]),
            ("Transpose", ["l"], ["x"], LAST),
        ],
        CAFFE,
        True,
    ),
    "turned by Slice, behind the mean": (
        [("Sub", ["i", "red first"], ["t"]), ("Slice", ["t", "-1", "-9", "1", "-1"], ["x"])],
        CAFFE,
        False,
    ),
    "turned twice": (
        [
            ("Gather", ["i", "turn"], ["t"], {"axis": 1}),
            ("Slice", ["t", "-1", "-9", "1", "-1"], ["u"]),
            ("Sub", ["u", "red first"], ["x"]),
        ],
        CAFFE,
        False,
    ),
    "by constants of constants": (
        [
            ("Neg", ["red first"], ["minus"]),
            ("Add", ["i", "minus"], ["t"]),
            ("Reciprocal", ["white"], ["share"]),
            ("Mul", ["t", "share"], ["u"]),
            ("Mul", ["squares", "squares"], ["fourth"]),
            ("Sqrt", ["fourth"], ["flat"]),
            ("Unsqueeze", ["flat", "1 and 2"], ["std of levels"]),
            ("Div", ["u", "std of levels"], ["x"]),
        ],
        (
            (123.68 / 255, 116.779 / 255, 103.939 / 255),
            tuple(float(each) for each in np.square([58.4, 57.1, 57.4])),
        ),
        False,
    ),
    "channel by channel": (
        [
            ("Split", ["i"], ["red", "green", "blue"], {"axis": 1}),
            ("Sub", ["red", "level 0"], ["red1"]),
            ("Sub", ["green", "level 1"], ["green1"]),
            ("Sub", ["blue", "level 2"], ["blue1"]),
            ("Concat", ["red1", "green1", "blue1"], ["u"], {"axis": 1}),
            ("Div", ["u", "white"], ["x"]),
        ],
        (CAFFE[0], (1.0, 1.0, 1.0)),
        False,
    ),
    "channel by channel, blue first": (
        [
            ("Slice", ["i", "0", "1", "-1"], ["red"]),
            ("Slice", ["i", "1", "2", "-1"], ["green"]),
            ("Slice", ["i", "2", "3", "-1"], ["blue"]),
            ("Sub", ["red", "level 0"], ["red1"]),
            ("Sub", ["green", "level 1"], ["green1"]),
            ("Sub", ["blue", "level 2"], ["blue1"]),
            ("Concat", ["blue1", "green1", "red1"], ["u"], {"axis": 3}),
            ("Transpose", ["u"], ["x"], LAST),
        ],
        CAFFE,
        True,
    ),
    "channels that differ in more": (
        [
            ("Split", ["i"], ["red", "green", "blue"], {"axis": 1}),
            ("Relu", ["red"], ["red1"]),
            ("Concat", ["red1", "green", "blue"], ["x"], {"axis": 1}),
        ],
        None,
        False,
    ),
    "by a convolution of single pixels": (
        [("Conv", ["i", "shares", "shifts"], ["x"], {"group": 3})],
        (CAFFE[0], (1.0, 1.0, 1.0)),
        False,
    ),
    "by a norm of levels": (
        [("BatchNormalization", ["i", "ones", "zeros", "levels", "squares"], ["x"])],
        (CAFFE[0], (58.4 / 255, 57.1 / 255, 57.4 / 255)),
        False,
    ),
    "a norm of what is normalised": (
        [("BatchNormalization", ["i", "ones", "zeros", "small", "ones"], ["x"])],
        None,
        False,
    ),
    "from ImageNet's to another": (
        [("Mul", ["i", "gain"], ["u"]), ("Add", ["u", "shift"], ["x"])],
        None,
        False,
    ),
    "a rectifier that cuts": ([("Clip", ["i", "zero", "six"], ["x"])], None, False),
}


def written(path, nodes, *, last):
    """The file of i → `nodes` → x → convolution → mean → y."""
    rng = np.random.default_rng(0)
    tensors = {
        **{name: np.asarray(value, np.float32) for name, value in CONSTANTS.items()},
        **{name: np.array(value) for name, value in PLACES.items()},
        "w": rng.normal(0, 0.3, (CLASSES, 3, 3, 3)).astype(np.float32),
    }
    body = [*nodes, ("Conv", ["x", "w"], ["c1"]), ("GlobalAveragePool", ["c1"], ["p"])]
    made = [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in body]
    shape = ["N", SIZE, SIZE, 3] if last else ["N", 3, SIZE, SIZE]
    graph = helper.make_graph(
        [*made, helper.make_node("Flatten", ["p"], ["y"])],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def answers(model, image):
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_normalisation_is_read_however_it_is_written(name, order, tmp_path):
    nodes, expected, last = WRITTEN[name]
    path = written(tmp_path / "net.onnx", nodes, last=last)
    core = read_core(path, SIZE, CLASSES, Names(), Asked(order))
    source = core.source
    if expected is None:
        assert ASSUMED in source.notes[0]
        assert (source.mean, source.std) == IMAGENET
    else:
        assert "normalises them itself" in source.notes[0]
        mean, std = (values[:: 1 if order == "rgb" else -1] for values in expected)
        assert source.mean == pytest.approx(mean, abs=1e-6)
        assert source.std == pytest.approx(std, rel=1e-4)
    x = np.random.default_rng(1).uniform(0, 1, (2, 3, SIZE, SIZE)).astype(np.float32)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (source.mean, source.std))
    x = ((x - mean) / std).astype(np.float32)
    theirs = answers(path, source.values(x))
    ours = answers(core.model.SerializeToString(), x)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
