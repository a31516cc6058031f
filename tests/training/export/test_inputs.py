"""Files of any kind of input: bundled, their answers those of ONNX Runtime on the file itself."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.explain import METHODS, ask, explain
from service.image.resize import Input
from service.runtime.engine import Engine
from support.images import draw, encode
from support.servers import Server
from training.data.images import drawn_images
from training.export.bundle import make_foreign_bundle
from training.export.derive import complete
from training.export.foreign import Names, read_core

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
    nodes = [
        *before,
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "a"),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f v b", "y", transB=1),
    ]
    image = helper.make_tensor_value_info("i" if before else "x", kind, shape)
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in drawn.items()]
    graph = helper.make_graph(nodes, "drawn", [image], [logits], [*tensors, *weights])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


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


def test_a_rectangle_answers_as_its_file(wide):
    path, bundle = wide
    engine, batch = Engine(bundle, "cpu"), drawn_images(5, WIDE)
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
    assert set(complete(tmp_path)) == set(contract.DERIVED)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_rectangle(method, wide):
    _, bundle = wide
    engine, pixels = Engine(bundle, "cpu", 1), drawn_images(1, WIDE)[0]
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
