"""Earlier layers for class activation maps: found before each halving, proven, and known maps."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.bundle.manifest import Layer, Manifest
from service.errors import InvalidParameter
from service.explain import ask, explain, forward_passes
from service.explain.question import cheaper_questions
from service.image.resize import Input
from service.runtime.engine import Engine
from support.images import draw
from support.transformer import GRID, SPEC, Transformer, exported
from training.export import parity
from training.export.core import graphs, layers_of
from training.export.ends import Names
from training.export.foreign import read_core
from training.export.foreign_bundle import make_foreign_bundle
from training.export.proof import prove

SIDE, CLASSES = 16, 2
INPUT = Input(SIDE, (0.5,) * 3, (0.25,) * 3)
NAMES = ("last", "middle", "early")
POSITIVE = {"kernel_shape": [1, 1]}
MEAN = {"kernel_shape": [2, 2], "strides": [2, 2]}


def staged(path, *nodes):
    """Three stages of positive 1 × 1 convolutions with means of 2 × 2 cells between them.

    x + 9 > 0 everywhere, so that every rectifier is open and the network is linear; the head weighs
    each cell for itself. `nodes` are more of them, or others.
    """
    rng = np.random.default_rng(0)
    weights = {
        "nine": np.full(1, 9, np.float32),
        "k": rng.uniform(0.1, 1, (2, 3, 1, 1)).astype(np.float32),
        "l": rng.uniform(0.1, 1, (2, 2, 1, 1)).astype(np.float32),
        "m": rng.uniform(0.1, 1, (2, 2, 1, 1)).astype(np.float32),
        "v": rng.normal(size=(2 * 16, CLASSES)).astype(np.float32),
    }
    body = [
        ("Add", ["x", "nine"], ["shifted"], {}),
        ("Conv", ["shifted", "k"], ["a0"], POSITIVE),
        ("Relu", ["a0"], ["a"], {}),
        ("AveragePool", ["a"], ["half"], MEAN),
        ("Conv", ["half", "l"], ["b0"], POSITIVE),
        ("Relu", ["b0"], ["b"], {}),
        ("AveragePool", ["b"], ["quarter"], MEAN),
        ("Conv", ["quarter", "m"], ["c0"], POSITIVE),
        ("Relu", ["c0"], ["c"], {}),
        ("Flatten", ["c"], ["f"], {}),
        ("MatMul", ["f", "v"], ["y"], {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes or body],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path, weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The bundle of the staged network, and its weights."""
    folder = tmp_path_factory.mktemp("staged")
    path, weights = staged(folder / "net.onnx")
    core = read_core(path, SIDE, CLASSES, Names())
    return make_foreign_bundle(core, Manifest("staged", ("a", "b"), INPUT), folder / "b"), weights


@pytest.fixture(scope="module")
def staged_engine(made):
    return Engine(made[0], "cpu", 1)


def answer(engine, pixels, method, **given):
    logits = engine.predict(pixels[None]).logits[0]
    return explain(engine, pixels, ask(engine.manifest, method, "1", given), logits)


def expected(engine, weights, pixels):
    """Activation and gradient of class 1 at the early layer, (2, 16, 16) each, by hand."""
    x = engine.normalise(pixels[None])[0] + 9
    first, second, third = (weights[name][:, :, 0, 0] for name in "klm")
    activation = np.einsum("dc,chw->dhw", first, x)
    cells = weights["v"][:, 1].reshape(2, 4, 4)
    gradient = np.einsum("cd,chw->dhw", third @ second, cells) / 16
    return activation, gradient.repeat(4, 1).repeat(4, 2)


def test_the_layers_are_the_last_tensors_before_each_halving(made):
    sizes = [Layer("last", 4, 4), Layer("middle", 8, 8), Layer("early", 16, 16)]
    assert list(made[0].manifest.layers) == sizes
    assert contract.load(made[0].folder).manifest == made[0].manifest


def test_the_early_map_is_the_one_by_hand(staged_engine, made):
    pixels = draw(size=SIDE)
    activation, gradient = expected(staged_engine, made[1], pixels)
    layer_cam = answer(staged_engine, pixels, "layer_cam", layer="early").map
    by_hand = (np.maximum(gradient, 0) * activation).sum(0)
    assert np.abs(layer_cam - by_hand).max() < 1e-5 * np.abs(by_hand).max()
    grad_cam = answer(staged_engine, pixels, "grad_cam", layer="early").map
    by_hand = (gradient.mean((1, 2))[:, None, None] * activation).sum(0)
    assert np.abs(grad_cam - by_hand).max() < 1e-5 * np.abs(by_hand).max()


