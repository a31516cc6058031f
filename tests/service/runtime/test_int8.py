"""Predictions in int8, and the Grad-CAM made of them; other explanations in float32."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle import folder
from service.errors import BundleError, PrecisionError
from service.predictions import PredictionOptions, predict
from service.runtime.engine import Engine, Piece
from support.images import draw, encode
from support.servers import Server

BATCH = np.stack([draw(seed=seed) for seed in range(5)])


@pytest.fixture(scope="module")
def quick(embedded):
    return Engine(embedded, "cpu", precision="int8")


def without_int8(bundle, path):
    return folder.write(
        path,
        replace(bundle.manifest, int8=None),
        {folder.PREDICT: bundle.read(folder.PREDICT)},
    )


def test_only_quick_predictions_are_in_int8(quick, engine):
    assert np.array_equal(quick.predict(BATCH).logits, engine.predict(BATCH).logits)
    assert np.array_equal(engine.predict_quick(BATCH).logits, engine.predict(BATCH).logits)
    ours, theirs = quick.predict_quick(BATCH), engine.predict(BATCH)
    assert 0 < np.abs(ours.logits - theirs.logits).max() < 1
    assert ours.features.shape == theirs.features.shape


def test_a_paced_engine_keeps_its_precision(quick):
    paced = quick.paced(lambda rows: Piece(min(rows, 2), True))
    assert np.array_equal(
        paced.predict_quick(BATCH[:2]).logits, quick.predict_quick(BATCH[:2]).logits
    )


def test_explanations_are_those_of_float32(quick, engine):
    x, target = engine.normalise(BATCH), np.arange(5)
    assert np.array_equal(quick.gradient(x, target).gradient, engine.gradient(x, target).gradient)


def seen(engine, image):
    """A Grad-CAM as it is made of a prediction, its origin, and the logits of that."""
    row = engine.predict_quick(image[None], activation=True).rows()[0]
    seeing = engine.seeing(row.logits, row.activation)
    target = row.logits.argmax(keepdims=True)
    return seeing.cam_of(image[None], target), seeing.origin(folder.CAM), row.logits


def test_a_grad_cam_of_a_prediction_adds_up_to_its_logit(quick, engine):
    assert quick.one_pass
    ours, origin, logits = seen(quick, BATCH[0])
    theirs = seen(engine, BATCH[0])[0]
    assert origin == {"graph": folder.INT8, "engine": "onnxruntime", "precision": "int8"}
    best = logits.argmax()
    added = ours.cam.sum() + quick.bias[best]
    assert added == pytest.approx(logits[best], abs=1e-5)
    a, b = ours.cam.ravel(), theirs.cam.ravel()
    assert 0.99 < a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) < 1


@pytest.mark.parametrize("cosine", [None, 0.998])
def test_without_a_proof_a_grad_cam_stays_in_float32(cosine, embedded, tmp_path):
    figures = replace(embedded.manifest.int8, cam_cosine=cosine)
    files = {name: embedded.read(name) for name in embedded.manifest.files}
    unproven = folder.write(tmp_path / "b", replace(embedded.manifest, int8=figures), files)
    engine = Engine(unproven, "cpu", precision="int8")
    assert not engine.one_pass
    assert engine.origin(folder.CAM)["precision"] == "float32"


def test_a_bundle_without_the_graph_stops_the_start(embedded, tmp_path):
    plain = without_int8(embedded, tmp_path / "b")
    with pytest.raises(
        PrecisionError,
        match=r"has no predict\.int8\.onnx: make one with .*quantise.*, or unset CANDOR_PRECISION",
    ):
        Engine(plain, "cpu", precision="int8")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_int8_is_for_cpus_alone(device, embedded):
    with pytest.raises(PrecisionError, match=f"the device is {device}: set CANDOR_DEVICE to cpu"):
        folder.check_int8(embedded, device)


def test_a_wrong_graph_stops_the_start(embedded, tmp_path):
    index, logit = embedded.manifest.int8.self_test
    figures = replace(embedded.manifest.int8, self_test=(index, logit + 0.3))
    files = {name: embedded.read(name) for name in (folder.PREDICT, folder.INT8)}
    wrong = folder.write(tmp_path / "b", replace(embedded.manifest, int8=figures), files)
    assert Engine(wrong, "cpu").precision == "float32"
    with pytest.raises(BundleError, match="self-test image"):
        Engine(wrong, "cpu", precision="int8")


def test_a_served_prediction_is_the_engines(quick, tmp_path):
    expected = predict(
        quick.predict_quick(BATCH[:1]).rows()[0], quick.manifest, PredictionOptions(10)
    )
    with Server(tmp_path, precision="int8", workers=1) as server:
        model = server.client.get("/model").json()
        response = server.client.post(
            "/predict?top_k=10", content=encode(BATCH[0]), headers={"Content-Type": "image/png"}
        )
    assert model["device"]["precision"] == "int8"
    assert "self_test" not in model["int8"]
    found = {entry["index"]: entry["probability"] for entry in response.json()["top"]}
    assert found == pytest.approx(
        {entry.index: entry.probability for entry in expected.top}, abs=1e-6
    )
