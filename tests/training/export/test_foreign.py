"""ONNX files of any exporter become bundles that answer as the files do, and can be explained."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.explain import ask, explain
from service.image.resize import Input
from service.runtime.engine import Engine
from support.images import draw, encode
from support.methods import OF_CNNS
from training.__main__ import main
from training.autodiff import DifferentiationError
from training.data import DataError, read
from training.export.core import Core
from training.export.derive import complete
from training.export.foreign import ForeignError, Names, read_core
from training.export.foreign_bundle import make_foreign_bundle

SIZE, CLASSES = 24, 5
SPEC = Input(SIZE, (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))
MANIFEST = Manifest("theirs", tuple("abcde"), SPEC)


class Small(nn.Module):
    def __init__(self, *, softmax=False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3),
            nn.SiLU(),
        )
        self.head = nn.Linear(12, CLASSES)
        self.softmax = softmax

    def forward(self, x):
        y = self.body(x)
        y = torch.nn.functional.adaptive_avg_pool2d(y, 1)
        logits = self.head(y.view(y.size(0), -1))
        return logits.softmax(1) if self.softmax else logits


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return Small().eval()


def older(network, path, *, opset=13, free=True):
    """The file of the TorchScript exporter."""
    axes = {"dynamic_axes": {"picture": {0: "n"}}} if free else {}
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, SIZE, SIZE),),
        path,
        dynamo=False,
        opset_version=opset,
        input_names=["picture"],
        output_names=["scores"],
        **axes,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("free", [True, False], ids=["free batch", "fixed batch"])
@pytest.mark.parametrize("opset", [13, 17])
def test_files_of_the_older_exporter_become_bundles(opset, free, network, tmp_path):
    path = tmp_path / "net.onnx"
    older(network, path, opset=opset, free=free)
    core = read_core(path, SIZE, CLASSES, Names())
    engine = Engine(make_foreign_bundle(core, MANIFEST, tmp_path / "bundle"), "cpu")
    batch = np.stack([draw(size=SIZE, seed=seed) for seed in range(6)])
    with torch.no_grad():
        expected = network(torch.from_numpy(engine.normalise(batch))).numpy()
    result = engine.predict(batch)
    assert np.abs(result.logits - expected).max() < 1e-5
    assert result.features.shape == (6, 12)
    assert engine.cam(engine.normalise(batch), np.zeros(6, np.int64)).activation.shape == (
        6,
        12,
        9,
        9,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_method_explains_a_foreign_network(network, tmp_path):
    older(network, tmp_path / "net.onnx")
    engine = Engine(
        make_foreign_bundle(
            read_core(tmp_path / "net.onnx", SIZE, CLASSES, Names()), MANIFEST, tmp_path / "bundle"
        ),
        "cpu",
    )
    pixels = draw(size=SIZE)
    logits = engine.predict(pixels[None]).logits[0]
    for method in OF_CNNS:
        assert (
            np.abs(
                explain(engine, pixels, ask(engine.manifest, method, "c,a", {}), logits).map
            ).max()
            > 0
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_logits_are_tapped_before_a_softmax(network, tmp_path):
    softened = Small(softmax=True).eval()
    softened.load_state_dict(network.state_dict())
    for name, module in (("plain", network), ("soft", softened)):
        older(module, tmp_path / f"{name}.onnx")
    models = [
        read_core(tmp_path / f"{name}.onnx", SIZE, CLASSES, Names()).model
        for name in ("plain", "soft")
    ]
    assert [node.op_type for node in models[0].graph.node] == [
        node.op_type for node in models[1].graph.node
    ]


def keras_style(path):
    """As converters from TensorFlow write: NHWC by pairs of Transpose, a softmax at the end."""
    rng = np.random.default_rng(2)
    weights = {
        "kernel": rng.normal(size=(6, 3, 3, 3)).astype(np.float32) / 4,
        "bias": rng.normal(size=(1, 1, 1, 6)).astype(np.float32),
        "dense": rng.normal(size=(6, CLASSES)).astype(np.float32),
        "offset": rng.normal(size=CLASSES).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Transpose", ["input_1:0"], ["nchw"], perm=[0, 3, 1, 2]),
        node("Conv", ["nchw", "kernel"], ["conv"], auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Transpose", ["conv"], ["nhwc"], perm=[0, 2, 3, 1]),
        node("Add", ["nhwc", "bias"], ["biased"]),
        node("Relu", ["biased"], ["relu"]),
        node("ReduceMean", ["relu"], ["pooled"], axes=[1, 2], keepdims=0),
        node("MatMul", ["pooled", "dense"], ["product"]),
        node("Add", ["product", "offset"], ["dense_out"]),
        node("Softmax", ["dense_out"], ["predictions"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "keras",
        [info("input_1:0", TensorProto.FLOAT, ["unk__1", SIZE, SIZE, 3])],
        [info("predictions", TensorProto.FLOAT, ["unk__1", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path
    )


def test_a_channels_last_file_answers_as_it_did(tmp_path):
    path = tmp_path / "keras.onnx"
    keras_style(path)
    engine = Engine(
        make_foreign_bundle(read_core(path, SIZE, CLASSES, Names()), MANIFEST, tmp_path / "bundle"),
        "cpu",
    )
    batch = np.stack([draw(size=SIZE, seed=seed) for seed in range(4)])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input_1:0": np.moveaxis(engine.normalise(batch), 1, -1)})
    raised = np.exp(engine.predict(batch).logits.astype(np.float64))
    assert np.abs(raised / raised.sum(1, keepdims=True) - expected).max() < 1e-6
    assert engine.manifest.parity["exact/saliency"].against == "complex step"


def graph_with(operator, tmp_path):
    """x → Conv → `operator` → mean → logits."""
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="the_conv"),
        helper.make_node(operator, ["c"], ["o"], name="the_node"),
        helper.make_node("GlobalAveragePool", ["o"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    kernel = numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32), "k"
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [kernel],
    )
    path = tmp_path / "net.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def test_an_operator_without_a_rule_is_named_and_can_be_served_without_gradients(tmp_path):
    path = graph_with("LpNormalization", tmp_path)
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == "LpNormalization")
    node.attribute.extend([helper.make_attribute("p", 1), helper.make_attribute("axis", 1)])
    onnx.save(model, path)
    core = read_core(path, SIZE, CLASSES, Names())
    reason = r"LpNormalization \(node forward/the_node\): only p = 2"
    with pytest.raises(DifferentiationError, match=reason):
        make_foreign_bundle(core, MANIFEST, tmp_path / "bundle")
    made = make_foreign_bundle(core, MANIFEST, tmp_path / "bundle", gradients=False)
    assert set(made.manifest.files) == {contract.PREDICT}
    engine = Engine(made, "cpu")
    pixels = draw(size=SIZE)
    question = ask(engine.manifest, "occlusion", "a", {})
    assert (
        np.abs(explain(engine, pixels, question, engine.predict(pixels[None]).logits[0]).map).max()
        > 0
    )


def test_the_graphs_of_a_foreign_bundle_can_be_derived(tmp_path):
    core = read_core(graph_with("Relu", tmp_path), SIZE, CLASSES, Names(cam_layer="o"))
    made = make_foreign_bundle(core, MANIFEST, tmp_path / "bundle")
    names = [name for name in contract.DERIVED if made.has(name)]
    for name in names:
        (made.folder / name).unlink()
    assert complete(made.folder) == names
    assert contract.load(made.folder) == made


def test_the_cam_layer_may_have_a_reserved_name(tmp_path):
    path = graph_with("Relu", tmp_path)
    model = onnx.load(path)
    conv, relu, *_ = model.graph.node
    conv.output[0] = relu.input[0] = "activation"
    relu.output[0] = model.graph.node[2].input[0] = "features"
    onnx.save(model, path)
    for layer, maker in (("activation", "Conv"), ("features", "Relu")):
        core = read_core(path, SIZE, CLASSES, Names(cam_layer=layer)).model
        (node,) = (node for node in core.graph.node if "activation" in node.output)
        assert node.op_type == maker


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unfit_cam_layer_is_called_as_the_file_calls_it(network, tmp_path):
    older(network, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    *_, before, last = model.graph.node
    before.output[0] = last.input[0] = "features"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ForeignError, match=r"--cam-layer features is \(N, 12\), neither"):
        read_core(tmp_path / "net.onnx", SIZE, CLASSES, Names(cam_layer="features"))


@pytest.mark.parametrize(
    ("size", "classes", "names", "message"),
    [
        (
            SIZE + 1,
            CLASSES,
            Names(),
            r"the input x takes images of 24 × 24 pixels, not of 25 × 25: correct --size",
        ),
        (
            SIZE,
            CLASSES + 1,
            Names(),
            "y has 5 classes, and there are 6 labels: 1 label is too many",
        ),
        (SIZE, CLASSES - 1, Names(), "5 classes, and there are 4 labels: 1 label is missing"),
        (SIZE, CLASSES, Names(input="nope"), "no input and no tensor inside is called nope; .* x "),
        (SIZE, CLASSES, Names(output="nope"), r"no tensor is called nope; there are y \[None, 5\]"),
        (SIZE, CLASSES, Names(cam_layer="nope"), "--cam-layer nope names no tensor"),
        (SIZE, CLASSES, Names(output="o"), r"o has 5 × 22 × 22 values for an image"),
        (SIZE, CLASSES, Names(cam_layer="y"), "--cam-layer y names no tensor"),
        (SIZE, CLASSES, Names(cam_layer="x"), "--cam-layer x is the image itself; .* c, o, p"),
    ],
)
def test_an_error_lists_the_tensors_of_the_file(size, classes, names, message, tmp_path):
    with pytest.raises(ForeignError, match=message):
        read_core(graph_with("Relu", tmp_path), size, classes, names)


def test_a_file_without_a_graph_is_an_error(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no graph at all")
    with pytest.raises(ForeignError, match="is no ONNX file"):
        read_core(tmp_path / "net.onnx", SIZE, CLASSES, Names())


def test_a_calibrated_file_has_prediction_sets_and_familiarity_by_energy(drawn, tmp_path):
    labels = ("red", "green", "blue", "dog", "elk")
    manifest = Manifest("theirs", labels, SPEC)
    held_out, skipped = read.read_labelled(drawn, SPEC, labels)
    assert not skipped
    assert len(held_out) == 150
    assert {labels[label] for label in held_out.labels} == {"red", "green", "blue"}
    assert all(
        f"/{labels[label]}/" in name
        for label, name in zip(held_out.labels, held_out.names, strict=True)
    )
    core = read_core(graph_with("Relu", tmp_path), SIZE, CLASSES, Names())
    made = make_foreign_bundle(core, manifest, tmp_path / "out", held_out).manifest
    assert made.familiarity.evidence == "energy"
    assert made.prediction_sets.pictures == made.distribution.pictures == 150
    assert made.map_distribution.pictures == 150
    assert made.prediction_sets.by_class["0.95"][3] == 0.0, (
        "no image of a dog promises nothing of dogs"
    )
    with pytest.raises(DataError, match="folders that are no label of the model"):
        read.read_labelled(drawn, SPEC, ("red", "dog"))


def test_no_bundle_is_written_that_answers_an_image_differently_beside_others(tmp_path):
    model = read_core(graph_with("Relu", tmp_path), SIZE, CLASSES, Names()).model
    first, *_ = model.graph.node
    model.graph.node.insert(1, helper.make_node("ReduceMean", ["theirs"], ["mean"], axes=[0]))
    model.graph.node.insert(2, helper.make_node("Sub", ["theirs", "mean"], [first.output[0]]))
    first.output[0] = "theirs"
    model.opset_import[0].version = 17
    with pytest.raises(
        ForeignError, match=r"another answer in a batch of 1 than in one of 3 .*free batch"
    ):
        make_foreign_bundle(Core(model, None), MANIFEST, tmp_path / "bundle", gradients=False)
    assert not (tmp_path / "bundle").exists()


def test_the_command_makes_a_bundle_and_checks_it(tmp_path):
    path, labels, images = (
        graph_with("Relu", tmp_path),
        tmp_path / "labels.txt",
        tmp_path / "images",
    )
    labels.write_text("ant\nbee\ncat\ndog\nelk\n")
    images.mkdir()
    for seed in range(3):
        (images / f"{seed}.png").write_bytes(encode(draw(size=40, seed=seed)))
    source = ["--onnx", path, "--labels", labels, "--size", SIZE, "--out", tmp_path / "out"]
    command = ["bundle", *map(str, source), "--check", str(images)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "3 of 3 images get the class that net.onnx gives them" in done.output
    first, note, *others = done.stderr.splitlines()
    assert "are assumed, which are ImageNet's" in note
    steps = [line.split()[2] for line in (first, *others)]  # behind "0.3 s"
    proofs = ["proves", "proves"]  # the gradient and the class activation map
    assert steps == ["runs", "derives", "runs", *proofs, "writes", "is"], done.stderr
    assert contract.load(tmp_path / "out").manifest.labels[2] == "cat"
    failed = CliRunner().invoke(main, [*command, "--mean", "1,2"])
    assert failed.exit_code == 1
    assert "give one number, or three" in failed.output
