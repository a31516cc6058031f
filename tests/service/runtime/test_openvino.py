"""OpenVINO, where it is installed: its answers, its fallback, and no word to its keeper."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle import folder
from service.bundle.manifest import Manifest
from service.errors import BundleError, PrecisionError
from service.runtime import comparison, decision, openvino
from service.runtime.choice import Choice
from service.runtime.engine import Engine
from service.runtime.sessions import open_sessions
from service.settings import EMBEDDED, Settings
from support.environments import packages_of
from support.images import draw, encode
from support.servers import ROOT, Server
from support.toys import SPEC, core_of
from training.export.core import content, predict_graph

BATCH = np.stack([draw(seed=seed) for seed in range(5)])
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def packages():
    """The folder that holds OpenVINO, and the path of modules with it."""
    found = packages_of("openvino")
    sys.path.append(str(found))
    yield found
    sys.path.remove(str(found))


@pytest.fixture(scope="module")
def other(packages, embedded):
    return Engine(embedded, "cpu", 2, choice=Choice("openvino"))


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A bundle whose graph has an operator that OpenVINO lacks, a determinant."""
    weights = {"weights": np.eye(3, 2, dtype=np.float32)}
    nodes = [("Det", ["x"], ["det"]), ("MatMul", ["det", "weights"], ["logits"])]
    graph = predict_graph(core_of(nodes, weights, 2).model, SPEC)
    target = tmp_path_factory.mktemp("strange") / "b"
    return folder.write(
        target, Manifest("strange", ("a", "b"), SPEC), {folder.PREDICT: content(graph)}
    )


def near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_its_answers_are_those_of_onnx_runtime(other, engine):
    x, target = engine.normalise(BATCH), np.arange(5)
    ours, theirs = other.predict(BATCH), engine.predict(BATCH)
    near(ours.logits, theirs.logits)
    near(ours.features, theirs.features)
    assert np.array_equal(ours.neighbour, theirs.neighbour)
    near(other.gradient(x, target).gradient, engine.gradient(x, target).gradient)
    near(other.cam(x, target).cam, engine.cam(x, target).cam)
    assert other.provider == "OpenVINO"
    assert other.origin(folder.CAM) == {
        "graph": "cam.onnx",
        "engine": "openvino",
        "precision": "float32",
    }


def test_a_prediction_gives_what_its_map_needs(other, engine):
    assert other.one_pass
    given = other.predict_quick(BATCH[:1], activation=True)
    target = np.array([0, 3])
    images = BATCH[:1].repeat(2, 0)
    ours = other.seeing(given.logits[0], given.activation[0]).cam_of(images, target)
    near(ours.cam, engine.cam_of(images, target).cam)


def test_its_int8_is_that_of_the_graph(packages, embedded, engine):
    quick = Engine(embedded, "cpu", 1, choice=Choice("openvino", "int8"))
    reference = Engine(embedded, "cpu", 1, "int8")
    near(quick.predict(BATCH).logits, engine.predict(BATCH).logits)
    ours, theirs = (each.predict_quick(BATCH).logits for each in (quick, reference))
    # A kernel that rounds otherwise moves a logit by a step or two.
    assert np.abs(ours - theirs).max() < 0.03 * np.ptp(theirs)


def test_threads_share_a_program_and_batches_may_differ(other, engine):
    with ThreadPoolExecutor(4) as pool:
        batches = [BATCH[: 1 + index % 5] for index in range(40)]
        found = list(pool.map(lambda batch: other.predict(batch).logits, batches))
    expected = engine.predict(BATCH).logits
    for logits in found:
        near(logits, expected[: len(logits)])


def test_an_output_is_given_on_request_alone(packages, embedded):
    program = openvino.open_program("cam.onnx", embedded.read(folder.CAM), 1, "float32")
    feeds = {"x": np.zeros((1, 3, 32, 32), np.float32), "target": np.zeros(1, np.int64)}
    assert list(program(feeds, ("cam",))) == ["cam"]
    assert set(program(feeds, ())) == {"logits", "cam", "activation", "activation_gradient"}


