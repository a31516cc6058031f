"""Lists of tensors are taken apart, whichever way they are made and read."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.image.resize import Input
from training.export.core import graphs
from training.export.ends import Names
from training.export.foreign import read_core

SIZE, CLASSES = 8, 3
node = helper.make_node
TENSORS = {
    "w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)),
    "head": np.random.default_rng(1).normal(size=(4, CLASSES)),
    "one": np.array(1),
    "last": np.array(-1),
    "three": np.array(3),
    "1 and 3": np.array([1, 3]),
    "2 and 3": np.array([2, 3]),
}
# By the way that lists are written: nodes from c (N, 4, 8, 8) to o (N, 4, …).
WRITTEN = {
    "chunks of a size": [
        node("SplitToSequence", ["c", "three"], ["list"], axis=2),
        node("SequenceAt", ["list", "last"], ["o"]),
    ],
    "parts of sizes": [
        node("SplitToSequence", ["c", "1 and 3"], ["list"], axis=1),
        node("ConcatFromSequence", ["list"], ["o"], axis=1),
    ],
    "elements": [
        node("SplitToSequence", ["c"], ["list"], axis=3, keepdims=0),
        node("SequenceErase", ["list", "one"], ["fewer"]),
        node("Identity", ["fewer"], ["same"]),
        node("ConcatFromSequence", ["same"], ["o"], axis=2, new_axis=1),
    ],
    "one by one": [
        node("SequenceEmpty", [], ["none"]),
        node("SequenceInsert", ["none", "c"], ["first"]),
        node("Tanh", ["c"], ["t"]),
        node("SequenceInsert", ["first", "t"], ["second"]),
        node("SequenceConstruct", ["t", "c"], ["pair"]),
        node("SequenceLength", ["pair"], ["length"]),
        node("Cast", ["length"], ["factor"], to=TensorProto.FLOAT),
        node("ConcatFromSequence", ["second"], ["both"], axis=2),
        node("Mul", ["both", "factor"], ["o"]),
    ],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_list_of_tensors_is_differentiated_however_it_is_written(name, tmp_path):
    nodes = [
        node("Conv", ["i", "w"], ["c"], pads=[1] * 4),
        *WRITTEN[name],
        node("ReduceMean", ["o"], ["m"], axes=[2, 3], keepdims=0),
        node("MatMul", ["m", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
            for k, v in TENSORS.items()
        ],
    )
    path = tmp_path / "net.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    core = read_core(path, SIZE, CLASSES, Names())
    assert not any("Sequence" in each.op_type for each in core.model.graph.node)
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    (expected,) = ort.InferenceSession(path).run(None, {"i": x})
    files = graphs(core, Input(SIZE, (0.5,) * 3, (0.25,) * 3))
    session = ort.InferenceSession(files["gradient.onnx"])
    logits, gradient = session.run(["logits", "gradient"], {"x": x, "target": np.full(2, -1)})
    assert np.abs(logits - expected).max() < 1e-5
    assert np.abs(gradient).max() > 0
