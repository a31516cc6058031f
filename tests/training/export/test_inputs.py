"""Files of any kind of input: bundled, their answers those of ONNX Runtime on the file itself."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.explain import ask, explain
from service.image.resize import Input
from service.runtime.engine import Engine
from support.images import draw, encode
from support.methods import OF_CNNS
from support.servers import Server
from training.data.images import drawn_images
from training.export.core import predict_graph
from training.export.derive import complete
from training.export.foreign import ForeignError, Names, read_core
from training.export.foreign_bundle import make_foreign_bundle
from training.export.source import LUMA, Asked

CLASSES, SIZE, WIDE = 4, 12, (16, 40)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def drawn_file(path, shape, *, kind=TensorProto.FLOAT, before=(), weights=(), channels=3):
    """A classifier whose input has `shape` and the type `kind`; `before` lead from it to `x`."""
    rng = np.random.default_rng(0)
    drawn = {
        "w": rng.normal(0, 0.3, (6, channels, 3, 3)),
        "v": rng.normal(0, 0.6, (CLASSES, 6)),
        "b": rng.normal(0, 0.1, CLASSES),
    }
    floats = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}
    width = floats.get(kind, np.float32)
    nodes = [
        *before,
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f v b", "y", transB=1),
    ]
    image = helper.make_tensor_value_info("i" if before else "x", kind, shape)
    kept = kind if kind in floats else TensorProto.FLOAT
    logits = helper.make_tensor_value_info("y", kept, ["N", CLASSES])
    tensors = [numpy_helper.from_array(v.astype(width), k) for k, v in drawn.items()]
    graph = helper.make_graph(nodes, "drawn", [image], [logits], [*tensors, *weights])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def constant(name, values):
    return numpy_helper.from_array(np.array(values, np.float32), name)


def answers_of(path, values):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})[0]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The file of a classifier of 16 × 40 pixels, and its bundle."""
    folder = tmp_path_factory.mktemp("wide")
    path = drawn_file(folder / "net.onnx", ["N", 3, *WIDE])
    manifest = Manifest("wide", tuple("abcd"), Input(WIDE, MEAN, STD))
    core = read_core(path, WIDE, CLASSES, Names(cam_layer="a"))
    return path, make_foreign_bundle(core, manifest, folder / "bundle")


@pytest.fixture(scope="module")
def wide_engine(wide):
    return Engine(wide[1], "cpu", 1)


def test_a_rectangle_answers_as_its_file(wide, wide_engine):
    path, engine, batch = wide[0], wide_engine, drawn_images(5, WIDE)
    assert batch.shape == (5, 16, 40, 3)
    expected = answers_of(path, engine.normalise(batch))
    assert np.abs(engine.predict(batch).logits - expected).max() < 1e-5


def test_a_rectangle_loads_with_the_version_that_was_written(wide):
    _, bundle = wide
    read = contract.load(bundle.folder).manifest
    assert read.input.size == WIDE
    assert read.digest == bundle.manifest.digest


def test_the_graphs_of_a_rectangle_are_derived_again_to_their_digests(wide, tmp_path):
    _, bundle = wide
    for file in bundle.folder.iterdir():
        if file.name not in contract.DERIVED:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert set(complete(tmp_path)) == {contract.GRADIENT, contract.CAM}


@pytest.mark.parametrize("method", OF_CNNS)
def test_every_method_explains_a_rectangle(method, wide_engine):
    engine, pixels = wide_engine, drawn_images(1, WIDE)[0]
    logits = engine.predict(pixels[None]).logits[0]
    values = explain(engine, pixels, ask(engine.manifest, method, None, {}), logits).map
    assert values.shape == WIDE
    assert np.abs(values).max() > 0


def test_a_served_rectangle_names_its_shape_and_draws_over_the_whole_image(wide, tmp_path):
    _, bundle = wide
    body = encode(np.concatenate([draw("red", size=64), draw("blue", size=64)], axis=1))
    with Server(tmp_path, bundle=bundle.folder, workers=1) as server:
        model = server.client.get("/model").json()
        metadata = server.client.get("/v2/models/wide").json()
        schema = server.client.get("/openapi.json").json()
        answer = server.client.post(
            "/explain?method=grad_cam", content=body, headers={"content-type": "image/png"}
        )
        drawn = server.client.post(
            "/explain?method=occlusion",
            content=body,
            headers={"content-type": "image/png", "accept": "image/png"},
        )
    assert model["input"]["size"] == [16, 40]
    assert {o["name"]: o["shape"] for o in metadata["outputs"]}["attribution"] == [-1, 16, 40]
    assert "(16, 40)" in str(schema)
    assert answer.json()["explanation"]["map"]["shape"] == [16, 40]
    assert drawn.status_code == 200


