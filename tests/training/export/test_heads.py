"""The output of a foreign file is recognised by its values, however it is written."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.predictions import predict
from service.runtime.engine import Engine
from support.images import encode
from training.__main__ import main
from training.data import DataError
from training.data.images import drawn_images
from training.data.read import check_head
from training.export import labels
from training.export.ends import ForeignError, Names
from training.export.foreign import read_core
from training.export.foreign_bundle import compare, make_foreign_bundle

SIZE, CLASSES = 16, 5
SPEC = Input(SIZE, (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))
SOFTMAX = ("Softmax", ["z"], ["p"], {"axis": 1})
FOUND = Names()
ML = helper.make_opsetid("ai.onnx.ml", 3)


def network(path, tail=(), outputs=("p",), *, width=CLASSES, opset=17, metadata=None):
    """The file of x → Conv → Relu → mean → Gemm → z (N, width) → `tail` → `outputs`."""
    rng = np.random.default_rng(0)
    constants = {
        "k": rng.normal(size=(6, 3, 3, 3)).astype(np.float32),
        **{name: 0.2 * rng.normal(size=(width, 6)).astype(np.float32) for name in ("v", "v2")},
        "one": np.float32(1),
        "half": np.float32(0.5),
        "hundred": np.float32(100),
        "scale": np.float32(1 / 256),
        "zero": np.uint8(0),
        "axis": np.array([1]),
        "squares": np.array([0, width, 1, 1]),
        "flat": np.array([0, width]),
        "two": np.array([2]),
    }
    body = [
        ("Conv", ["x", "k"], ["c"]),
        ("Relu", ["c"], ["r"]),
        ("GlobalAveragePool", ["r"], ["g"]),
        ("Flatten", ["g"], ["f"]),
        ("Gemm", ["f", "v"], ["z"], {"transB": 1}),
        *tail,
    ]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in body],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info(each, TensorProto.FLOAT, None)
            if isinstance(each, str)
            else each
            for each in outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), ML]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def bundled(path, folder, classes=CLASSES, names=FOUND):
    """Core and engine; to make the bundle compares its probabilities with those of the file."""
    core = read_core(path, SIZE, classes, names)
    manifest = Manifest("theirs", labels.numbered(core.classes), SPEC)
    return core, Engine(make_foreign_bundle(core, manifest, folder, gradients=False), "cpu", 1)


def operators(core):
    return [node.op_type for node in core.model.graph.node if node.op_type != "Identity"]


PLAIN = ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
TAILS = {
    "softmax": [SOFTMAX],
    "log-softmax": [("LogSoftmax", ["z"], ["p"], {"axis": 1})],
    "reshaped": [
        ("Reshape", ["z", "squares"], ["w"]),
        ("Softmax", ["w"], ["q"], {"axis": 1}),
        ("Squeeze", ["q"], ["s"]),
        ("Identity", ["s"], ["p"]),
    ],
    "spelled out": [
        ("Exp", ["z"], ["e"]),
        ("ReduceSum", ["e", "axis"], ["t"]),
        ("Div", ["e", "t"], ["p"]),
    ],
    "spelled out below the largest": [
        ("ReduceMax", ["z"], ["m"], {"axes": [1]}),
        ("Sub", ["z", "m"], ["d"]),
        ("Exp", ["d"], ["e"]),
        ("ReduceSum", ["e", "axis"], ["t"]),
        ("Reciprocal", ["t"], ["u"]),
        ("Mul", ["e", "u"], ["p"]),
    ],
    "quantised": [
        ("Softmax", ["z"], ["q"], {"axis": 1}),
        ("QuantizeLinear", ["q", "scale", "zero"], ["i"]),
        ("DequantizeLinear", ["i", "scale", "zero"], ["p"]),
    ],
    "sigmoids": [("Sigmoid", ["z"], ["p"])],
    "sigmoids spelled out": [
        ("Neg", ["z"], ["n"]),
        ("Exp", ["n"], ["e"]),
        ("Add", ["e", "one"], ["a"]),
        ("Div", ["one", "a"], ["p"]),
    ],
}


@pytest.mark.parametrize("name", TAILS)
def test_logits_are_found_behind_every_spelling_of_a_head(name, tmp_path):
    core, _ = bundled(network(tmp_path / "m.onnx", TAILS[name]), tmp_path / "out")
    assert operators(core) == PLAIN
    assert core.head == ("sigmoid" if name.startswith("sigmoids") else "softmax")


def test_logits_are_found_behind_a_softmax_of_an_old_opset(tmp_path):
    path = network(tmp_path / "m.onnx", [("Softmax", ["z"], ["p"])], opset=11)
    assert operators(bundled(path, tmp_path / "out")[0]) == PLAIN


def test_probabilities_without_logits_become_their_logarithms(tmp_path):
    other = [("Gemm", ["f", "v2"], ["z2"], {"transB": 1}), SOFTMAX]
    mean = [*other, ("Softmax", ["z2"], ["p2"]), ("Mean", ["p", "p2"], ["out"])]
    core, engine = bundled(network(tmp_path / "m.onnx", mean, ["out"]), tmp_path / "mean")
    assert operators(core)[-2:] == ["Clip", "Log"]
    batch = drawn_images(3, SIZE)
    assert np.allclose(np.exp(engine.predict(batch).logits).sum(1), 1, atol=1e-6)
    several = [*other, ("Sigmoid", ["z"], ["s"]), ("Sigmoid", ["z2"], ["s2"])]
    path = network(tmp_path / "s.onnx", [*several, ("Mean", ["s", "s2"], ["out"])], ["out"])
    assert bundled(path, tmp_path / "sigmoids")[0].head == "sigmoid"


def test_one_value_is_that_of_the_second_of_two_classes(tmp_path):
    batch, answers = drawn_images(4, SIZE), []
    for name, tail, output in (("logit", [], "z"), ("sigmoid", TAILS["sigmoids"], "p")):
        path = network(tmp_path / f"{name}.onnx", tail, [output], width=1)
        core, engine = bundled(path, tmp_path / name, classes=2)
        assert core.head == "softmax"
        assert core.original.head.width == 1
        answers.append(engine.manifest.calibration.probabilities(engine.predict(batch).logits))
        logits = engine.predict(batch).logits
        assert np.array_equal(logits[:, 0], -logits[:, 1])
        assert np.allclose(answers[-1][:, 1], expit(2.0 * logits[:, 1]))
    assert np.array_equal(*answers)


def test_logits_of_another_rank_are_flattened(tmp_path):
    path = network(tmp_path / "m.onnx", outputs=["g"], width=6)
    core, _ = bundled(path, tmp_path / "out", classes=6)
    assert operators(core) == ["Conv", "Relu", "GlobalAveragePool", "Reshape"]


def test_probabilities_in_integers_are_taken_before_their_rounding(tmp_path):
    rounded = [("Softmax", ["z"], ["q"]), ("QuantizeLinear", ["q", "scale", "zero"], ["p"])]
    info = helper.make_tensor_value_info("p", TensorProto.UINT8, ["N", CLASSES])
    path = network(tmp_path / "m.onnx", rounded, [info])
    core, _ = bundled(path, tmp_path / "out")
    assert operators(core) == PLAIN
    assert core.original.head.name == "q"


def test_outputs_that_lead_to_the_same_logits_need_no_name(tmp_path):
    path = network(tmp_path / "m.onnx", [SOFTMAX], ["p", "z", "f"])
    assert operators(bundled(path, tmp_path / "out")[0]) == PLAIN


def test_a_dictionary_of_probabilities_gives_its_tensor_and_its_labels(tmp_path):
    kind = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    names = [f"tag {index}" for index in range(CLASSES)]
    tail = [
        SOFTMAX,
        ("ZipMap", ["p"], ["loss"], {"classlabels_strings": names, "domain": "ai.onnx.ml"}),
    ]
    output = helper.make_value_info("loss", helper.make_sequence_type_proto(kind))
    path = network(tmp_path / "m.onnx", tail, [output])
    assert operators(bundled(path, tmp_path / "out")[0]) == PLAIN
    assert labels.of_file(path) == tuple(names)


@pytest.mark.parametrize(
    ("tail", "outputs", "message"),
    [
        (
            [SOFTMAX, ("Gemm", ["f", "v2"], ["z2"], {"transB": 1})],
            ["p", "z2"],
            "several outputs may be the classes: p and z2; there .* name one with --output",
        ),
        (
            [("TopK", ["z", "two"], ["best", "at"])],
            ["best"],
            r"best classes of an image only \(TopK\): .*--output, such as z",
        ),
        ([("Softmax", ["z"], ["p"], {"axis": 0})], ["p"], "p is a softmax, but not over the 5"),
        (
            [("Softmax", ["z"], ["q"]), ("Mul", ["q", "hundred"], ["p"])],
            ["p"],
            "the values of p sum to 100 for every image: name the tensor of the probabilities",
        ),
    ],
)
def test_an_output_that_is_no_answer_is_named(tail, outputs, message, tmp_path):
    path = network(tmp_path / "m.onnx", tail, outputs)
    for classes in (CLASSES, None):
        with pytest.raises(ForeignError, match=message):
            read_core(path, SIZE, classes, Names())


def test_a_tensor_inside_the_graph_can_be_the_output(tmp_path):
    path = network(tmp_path / "m.onnx", [("TopK", ["z", "two"], ["best", "at"])], ["best"])
    core, _ = bundled(path, tmp_path / "out", classes=None, names=Names(output="z"))
    assert core.classes == CLASSES


def test_a_bundle_with_other_probabilities_than_its_file_is_rejected(tmp_path):
    core, engine = bundled(network(tmp_path / "m.onnx", [SOFTMAX]), tmp_path / "out")
    half = [("Mul", ["z", "half"], ["h"]), ("Softmax", ["h"], ["p"])]  # the same classes
    other = read_core(network(tmp_path / "o.onnx", half), SIZE, CLASSES, Names()).original
    with pytest.raises(ForeignError, match=r"probabilities differ from those of o.onnx by .*limit"):
        compare(other, engine, drawn_images(4, SIZE))
    assert compare(core.original, engine, drawn_images(4, SIZE)).same == 4


def test_the_command_numbers_the_classes_of_a_multi_label_file(tmp_path):
    path = network(tmp_path / "m.onnx", TAILS["sigmoids"])
    command = ["bundle", "--onnx", str(path), "--size", str(SIZE), "--out", str(tmp_path / "out")]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encode(drawn_images(1, SIZE)[0]))
    done = CliRunner().invoke(main, [*command, "--check", str(tmp_path / "images")])
    assert done.exit_code == 0, done.output
    assert "neither --labels nor the file names the classes: they are 0 to 4" in done.output
    assert "1 of 1 images get the class that m.onnx gives them; probabilities differ" in done.output
    made = contract.load(tmp_path / "out")
    assert made.manifest.head == "sigmoid"
    assert b"may have several of the classes" in made.read(contract.CARD)
    with pytest.raises(DataError, match="multi-label bundle can be served"):
        check_head(made.manifest)
    failed = CliRunner().invoke(main, [*command, "--calibrate", str(tmp_path / "images")])
    assert failed.exit_code == 1
    assert "m.onnx is multi-label, and folders have one label for an image" in failed.output


def test_a_multi_label_file_is_calibrated_class_by_class(tmp_path):
    path, images = network(tmp_path / "m.onnx", TAILS["sigmoids"]), tmp_path / "images"
    images.mkdir()
    drawn = drawn_images(60, SIZE)
    lines = []
    for number, image in enumerate(drawn):
        (images / f"{number}.png").write_bytes(encode(image))
        lines.append(f"{number}.png,{'1;3' if number % 2 else '3' if number % 3 else ''}")
    (images / "labels.csv").write_text("\n".join(["path,labels", *lines]))
    command = ["bundle", "--onnx", str(path), "--size", str(SIZE), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, "--calibrate", str(images / "labels.csv")])
    assert done.exit_code == 0, done.output
    made = contract.load(tmp_path / "out")
    assert made.manifest.platt.pictures == 60
    assert made.manifest.platt.scale[1] != 1
    assert made.manifest.platt.scale[0] == 1  # no image has it
    assert made.manifest.familiarity is None
    card = made.read(contract.CARD).decode()
    assert "Each class is calibrated for itself" in card
    assert "| 1 | 30 of 60 |" in card
    answer = predict(Engine(made, "cpu", 1).predict(drawn[:1]).rows()[0], made.manifest)
    assert {entry.index for entry in answer.likely} <= set(answer.prediction_set.indices.tolist())
    assert answer.prediction_set.by_class


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffcat\n\n dog \n",
        "0,cat\n1,dog\n",
        "index,label\n1;dog\n0;cat\n",
        '["cat", "dog"]',
        '{"1": "dog", "0": "cat"}',
        '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}',
        '{"cat": 0, "dog": 1}',
        json.dumps({"architectures": [], "id2label": {"0": "cat", "1": "dog"}}),
    ],
)
def test_labels_are_read_from_usual_files(content, tmp_path):
    (tmp_path / "labels").write_text(content, encoding="utf-8")
    assert labels.read(tmp_path / "labels") == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xff", "cannot be read as text"),
        (b'{"0": "cat", "2": "dog"}', "index 1 is missing"),
        (b'["cat", 1.5]', "1.5' is no label"),
        (b"[", "cannot be read as text or JSON"),
    ],
)
def test_a_file_without_labels_is_an_error(content, message, tmp_path):
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(ForeignError, match=message):
        labels.read(tmp_path / "labels")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"names": "{0: 'cat', 1: \"dog's\"}"}, ("cat", "dog's")),
        ({"classes": '["cat", "dog"]'}, ("cat", "dog")),
        ({"labels": "cat, dog"}, ("cat", "dog")),
        ({"names": "none"}, None),
        ({}, None),
    ],
)
def test_labels_are_read_from_the_metadata_of_the_file(metadata, expected, tmp_path):
    assert (
        labels.of_file(network(tmp_path / "m.onnx", metadata=metadata, outputs=["z"])) == expected
    )
