"""The loss of bfloat16 is measured on rounded graphs, and noted in the manifest."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from service.bundle.manifest import Bfloat16, Manifest
from training.export import bfloat16


def to_bfloat16(values):
    import torch

    return torch.from_numpy(values).bfloat16().float().numpy()


def test_every_tensor_is_rounded_as_torch_rounds_it():
    weights = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(
        bfloat16.rounded(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    expected = np.maximum(to_bfloat16(given @ to_bfloat16(weights)), 0)
    found = session.run(None, {"x": given})[0]
    # The sum of a product may fall on either side of a tie.
    np.testing.assert_allclose(found, expected, rtol=2**-8)
    assert np.array_equal(found, to_bfloat16(found))


def test_infinities_stay():
    found = bfloat16._rounded_tensor(numpy_helper.from_array(np.float32([np.inf, -np.inf, 1])))
    assert np.array_equal(numpy_helper.to_array(found), np.float32([np.inf, -np.inf, 1]))


def test_the_figures_are_noted_and_the_graphs_stay(bundle, dataset, tmp_path):
    measured = bfloat16.add_bfloat16(bundle, dataset, tmp_path / "b").manifest
    figures = measured.bfloat16
    assert figures.test_pictures == len(dataset.test)
    assert abs(figures.macro_f1 - figures.macro_f1_float32) < 0.1
    assert figures.agreement > 0.9
    names = {name for name in measured.parity if name.startswith("bfloat16/")}
    assert {"bfloat16/logits", "bfloat16/saliency", "bfloat16/grad_cam"} <= names
    assert 0.99 < measured.parity["bfloat16/logits"].cosine < 1
    assert measured.files == bundle.manifest.files
    assert Manifest.parse(json.dumps(measured.document()).encode()) == measured


def test_a_bundle_without_figures_keeps_its_version(bundle):
    figures = Bfloat16(100, 0.9, 0.9, 0.99, "2026-11-30")
    assert "bfloat16" not in bundle.manifest.document()
    assert replace(bundle.manifest, bfloat16=figures).version != bundle.manifest.version