def of_one_node(name, *inputs, **attributes):
    """The bytes of a graph of a single operator: x (N, 7) in, `gate` out."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 7]) for name in ("x", "gate")
    ]
    named = [numpy_helper.from_array(values, f"given{i}") for i, values in enumerate(inputs)]
    node = helper.make_node(name, ["x", *(each.name for each in named)], ["gate"], **attributes)
    graph = helper.make_graph([node], "gate", values[:1], values[1:], named)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("file", "fixed", "others"),
    [("predict.onnx", (1, 4, 8, 16), (2, 3, 17)), ("gradient.onnx", (2, 4, 16), (1, 3, 17))],
)
def test_rows_that_come_often_are_compiled_for_and_give_the_same(
    file, fixed, others, packages, embedded, engine
):
    model = openvino.core().read_model(embedded.read(file))
    requests = openvino.Requests(model, {}, openvino.FIXED_ROWS[file])
    for rows in (*fixed, *others):
        compiled = requests.of(rows).get_compiled_model().inputs[0].get_partial_shape()
        assert compiled.is_static == (rows in fixed)
        assert requests.of(rows) is requests.of(rows)
    program = openvino.open_program(file, embedded.read(file), 1, "float32")
    for rows in (*fixed, *others):
        batch = np.stack([draw(seed=seed) for seed in range(rows)])
        x, target = engine.normalise(batch), np.arange(rows) % 10
        feeds = {"image": batch} if file == "predict.onnx" else {"x": x, "target": target}
        near(program(feeds, ("logits",))["logits"], engine.predict(batch).logits)


def test_rows_that_a_graph_cannot_be_compiled_for_run_as_any(packages):
    content = of_one_node("Reshape", np.array([1, 7]))
    requests = openvino.Requests(openvino.core().read_model(content), {}, (1, 2))
    assert requests.of(2) is requests.of(3)
    assert requests.of(1) is not requests.of(3)


def test_a_hard_sigmoid_is_taken_in_steps(packages):
    content = of_one_node("HardSigmoid", alpha=0.3, beta=0.4)
    x = np.linspace(-3, 3, 14, dtype=np.float32).reshape(2, 7)
    program = openvino.open_program("gradient.onnx", content, 1, "float32")
    near(program({"x": x}, ())["gate"], np.clip(0.3 * x + 0.4, 0, 1))
    read = openvino.core().read_model(content)
    assert "HardSigmoid" in {each.get_type_name() for each in read.get_ops()}
    assert "HardSigmoid" not in {each.get_type_name() for each in openvino.in_steps(read).get_ops()}


def test_gradients_may_be_its_where_onnx_runtime_predicts(packages, embedded, engine, other):
    choice = Choice(precision="int8", gradient=Choice("openvino"))
    both = Engine(embedded, "cpu", 2, choice=choice)
    assert (both.choice, both.provider, both.one_pass) == (choice, "CPUExecutionProvider", True)
    x, target = engine.normalise(BATCH), np.arange(5)
    gradient = both.gradient(x, target).gradient
    assert np.array_equal(gradient, other.gradient(x, target).gradient)
    near(gradient, engine.gradient(x, target).gradient)
    assert np.array_equal(both.predict(BATCH).logits, engine.predict(BATCH).logits)
    assert both.origin(folder.GRADIENT)["engine"] == "openvino"
    assert both.origin(folder.CAM)["engine"] == "onnxruntime"


def test_its_gradients_are_not_shared_out_beside_other_workers(packages, embedded):
    def threads():
        return sum(thread.name.startswith("rows") for thread in threading.enumerate())

    before = threads()
    x, target = np.zeros((2, 3, 32, 32), np.float32), np.zeros(2, np.int64)
    for choice, started in ((Choice(gradient=Choice("openvino")), 0), (Choice(), 2)):
        sessions = open_sessions(embedded, "cpu", 2, choice, alone=False)
        sessions.run(folder.GRADIENT, {"x": x, "target": target})
        assert threads() - before == started


def test_a_gradient_that_it_lacks_is_left_to_onnx_runtime(packages, embedded, tmp_path, caplog):
    types = {"x": TensorProto.FLOAT, "target": TensorProto.INT64}
    shapes = {"x": ["N", 3, 32, 32], "target": ["N"], "logits": ["N", 10]}
    inputs = [helper.make_tensor_value_info(name, types[name], shapes[name]) for name in types]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[shape])
        for name, shape in (("logits", "logits"), ("gradient", "x"))
    ]
    weights = numpy_helper.from_array(np.ones((3, 10), np.float32), "weights")
    nodes = [
        helper.make_node("Det", ["x"], ["det"]),
        helper.make_node("MatMul", ["det", "weights"], ["logits"]),
        helper.make_node("Identity", ["x"], ["gradient"]),
    ]
    graph = helper.make_graph(nodes, "strange", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    files = {folder.PREDICT: embedded.read(folder.PREDICT), folder.GRADIENT: content(model)}
    bundle = folder.write(tmp_path / "b", embedded.manifest, files)
    engine = Engine(bundle, "cpu", 1, choice=Choice(gradient=Choice("openvino")))
    assert engine.choice == Choice()
    assert "ONNX Runtime serves instead" in caplog.text


def test_importing_it_reports_nothing_to_its_keeper(packages, tmp_path):
    code = (
        "import sys; from service.runtime import openvino; openvino.has_bfloat16(); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_a_graph_that_it_lacks_is_run_by_onnx_runtime(packages, strange, caplog):
    with pytest.raises(BundleError, match=r"OpenVINO cannot open predict\.onnx: .*Det"):
        openvino.open_program(folder.PREDICT, strange.read(folder.PREDICT), 1, "float32")
    engine = Engine(strange, "cpu", 1, choice=Choice("openvino", "bfloat16"))
    assert (engine.choice, engine.provider) == (Choice(), "CPUExecutionProvider")
    assert "Det-20: ONNX Runtime serves instead" in caplog.text


def test_bfloat16_takes_a_cpu_that_has_it(packages, embedded):
    settings = Settings(precision="bfloat16", device="cpu")
    if openvino.has_bfloat16():
        found = comparison.compare(embedded, settings)
        assert (found.precision, found.is_proven) == ("bfloat16", True)
    else:
        with pytest.raises(PrecisionError, match="neither AMX nor AVX-512 BF16: unset CANDOR_PREC"):
            comparison.compare(embedded, settings)


@pytest.mark.parametrize("name", EMBEDDED)
def test_in_bfloat16_an_embedded_bundle_passes_its_self_test(packages, name):
    if not openvino.has_bfloat16():
        pytest.skip("this CPU has neither AMX nor AVX-512 BF16")
    choice = Choice("openvino", "bfloat16", exact=(folder.GRADIENT,))
    engine = Engine(folder.load(EMBEDDED[name]), "cpu", 1, choice=choice)
    assert (engine.choice, engine.one_pass) == (choice, True)
    assert engine.quick_rows == engine.batch_rows == {"cifar10": 16, "imagenet": 4}[name]


def test_a_map_proven_in_float32_alone_is_none_of_a_prediction_in_bfloat16(packages, embedded):
    engine = Engine(embedded, "cpu", 1, choice=Choice("openvino", "bfloat16", exact=(folder.CAM,)))
    assert (engine.choice.precision, engine.one_pass) == ("bfloat16", False)
    assert engine.origin(folder.CAM)["precision"] == "float32"


def decided(packages, monkeypatch, caplog):
    """The choice of this process's settings, by another process that has OpenVINO."""
    monkeypatch.setenv("CANDOR_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    with caplog.at_level("INFO", "candor"):
        return decision.decide(Settings.from_environment())


def test_a_server_answers_as_the_default_one_does(packages, engine, tmp_path):
    settings = {"engine": "openvino", "precision": "float32", "workers": 1}
    server = Server(tmp_path, ready_seconds=200, **settings)
    server.environment["PYTHONPATH"] = str(packages)
    with server:
        device = server.client.get("/model").json()["device"]
        predicted, explained = (
            server.client.post(path, content=encode(BATCH[0]), headers=PNG).json()
            for path in ("/predict", "/explain?method=saliency&map=array")
        )
        metrics = server.client.get("/metrics").text
        said = server.log.read_text()
    assert device["provider"] == "OpenVINO"
    assert (device["engine"], device["precision"]) == ("openvino", "float32")
    assert set(device["speed_ratio"]) == {"predictions", "gradients"}
    assert min(device["cosines"].values()) > 0.999
    logits = engine.predict(BATCH[:1]).logits
    probabilities = engine.manifest.calibration.probabilities(logits)[0]
    assert predicted["index"] == probabilities.argmax()
    assert predicted["probability"] == pytest.approx(probabilities.max(), abs=1e-3)
    assert explained["explanation"]["computed_by"]["engine"] == "openvino"
    assert 'provider="OpenVINO"' in metrics
    assert "OpenVINO in float32 beside ONNX Runtime, times as fast on one thread" in said
    assert "OpenVINO in float32 serves" in said


def test_a_bundle_of_a_graph_that_it_lacks_is_left_to_onnx_runtime(
    packages, strange, caplog, monkeypatch
):
    monkeypatch.setenv("CANDOR_BUNDLE", str(strange.folder))
    monkeypatch.setenv("CANDOR_ENGINE", "openvino")
    chosen = decided(packages, monkeypatch, caplog)
    assert chosen == Choice()
    assert "Det-20: OpenVINO in float32 cannot serve this bundle" in caplog.text
    assert "ONNX Runtime in float32 serves" in caplog.text


def test_auto_measures_and_says_its_choice(packages, caplog, monkeypatch):
    chosen = decided(packages, monkeypatch, caplog)
    assert "OpenVINO in float32 beside ONNX Runtime, times as fast" in caplog.text
    assert f"{chosen.title} serves" in caplog.text
    # It never takes what its own measurement calls slower.
    assert chosen == Choice() or chosen.is_worth_it
