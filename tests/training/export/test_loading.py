"""A file is loaded however it spells its graph, or a sentence says what it is instead."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.autodiff import constants_of
from training.export.ends import ForeignError, Names
from training.export.foreign import read_core
from training.export.loading import load

SIZE, CLASSES = 8, 3


def network(*, opset=17, ir=8, domain=""):
    """A convolution, its mean and a linear layer with few weights that are not 0."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "same", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "same"),
        helper.make_node("Flatten", ["p"], ["f"], "same"),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], "other", transB=1),
    ]
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)),
        "v": np.eye(CLASSES, 4),
        "b": rng.normal(size=CLASSES),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    opsets = [helper.make_opsetid(domain, opset)] if opset else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    if not opset:
        del model.opset_import[:]
    return model


def in_another_order():
    model = network()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def sparse(*, flat):
    """The linear layer's weights as a sparse initialiser, with flat places or one for each axis."""
    model = network()
    values = np.ones(CLASSES, np.float32)
    places = np.arange(CLASSES) * 5 if flat else np.repeat(np.arange(CLASSES)[:, None], 2, 1)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(values, "v"),
            numpy_helper.from_array(places.astype(np.int64), "v places"),
            [CLASSES, 4],
        )
    )
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "v"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def sparse_constant():
    model = sparse(flat=True)
    (tensor,) = model.graph.sparse_initializer
    model.graph.node.insert(0, helper.make_node("Constant", [], ["v"], sparse_value=tensor))
    del model.graph.sparse_initializer[:]
    return model


def as_constants():
    model = network()
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    return model


SPELLINGS = {
    "the domain ai.onnx": lambda: network(domain="ai.onnx"),
    "nodes in another order": in_another_order,
    "an IR version that nobody knows yet": lambda: network(ir=99),
    "IR version 3, whose weights are no inputs": lambda: network(opset=7, ir=3),
    "sparse weights": lambda: sparse(flat=True),
    "sparse weights, a place for each axis": lambda: sparse(flat=False),
    "a sparse constant": sparse_constant,
    "weights in Constant nodes": as_constants,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_without_another_meaning_changes_no_weight(name, tmp_path):
    onnx.save(network(), tmp_path / "plain.onnx")
    onnx.save(SPELLINGS[name](), tmp_path / "net.onnx")
    plain, core = (
        read_core(tmp_path / file, SIZE, CLASSES, Names()).model
        for file in ("plain.onnx", "net.onnx")
    )
    weights, expected = (
        {name: numpy_helper.to_array(tensor) for name, tensor in constants_of(model).items()}
        for model in (core, plain)
    )
    assert weights.keys() >= {"w", "v", "b"}
    assert all(np.array_equal(weights[key], expected[key]) for key in "wvb")
    operators = [node.op_type for node in core.graph.node if node.op_type != "Constant"]
    assert operators == [node.op_type for node in plain.graph.node]


def test_nodes_of_the_same_name_lose_it_and_others_keep_theirs(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    assert [node.name for node in load(tmp_path / "net.onnx").graph.node] == ["", "", "", "other"]


def without(part):
    model = network()
    model.graph.ClearField(part)
    return model.SerializeToString()


CONTENTS = {
    "empty": (b"", "net.onnx is empty: export the network again"),
    "without nodes": (without("node"), "net.onnx has no network"),
    "without outputs": (without("output"), "net.onnx has no output"),
    "of no opset": (network(opset=0).SerializeToString(), "opset none, .* in an opset from 7"),
    "of a later opset": (network(opset=99).SerializeToString(), "opset 99, and the newest here"),
    "of torch.save": (b"PK\x03\x04" + bytes(99), "an archive, as torch.save writes it"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a page": (b"<!DOCTYPE html><html></html>", "a page of HTML"),
    "text": (b"weights and more weights\n" * 9, "is no ONNX file"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_that_is_no_network_is_named_as_what_it_is(name, tmp_path):
    content, message = CONTENTS[name]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ForeignError, match=message):
        read_core(tmp_path / "net.onnx", SIZE, CLASSES, Names())