def bundled(path, size=SIZE, asked=None, names=None):
    """The source of a file, drawn images, and the logits of predict.onnx for them."""
    core = read_core(path, size, CLASSES, names or Names(), asked or Asked())
    source = core.source
    model = predict_graph(core.model, Input(source.size, source.mean, source.std))
    batch = drawn_images(6, source.size)
    return source, batch, answers_of(model.SerializeToString(), batch)


def normalised(source, batch):
    mean, std = (np.array(values, np.float32) for values in (source.mean, source.std))
    return np.moveaxis((batch / np.float32(255) - mean) / std, -1, 1).astype(np.float32)


CAST = node("Cast", "i", "j", to=TensorProto.FLOAT)
FIRST = node("Transpose", "k", "x", perm=[0, 3, 1, 2])
THREE = (constant("m", [[[123]], [[117]], [[104]]]), constant("s", [[[58]], [[57]], [[56]]]))
SHARES = (constant("m", [0.5, 0.4, 0.3]), constant("s", [0.25, 0.2, 0.2]))
CENTRED = (node("Sub", "i m", "j"), node("Div", "j s", "x"))
INSIDE = (node("Cast", "i", "h", to=1), node("Sub", "h m", "j"), node("Div", "j s", "k"), FIRST)

FILES = {
    "channels first": (["N", 3, 12, 12], {}),
    "channels last": (
        ["N", 12, 12, 3],
        {"before": [node("Transpose", "i", "x", perm=[0, 3, 1, 2])]},
    ),
    "all free": (["N", "C", "H", "W"], {}),
    "all free, channels last": (
        ["N", "H", "W", "C"],
        {"before": [node("Transpose", "i", "x", perm=[0, 3, 1, 2])]},
    ),
    "no shape": (None, {}),
    "grey": (["N", 1, 12, 12], {"channels": 1}),
    "all free, grey": (["N", None, None, None], {"channels": 1}),
    "double": (["N", 3, 12, 12], {"kind": TensorProto.DOUBLE}),
    "mean and deviation of levels inside": (
        ["N", 3, 12, 12],
        {"before": CENTRED, "weights": THREE},
    ),
    "uint8, normalised inside": (
        ["N", 12, 12, 3],
        {"kind": TensorProto.UINT8, "before": INSIDE, "weights": SHARES},
    ),
    "uint8, as it is": (
        ["N", 3, 12, 12],
        {"kind": TensorProto.UINT8, "before": [node("Cast", "i", "x", to=1)]},
    ),
}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", FILES)
def test_a_bundle_answers_as_its_file_whatever_its_input_is(name, order, tmp_path):
    shape, options = FILES[name]
    path = drawn_file(tmp_path / "net.onnx", shape, **options)
    source, batch, logits = bundled(path, asked=Asked(order))
    if name == "double":  # of which ONNX Runtime has no convolution
        model = onnx.load(drawn_file(tmp_path / "single.onnx", shape))
        path, source = model.SerializeToString(), replace(source, kind=np.dtype(np.float32))
    expected = answers_of(path, source.values(normalised(source, batch)))
    assert np.abs(logits - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_a_bgr_file_sees_blue_first(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12])
    logits = {}
    for order in ("rgb", "bgr"):
        core = read_core(path, SIZE, CLASSES, Names(), Asked(order))
        model = predict_graph(core.model, Input(SIZE, (0.5,) * 3, (0.25,) * 3))
        batch = drawn_images(6, SIZE)
        seen = batch if order == "rgb" else np.ascontiguousarray(batch[..., ::-1])
        logits[order] = answers_of(model.SerializeToString(), seen)
    assert np.array_equal(logits["rgb"], logits["bgr"])


def test_what_a_uint8_file_gets_are_the_levels_of_the_image(tmp_path):
    shape, options = FILES["uint8, normalised inside"]
    source, batch, _ = bundled(drawn_file(tmp_path / "net.onnx", shape, **options))
    values = source.values(normalised(source, batch))
    assert values.dtype == np.uint8
    assert np.array_equal(values, batch)


def test_a_normalisation_inside_becomes_that_of_the_bundle(tmp_path):
    shape, options = FILES["mean and deviation of levels inside"]
    path = drawn_file(tmp_path / "net.onnx", shape, **options)
    source, *_ = bundled(path)
    assert source.mean == pytest.approx((123 / 255, 117 / 255, 104 / 255))
    assert source.std == pytest.approx((58 / 255, 57 / 255, 56 / 255))
    assert "normalises them itself" in source.notes[0]
    turned, *_ = bundled(path, asked=Asked("bgr"))
    assert turned.mean == source.mean[::-1]
    given, *_ = bundled(path, asked=Asked("rgb", (0.0,), (1 / 255,)))
    assert (given.mean, given.std, given.notes) == ((0,) * 3, (1 / 255,) * 3, ())