@pytest.mark.parametrize("layer", NAMES)
def test_each_layer_is_proven_and_served_in_batches(layer, staged_engine):
    name = "grad_cam" if layer == "last" else f"grad_cam_{layer}"
    measured = staged_engine.manifest.parity
    assert measured[f"exact/{name}"].relative_difference < 1e-6
    assert measured[name].against == "float64"
    batch = np.stack([draw(size=SIDE, seed=seed) for seed in range(21)])
    x, target = staged_engine.normalise(batch), np.arange(21) % CLASSES
    together = staged_engine.cam(x, target, layer).activation_gradient
    alone = [staged_engine.cam(x[i : i + 1], target[i : i + 1], layer) for i in range(21)]
    assert np.allclose(together, np.concatenate([each.activation_gradient for each in alone]))


def test_a_wrong_gradient_at_an_early_layer_is_refused(made):
    files = {name: made[0].read(name) for name in (contract.PREDICT, *contract.DERIVED[:2])}
    model = onnx.load_model_from_string(files[contract.GRADIENT])
    (output,) = (n for n in model.graph.node if "activation_gradient/early" in n.output)
    output.op_type = "Neg"
    files[contract.GRADIENT] = model.SerializeToString()
    x = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE))
    with pytest.raises(parity.ParityError, match="grad_cam_early differs from complex step"):
        parity.check(prove(files, x).measured)


def test_the_gradient_alone_has_no_outputs_of_layers(staged_engine):
    x = staged_engine.normalise(draw(size=SIDE)[None])
    assert staged_engine.gradient(x, np.array([0])).gradient.shape == x.shape


def test_an_earlier_layer_costs_a_gradient_and_falls_to_the_last_one(staged_engine):
    question = ask(staged_engine.manifest, "layer_cam", None, {"layer": "early"})
    assert question.graph == contract.GRADIENT
    assert forward_passes(question) == 6  # for the target and the rival
    cheaper = [q.parameters for q in cheaper_questions(question, staged_engine.manifest)]
    assert cheaper == [{"layer": "early"}, {"layer": "last"}]


def test_a_bundle_of_one_layer_lists_it_and_keeps_its_version(embedded):
    manifest = embedded.manifest
    assert manifest.layer_names == ("last",)
    assert "layers" not in manifest.document()
    assert replace(manifest, layers=()).version == manifest.version
    with pytest.raises(InvalidParameter, match=r"layer is 'early'; it is one of last$"):
        ask(manifest, "grad_cam", None, {"layer": "early"})


def test_a_branch_at_finer_cells_is_not_a_layer(tmp_path):
    path, _ = staged(
        tmp_path / "net.onnx",
        ("Conv", ["x", "k"], ["a"], POSITIVE),
        ("AveragePool", ["a"], ["left"], MEAN),
        ("Relu", ["a"], ["branch"], {}),
        ("AveragePool", ["branch"], ["right"], MEAN),
        ("Add", ["left", "right"], ["half"], {}),
        ("AveragePool", ["half"], ["quarter"], MEAN),
        ("Conv", ["quarter", "m"], ["c"], POSITIVE),
        ("Flatten", ["c"], ["f"], {}),
        ("MatMul", ["f", "v"], ["y"], {}),
    )
    core = read_core(path, SIDE, CLASSES, Names())
    makers = {name: node for node in core.model.graph.node for name in node.output}
    assert makers["activation/middle"].op_type == "Add"
    assert makers["activation/early"].op_type == "Conv"


def test_a_blur_before_a_stride_is_not_a_layer(tmp_path):
    path, _ = staged(
        tmp_path / "net.onnx",
        ("Conv", ["x", "k"], ["a"], POSITIVE),
        ("AveragePool", ["a"], ["blur"], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
        ("Conv", ["blur", "l"], ["b"], MEAN | POSITIVE),
        ("AveragePool", ["b"], ["quarter"], MEAN),
        ("Conv", ["quarter", "m"], ["c"], POSITIVE),
        ("Flatten", ["c"], ["f"], {}),
        ("MatMul", ["f", "v"], ["y"], {}),
    )
    core = read_core(path, SIDE, CLASSES, Names())
    makers = {name: node for node in core.model.graph.node for name in node.output}
    assert makers["activation/middle"].op_type == "Conv"
    assert makers["activation/early"].input[0] == "x"


@pytest.mark.parametrize("class_token", [False, True])
def test_tokens_have_layers_at_thirds_of_the_way(class_token, tmp_path):
    torch.manual_seed(0)
    core = exported(Transformer(class_token=class_token).eval(), tmp_path)
    files = graphs(core, SPEC)
    assert layers_of(files) == tuple(Layer(name, GRID, GRID) for name in NAMES)
    x = np.random.default_rng(0).standard_normal((4, 3, *SPEC.shape))
    measured = parity.check(prove(files, x).measured)
    assert measured["exact/grad_cam_early"].relative_difference < 1e-6
