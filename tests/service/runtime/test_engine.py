"""The engine runs what the bundle holds, where it was asked to."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle import folder as contract
from service.errors import BundleError, DeviceError, MethodUnavailable
from service.runtime.engine import Engine, rows_of, self_test_image
from service.runtime.sessions import file_of
from support.images import draw

BATCH = np.stack([draw(seed=seed) for seed in range(37)])


def files_of(bundle, *names):
    return {name: bundle.read(name) for name in names}


def test_a_batch_answers_as_its_rows_do(engine):
    together = engine.predict(BATCH).logits
    alone = np.concatenate([engine.predict(row[None]).logits for row in BATCH])
    assert together.shape == (37, 10)
    assert np.abs(together - alone).max() < 1e-4, np.abs(together - alone).max()


def test_normalisation_is_the_same_inside_the_graph_and_outside(engine):
    target = np.full(len(BATCH), -1)
    inside, outside = (
        engine.predict(BATCH).logits,
        engine.gradient(engine.normalise(BATCH), target).logits,
    )
    assert np.abs(inside - outside).max() < 1e-4, np.abs(inside - outside).max()


def test_minus_one_explains_the_predicted_class(engine):
    x = engine.normalise(BATCH[:5])
    predicted = engine.predict(BATCH[:5]).logits.argmax(1)
    assert np.array_equal(
        engine.gradient(x, np.full(5, -1)).gradient, engine.gradient(x, predicted).gradient
    )
    assert np.array_equal(engine.cam(x, np.full(5, -1)).cam, engine.cam(x, predicted).cam)


def test_the_gradient_is_the_slope_of_the_logit(engine):
    x = engine.normalise(BATCH[:1])
    target = np.array([3])
    direction = engine.gradient(x, target).gradient
    direction /= np.linalg.norm(direction)
    step = np.float32(1e-2)
    ahead, behind = (
        engine.gradient(x + sign * step * direction, target).logits[0, 3] for sign in (1, -1)
    )
    slope = (float(ahead) - float(behind)) / (2 * float(step))
    found = float((engine.gradient(x, target).gradient * direction).sum())
    assert found == pytest.approx(slope, rel=0.05, abs=0.05)


def test_the_cam_is_its_activation_weighed_by_the_mean_gradient(engine):
    cam = engine.cam(engine.normalise(BATCH[:3]), np.array([0, 1, 2]))
    weights = cam.activation_gradient.mean((2, 3), keepdims=True)
    expected = (weights * cam.activation).sum(1, keepdims=True)
    assert np.abs(cam.cam - expected).max() < 1e-5


def test_cuda_is_refused_where_it_does_not_run(embedded):
    if _cuda_runs(embedded):
        pytest.skip("a GPU is here: cuda runs")
    with pytest.raises(DeviceError, match="set CANDOR_DEVICE to cpu or auto"):
        Engine(embedded, "cuda")


def test_auto_takes_what_runs(embedded):
    engine = Engine(embedded, "auto")
    assert engine.device == ("cuda" if _cuda_runs(embedded) else "cpu")
    assert engine.provider.lower().startswith(engine.device)


def _cuda_runs(bundle):
    try:
        ort.set_default_logger_severity(4)
        session = ort.InferenceSession(
            bundle.read(contract.PREDICT), providers=["CUDAExecutionProvider"]
        )
        return session.get_providers()[0] == "CUDAExecutionProvider"
    except Exception:  # noqa: BLE001 - onnxruntime raises what it likes
        return False


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", "cam.onnx"), ("cuda", "cam.half.onnx"), ("tensorrt", "cam.half.onnx")],
)
def test_half_precision_serves_gpus_alone(device, expected):
    assert file_of(contract.CAM, {*contract.HALVES, *contract.HALVES.values()}, device) == expected
    assert (
        file_of(contract.CAM, {*contract.HALVES, contract.HALVES[contract.PREDICT]}, device)
        == contract.CAM
    )


def test_the_cpu_opens_no_half_precision(embedded, tmp_path):
    files = files_of(embedded, contract.PREDICT) | {contract.HALVES[contract.PREDICT]: b"no graph"}
    engine = Engine(contract.write(tmp_path / "b", embedded.manifest, files), "cpu")
    assert engine.predict(BATCH[:1]).logits.shape == (1, 10)


def test_a_bundle_with_prediction_alone_says_what_is_missing(embedded, tmp_path):
    engine = Engine(
        contract.write(tmp_path / "b", embedded.manifest, files_of(embedded, contract.PREDICT)),
        "cpu",
    )
    assert engine.predict(BATCH[:1]).logits.shape == (1, 10)
    with pytest.raises(MethodUnavailable, match=r"no gradient.onnx"):
        engine.gradient(engine.normalise(BATCH[:1]), np.array([0]))


def test_a_wrong_answer_to_the_self_test_stops_the_start(embedded, tmp_path):
    index, logit = embedded.manifest.self_test
    wrong = contract.write(
        tmp_path / "b",
        replace(embedded.manifest, self_test=(index, logit + 1)),
        files_of(embedded, contract.PREDICT),
    )
    with pytest.raises(BundleError, match="the manifest says class"):
        Engine(wrong, "cpu")


def test_a_graph_that_is_none_stops_the_start(embedded, tmp_path):
    broken = contract.write(tmp_path / "b", embedded.manifest, {contract.PREDICT: b"no graph"})
    with pytest.raises(BundleError, match=r"cannot open predict\.onnx"):
        Engine(broken, "cpu")


def test_of_large_images_fewer_run_together_on_a_gpu():
    assert rows_of(32)[-1] == 64
    assert rows_of(224)[-1] == 16
    assert rows_of(512)[-1] == 2
    assert rows_of(4_096) == (1,)


def test_the_self_test_image_is_the_same_everywhere():
    assert self_test_image(3)[0, 1].tolist() == [[0, 127, 255], [127, 127, 128], [255, 127, 0]]
