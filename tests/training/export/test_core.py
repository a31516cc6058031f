"""Graphs of a bundle name their tensors alike, and predict.onnx holds what the others need."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.bundle import folder as contract
from service.runtime.engine import Engine
from support.images import draw
from training.autodiff import cam_graph, gradient_graph
from training.export.core import content, derived, earlier_of, graphs, names_tensor
from training.export.ours import export_core


@pytest.fixture(scope="module")
def core(run):
    return export_core(run.network, 32)


def test_a_core_goes_from_x_to_logits_features_and_activation(core, run):
    graph = core.model.graph
    assert [info.name for info in graph.input] == ["x"]
    assert [info.name for info in graph.output] == ["logits", "features", "activation"]
    assert graph.output[1].type.tensor_type.shape.dim[1].dim_value == core.width


def test_images_are_normalised_inside_the_graph(core, bundle):
    predict = onnx.load_model_from_string(bundle.read(contract.PREDICT)).graph
    (image,) = predict.input
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.type.tensor_type.elem_type, dims) == (onnx.TensorProto.UINT8, ["N", 32, 32, 3])
    batch = np.stack([draw(size=32, seed=seed) for seed in range(3)])
    engine = Engine(bundle, "cpu")
    session = ort.InferenceSession(content(core.model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": engine.normalise(batch)})
    assert np.abs(engine.predict(batch).logits - logits).max() < 1e-5


def test_derived_graphs_are_those_of_the_core(core, run):
    files = graphs(core, run.input)
    assert files[contract.GRADIENT] == content(
        gradient_graph(core.model, layers=earlier_of(core.model))
    )
    assert files[contract.CAM] == content(cam_graph(core.model))


def test_the_search_among_reference_images_changes_no_derived_graph(bundle):
    predict = bundle.read(contract.PREDICT)
    assert names_tensor(onnx.load_model_from_string(predict), "similarity")
    names = (contract.GRADIENT, contract.CAM)
    assert derived(predict, names) == {name: bundle.read(name) for name in names}


def test_a_core_without_a_layer_has_no_graph_for_class_activation_maps(core, run):
    model = onnx.ModelProto()
    model.CopyFrom(core.model)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = "layer" if name == "activation" else name
    del model.graph.output[2]
    files = graphs(type(core)(model, core.width), run.input)
    assert set(files) == {contract.PREDICT, contract.GRADIENT}
    assert set(graphs(core, run.input, gradients=False)) == {contract.PREDICT}
