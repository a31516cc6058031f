"""Graphs in half precision keep the contract and the answers, or no bundle is written."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from service.api.responses import public_manifest
from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.runtime.engine import Engine
from training.__main__ import main
from training.export.bundle import make_bundle
from training.export.core import Core
from training.export.float16 import LIMITS, halved, rounded
from training.export.foreign_bundle import make_foreign_bundle
from training.export.parity import ParityError, compare

SIZE, CLASSES = 16, 4
SPEC = Input(SIZE, (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))
MANIFEST = Manifest("toy", tuple("abcd"), SPEC)
FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def bundle(run, dataset, tmp_path_factory):
    return make_bundle(
        run, dataset, tmp_path_factory.mktemp("half") / "discs", "discs", halves=True
    )


def model_of(nodes, weights, inputs, outputs):
    """The graph of `nodes`; `inputs` and `outputs` map names to shapes, float32."""
    ends = [
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "toy", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def core_between(before, after, scale=1.0):
    """x → Conv → times `before` → GELU → times `after` → mean → times `scale` → logits."""
    nodes = [
        ("Conv", ["x", "K"], ["c"]),
        ("Mul", ["c", "before"], ["loud"]),
        ("Gelu", ["loud"], ["activation"]),
        ("Mul", ["activation", "after"], ["quiet"]),
        ("GlobalAveragePool", ["quiet"], ["mean"]),
        ("Flatten", ["mean"], ["flat"]),
        ("Mul", ["flat", "scale"], ["logits"]),
    ]
    kernel = np.random.default_rng(0).normal(size=(CLASSES, 3, 3, 3))
    weights = {"K": kernel, "before": before, "after": after, "scale": scale}
    return Core(
        model_of(nodes, weights, {"x": ["N", 3, SIZE, SIZE]}, {"logits": ["N", CLASSES]}),
        None,
    )


def read(bundle, name):
    return onnx.load_model_from_string(bundle.read(name))


def ends_of(model):
    """Names, types and shapes of inputs and outputs."""
    return [
        (
            info.name,
            info.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim],
        )
        for info in (*model.graph.input, *model.graph.output)
    ]


@pytest.mark.parametrize(("graph", "half"), contract.HALVES.items())
def test_inputs_and_outputs_are_those_of_the_contract(graph, half, bundle):
    assert ends_of(read(bundle, half)) == ends_of(read(bundle, graph))


@pytest.mark.parametrize("graph", contract.HALVES)
def test_weights_are_float16_and_the_file_is_half_as_large(graph, embedded):
    content = embedded.read(graph)
    half = halved(onnx.load_model_from_string(content))
    assert 0.45 < half.ByteSize() / len(content) < 0.55
    assert not [tensor.name for tensor in half.graph.initializer if tensor.data_type == FLOAT]


def test_images_are_normalised_in_float32(bundle):
    graph = read(bundle, "predict.half.onnx").graph
    assert {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT} == {
        "input/mean",
        "input/scale",
    }


def test_parity_with_float32_is_in_the_manifest(bundle):
    manifest = contract.load(bundle.folder).manifest
    assert Manifest.parse(manifest.canonical()) == manifest
    half = {
        name.removeprefix("half/"): entry
        for name, entry in manifest.parity.items()
        if name.startswith("half/")
    }
    kinds = {name: name.removesuffix("_middle").removesuffix("_early") for name in half}
    assert set(kinds.values()) == set(LIMITS)
    assert {(entry.against, entry.pictures) for entry in half.values()} == {("float32", 30)}
    assert all(entry.relative_difference <= LIMITS[kinds[name]][0] for name, entry in half.items())
    assert all(entry.cosine >= LIMITS[kinds[name]][1] for name, entry in half.items())
    assert half["logits"].relative_difference > 1e-6  # rounding took place
    assert public_manifest(Engine(bundle, "cpu"))["parity"]["half/saliency"]["against"] == "float32"


def test_half_precision_answers_as_float32_does(bundle, dataset, tmp_path):
    files = {graph: bundle.read(half) for graph, half in contract.HALVES.items()}
    half_engine, full_engine = (
        Engine(contract.write(tmp_path / "b", bundle.manifest, files), "cpu"),
        Engine(bundle, "cpu"),
    )
    pixels = dataset.test.pixels
    target = full_engine.predict(pixels).logits.argmax(1)
    assert np.array_equal(half_engine.predict(pixels).logits.argmax(1), target)
    x = full_engine.normalise(pixels)
    engines = (half_engine, full_engine)
    result, expected = (engine.gradient(x, target).gradient for engine in engines)
    assert compare(result, expected).cosine > LIMITS["saliency"][1]


def test_rounding_is_that_of_float16_between_operators():
    model = model_of(
        [("Mul", ["x", "w"], ["m"]), ("Add", ["m", "b"], ["y"])],
        {"w": 1.2345, "b": 0.1},
        {"x": ["N"]},
        {"y": ["N"]},
    )
    x = np.array([1.0, 0.3333, 3000.7, 60000.0, 1e-9], np.float32)
    session = ort.InferenceSession(
        rounded(halved(model)).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": x})
    with np.errstate(over="ignore"):
        expected = (x.astype(np.float16) * np.float16(1.2345) + np.float16(0.1)).astype(np.float32)
    assert np.array_equal(result, expected)
    assert np.isinf(result[3])


def test_opsets_in_float32_may_read_the_same_tensor():
    nodes = [
        ("Relu", ["x"], ["r"]),
        ("Max", ["r", "k"], ["a"]),
        ("Min", ["r", "k"], ["b"]),
        ("Add", ["a", "b"], ["y"]),
    ]
    half = halved(model_of(nodes, {"k": [0.5]}, {"x": ["N"]}, {"y": ["N"]}))
    session = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([-1, 2], np.float32)})[0].tolist() == [0.5, 2.5]


def test_a_network_that_half_precision_can_hold_becomes_a_bundle(tmp_path):
    made = make_foreign_bundle(core_between(1.0, 1.0), MANIFEST, tmp_path / "b", halves=True)
    assert set(made.manifest.files) == {*contract.HALVES, *contract.HALVES.values()}
    assert made.manifest.parity["half/logits"].relative_difference < 2e-3


def test_an_overflow_is_an_error(tmp_path):
    message = r"overflows for 8 of 8 images \(limit 0\).*exceeds 65,504.*without --half"
    with pytest.raises(ParityError, match=f"logits in half precision {message}"):
        make_foreign_bundle(core_between(1e6, 1e-6), MANIFEST, tmp_path / "b", halves=True)
    assert not (tmp_path / "b").exists()
    assert make_foreign_bundle(core_between(1e6, 1e-6), MANIFEST, tmp_path / "b").has(contract.CAM)


def test_an_underflow_is_an_error(tmp_path):
    message = r"median relative difference .* \(limit .*\), cosine .* \(limit .*without --half"
    with pytest.raises(ParityError, match=f"half precision differs from float32: {message}"):
        make_foreign_bundle(core_between(1.0, 1e-8, 1e8), MANIFEST, tmp_path / "b", halves=True)


def test_a_self_test_that_would_fail_on_a_gpu_is_an_error(tmp_path):
    with pytest.raises(
        ParityError,
        match=r"self-test image in half precision gives class \d.*within 0\.05 is required",
    ):
        make_foreign_bundle(core_between(1.0, 1.0, 3000.0), MANIFEST, tmp_path / "b", halves=True)


def test_a_bundle_without_gradients_has_one_graph_in_half_precision(tmp_path):
    made = make_foreign_bundle(
        core_between(1.0, 1.0), MANIFEST, tmp_path / "b", gradients=False, halves=True
    )
    assert set(made.manifest.files) == {"predict.onnx", "predict.half.onnx"}
    assert set(made.manifest.parity) == {"half/logits", "half/probabilities"}


def test_the_command_makes_half_precision_of_any_file(tmp_path):
    path, labels = tmp_path / "net.onnx", tmp_path / "labels.txt"
    onnx.save(core_between(1.0, 1.0).model, path)
    labels.write_text("ant\nbee\ncat\ndog\n")
    source = ["--onnx", path, "--labels", labels, "--size", SIZE, "--out", tmp_path / "out"]
    command = ["bundle", *map(str, source), "--without-gradient", "--half"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "half/probabilities     differs from float32 by" in done.output
    assert contract.load(tmp_path / "out").has("predict.half.onnx")
