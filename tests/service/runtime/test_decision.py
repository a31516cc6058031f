"""What computes is decided once, at the start, by a process that never ends the start."""

from dataclasses import replace

import numpy as np
import pytest

from service import settings as service_settings
from service.bundle import folder
from service.errors import SettingsError
from service.runtime import decision, openvino
from service.runtime.choice import Choice
from service.settings import EMBEDDED, Settings
from support.images import draw, encode
from support.servers import Server

PNG = {"Content-Type": "image/png"}


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch):
    for module in (openvino, service_settings):
        monkeypatch.setattr(module, "find_spec", lambda _name: None)


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(decision.sys, "executable", "/nowhere")


def decide(**wishes):
    return decision.decide(Settings(device="cpu", **wishes))


@pytest.mark.parametrize("wishes", [{"engine": "openvino"}, {"precision": "bfloat16"}])
def test_a_wish_without_the_extra_is_a_sentence(wishes):
    with pytest.raises(SettingsError, match=r"not installed: install candor\[openvino\]"):
        decide(**wishes)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_wanted_precision_is_not_measured(precision, engine, nothing_runs):
    assert decide(precision=precision, engine=engine) == Choice(precision=precision)


def test_a_bundle_without_int8_is_not_measured(nothing_runs):
    assert decide(bundle=EMBEDDED["imagenet"]) == Choice()


def test_a_bundle_with_int8_is_measured(caplog, monkeypatch):
    monkeypatch.setenv("CANDOR_DEVICE", "cpu")
    with caplog.at_level("INFO", "candor"):
        found = decide(engine="onnxruntime")
    assert "ONNX Runtime in int8 beside ONNX Runtime, times as fast on one thread" in caplog.text
    assert f"{found.title} serves" in caplog.text
    assert found == Choice() or (found.precision, found.is_worth_it) == ("int8", True)


def test_a_bundle_that_loses_too_much_in_int8_is_served_in_float32(embedded, tmp_path, monkeypatch):
    int8 = embedded.manifest.int8
    lossy = replace(int8, macro_f1=int8.macro_f1_float32 - 0.0031)
    files = {name: embedded.read(name) for name in embedded.manifest.files}
    made = folder.write(tmp_path / "b", replace(embedded.manifest, int8=lossy), files)
    monkeypatch.setenv("CANDOR_BUNDLE", str(made.folder))
    assert decide(bundle=made.folder) == Choice()


def test_a_folder_of_versions_is_measured(embedded, tmp_path, monkeypatch):
    (tmp_path / "1").symlink_to(embedded.folder)
    assert Settings(device="cpu", bundle=tmp_path).compares
    assert not Settings(device="cpu", bundle=tmp_path, precision="float32").compares
    assert not Settings(device="cuda", bundle=tmp_path).compares


def test_a_process_that_dies_leaves_float32(caplog, monkeypatch):
    monkeypatch.setattr(decision.sys, "executable", "/bin/false")
    assert decide() == Choice()
    assert "failed (ended with 1): ONNX Runtime in float32 serves" in caplog.text


def test_all_workers_serve_what_was_found(embedded, tmp_path):
    body = encode(draw("red", 32, 1))
    with Server(tmp_path, precision="auto", workers=2) as server:
        ask = "/predict?explain=grad_cam&map=array&encoding=npy16"
        answers = [
            server.client.post(ask, content=body, headers=PNG | {"Connection": "close"}).json()
            for _ in range(8)
        ]
        device = server.client.get("/model").json()["device"]
        said = server.log.read_text()
    assert f"ONNX Runtime in {device['precision']} serves" in said
    for answer in answers:
        file = folder.INT8 if device["precision"] == "int8" else folder.PREDICT
        computed = answer["explanation"]["computed_by"]
        assert (computed["graph"], computed["precision"]) == (file, device["precision"])
        assert answer["explanation"]["map"] == answers[0]["explanation"]["map"]
    assert np.ptp([answer["probability"] for answer in answers]) == 0
