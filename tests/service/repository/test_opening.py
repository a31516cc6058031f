"""A version is opened in the precision that the start chose, where its own figures allow it."""

import json

import pytest

from service.api.models.opening import Opener
from service.repository.catalogue import Catalogue
from service.runtime.choice import Choice
from service.schedule.resources import Resources
from service.settings import EMBEDDED_BUNDLE, Settings
from service.telemetry.metrics import Metrics
from support.versions import make_version


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """What opens a bundle with other figures of int8 as a version of a model of that name."""
    monkeypatch.setenv("_CANDOR_CHOICE", "")
    Choice(precision="int8").pass_on()
    figures = json.loads((EMBEDDED_BUNDLE / "manifest.json").read_text())["int8"]

    def of(name, precision="auto", **changes):
        folder = tmp_path / name
        make_version(folder, int8=figures | changes)
        settings, metrics = Settings(device="cpu", precision=precision), Metrics()
        opener = Opener(settings, metrics, Resources(settings, metrics), "default")
        version = Catalogue(name, {name: folder}).current(name)
        answers = opener(version)
        answers.pipeline.close()
        return answers.pipeline.engine.choice

    return of


@pytest.mark.parametrize("name", ["default", "other"])
def test_its_figures_decide_about_int8(name, opened):
    assert opened(name).precision == "int8"


@pytest.mark.parametrize("name", ["default", "other"])
def test_a_version_that_loses_too_much_is_opened_in_float32(name, opened):
    assert opened(name, macro_f1=0.89) == Choice()


def test_a_wanted_precision_is_not_weighed(opened):
    assert opened("default", "int8", macro_f1=0.89).precision == "int8"


def test_a_version_that_comes_back_is_not_measured_again(tmp_path):
    for number in range(2):
        make_version(tmp_path / "cats" / str(number), temperature=1.0 + number)
    settings, metrics = Settings(device="cpu"), Metrics()
    opener = Opener(settings, metrics, Resources(settings, metrics), "default")
    first, second = Catalogue("cats", {"cats": tmp_path / "cats"}).versions("cats")

    def seconds(version):
        pipeline = opener(version).pipeline
        pipeline.close()
        engine = pipeline.engine
        return engine.forward_seconds, engine.quick_seconds, engine.row_seconds("gradient.onnx")

    measured = seconds(first)
    assert seconds(second) != measured
    assert seconds(first) == measured


def test_a_version_that_another_precision_computes_is_measured_for_itself(tmp_path):
    figures = json.loads((EMBEDDED_BUNDLE / "manifest.json").read_text())["int8"]
    made = tmp_path / "b"
    make_version(made, int8=figures | {"macro_f1": 0.89})
    settings, metrics = Settings(device="cpu", precision="int8"), Metrics()
    opener = Opener(settings, metrics, Resources(settings, metrics), "cats")
    catalogue = Catalogue("cats", dict.fromkeys(("cats", "dogs"), made))
    engines = {}
    for name in ("cats", "dogs"):
        pipeline = opener(catalogue.current(name)).pipeline
        pipeline.close()
        engines[name] = pipeline.engine
    assert [each.precision for each in engines.values()] == ["int8", "float32"]
    assert engines["cats"].quick_seconds != engines["dogs"].quick_seconds