def test_metadata_name_the_range_and_the_order(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12])
    model = onnx.load(path)
    for key, value in (("BitmapPixelFormat", "Bgr8"), ("NominalPixelRange", "NominalRange_0_255")):
        model.metadata_props.add(key=f"Image.{key}", value=value)
    onnx.save(model, path)
    source, batch, logits = bundled(path)
    assert (source.order, source.mean, source.std) == ("bgr", (0,) * 3, (1 / 255,) * 3)
    planes = np.moveaxis(batch[..., ::-1], -1, 1).astype(np.float32)
    assert np.abs(logits - answers_of(path, planes)).max() < 1e-3


def test_without_a_word_of_the_file_imagenet_is_assumed_and_said(tmp_path):
    source, *_ = bundled(drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12]))
    assert source.mean == (0.485, 0.456, 0.406)
    assert "--mean and --std change them" in source.notes[0]


def test_grey_is_the_luma_of_pillow_without_its_rounding():
    batch = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    luma = (batch.astype(np.float32) * LUMA).sum(-1)
    pillow = np.asarray(Image.fromarray(batch[0]).convert("L"), np.float32)
    assert np.abs(luma[0] - pillow).max() <= 0.5
    levels = np.arange(256, dtype=np.float32)
    assert np.abs((levels[:, None] * LUMA).sum(-1) - levels).max() < 1e-4


def test_weights_in_float16_become_the_same_numbers_in_float32(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12], kind=TensorProto.FLOAT16)
    core = read_core(path, SIZE, CLASSES, Names())
    theirs = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    ours = {t.name: numpy_helper.to_array(t) for t in core.model.graph.initializer}
    assert ours["w"].dtype == np.float32
    assert all(np.array_equal(ours[name], theirs[name]) for name in ("w", "v", "b"))
    assert core.source.kind == np.float16


def test_a_file_of_mixed_precision_becomes_one_of_float32(tmp_path):
    casts = [node("Cast", "i", "h", to=TensorProto.FLOAT16), node("Cast", "h", "x", to=1)]
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12], before=casts)
    core = read_core(path, SIZE, CLASSES, Names())
    targets = {a.i for each in core.model.graph.node for a in each.attribute if a.name == "to"}
    assert TensorProto.FLOAT16 not in targets
    assert core.source.half


def test_the_size_is_that_of_the_file_where_none_is_given(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, *WIDE])
    assert bundled(path, size=None)[0].size == WIDE


RESIZE = node("Resize", "i e e sizes", "x", mode="linear")
SIZES = (constant("e", []), numpy_helper.from_array(np.array([1, 3, 12, 12]), "sizes"))


def test_a_tensor_inside_may_be_the_input(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, "H", "W"], before=[RESIZE], weights=SIZES)
    source, batch, logits = bundled(path, names=Names(input="x"))
    plain = drawn_file(tmp_path / "plain.onnx", ["N", 3, 12, 12])
    assert np.abs(logits - answers_of(plain, source.values(normalised(source, batch)))).max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "options", "size", "asked", "sentence"),
    [
        ([3, 12, 12], {}, SIZE, Asked(), "has no batch axis: export the network for"),
        (["N", 3, 12, 12], {}, 24, Asked(), "12 × 12 pixels, not of 24 × 24: correct --size"),
        (["N", 3, "H", "W"], {}, None, Asked(), "leaves height and width free: give --size"),
        (["N", 4, 12, 12], {}, SIZE, Asked(), "has 4 channels; images have 3, or 1 of grey"),
        (
            ["N", 1, 12, 12],
            {"channels": 1},
            SIZE,
            Asked(mean=(0.4, 0.5, 0.6)),
            "the file is greyscale: give one value of each",
        ),
        (
            ["N", 3, 12, 12],
            {"kind": TensorProto.INT64, "before": [node("Cast", "i", "x", to=1)]},
            SIZE,
            Asked(),
            "is int64, not of float32",
        ),
        (
            ["N", 3, 12, 12],
            {"kind": TensorProto.UINT8, "before": [node("Cast", "i", "x", to=1)]},
            SIZE,
            Asked(mean=(0.5,)),
            "is uint8, so the graph normalises pixels itself: leave out --mean",
        ),
        (
            ["N", 3, "H", "W"],
            {"before": [RESIZE], "weights": SIZES},
            64,
            Asked(),
            "the file resizes its images itself.*--input x",
        ),
    ],
)
def test_an_input_that_is_not_taken_is_named_with_a_remedy(
    shape, options, size, asked, sentence, tmp_path
):
    path = drawn_file(tmp_path / "net.onnx", shape, **options)
    with pytest.raises(ForeignError, match=sentence):
        read_core(path, size, CLASSES, Names(), asked)


def test_a_second_input_is_named(tmp_path):
    path = drawn_file(tmp_path / "net.onnx", ["N", 3, 12, 12], before=[node("Mul", "i k", "x")])
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(ForeignError, match="depends on a second input, k: make it a constant"):
        read_core(path, SIZE, CLASSES, Names())
