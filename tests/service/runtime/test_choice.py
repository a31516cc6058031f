"""The choice of runtime and precision: by what was measured, and by the bundle's own figures."""

from dataclasses import replace

import pytest

from service.bundle.manifest import Bfloat16
from service.runtime import choice
from service.runtime.choice import Choice, best, precisions, unchanged

NEAR = {"logits": 0.99999, "gradient": 0.995, "cam": 0.9995}


def measured(runtime, precision, predictions, gradients, **cosines):
    ratios = {"predictions": predictions, "gradients": gradients}
    return Choice(runtime, precision, ratios, NEAR | cosines)


FLOAT32 = measured("openvino", "float32", 0.9, 1.2)
BFLOAT16 = measured("openvino", "bfloat16", 2.5, 3.0)
INT8 = measured("openvino", "int8", 3.1, 1.0)
WIDE = {"predictions": 1.6, "gradients": 1.6}  # as on a Zen 5


def test_the_fastest_predictions_are_chosen():
    assert best([FLOAT32, BFLOAT16], forced=False) == BFLOAT16
    assert best([FLOAT32, BFLOAT16, INT8], forced=False).precision == "int8"


def test_gradients_are_those_of_the_quickest_proven():
    int8, wide = measured("onnxruntime", "int8", 2.9, 1.0), replace(BFLOAT16, speed_ratio=WIDE)
    found = best([FLOAT32, wide, int8], forced=False)
    assert found.title == "ONNX Runtime in int8 with gradients by OpenVINO in bfloat16"
    assert found.gradient == Choice("openvino", "bfloat16")
    assert found.speed_ratio == {"predictions": 2.9, "gradients": 1.6}
    assert found.cosines == int8.cosines
    assert (found.of("gradient.onnx"), found.of("predict.onnx")) == (found.gradient, found)
    assert found.precision_of("gradient.onnx") == "bfloat16"
    assert found.precision_of("cam.onnx") == "int8"
    assert found.has_openvino
    assert not int8.has_openvino
    assert found.without_openvino() == Choice(precision="int8")


def test_gradients_that_lose_are_left_to_the_usual_choice():
    found = best([unchanged(Choice()), measured("openvino", "int8", 2.0, 0.9)], forced=False)
    assert (found.runtime, found.precision, found.gradient) == ("openvino", "int8", Choice())
    assert best([unchanged(Choice())], forced=False) is None


def test_of_another_precision_gradients_are_those_that_were_measured():
    exact = measured("openvino", "bfloat16", 1.5, 1.3, gradient=1.0)
    exact = replace(exact, exact=("gradient.onnx",))
    found = INT8.with_gradient_of([exact])
    assert found.gradient == Choice("openvino", "float32")
    assert found.cosines["gradient"] == 1.0
    beside = measured("openvino", "int8", 0.9, 1.3)
    assert INT8.with_gradient_of([beside]).gradient == Choice("openvino", "float32")


@pytest.mark.parametrize(
    "other",
    [
        measured("openvino", "float32", 0.9, 1.09),
        measured("openvino", "bfloat16", 0.9, 3.0, gradient=0.98),
        Choice("openvino", "bfloat16", {"predictions": 0.9}),
    ],
    ids=["hardly faster", "other gradients", "not measured"],
)
def test_other_gradients_must_gain_and_be_near(other):
    assert INT8.with_gradient_of([INT8, other]) is INT8


@pytest.mark.parametrize(
    "found",
    [
        FLOAT32,
        measured("openvino", "float32", 1.05, 2.0),
        measured("openvino", "bfloat16", 2.5, 3.0, gradient=0.98),
        measured("openvino", "bfloat16", 2.5, 3.0, cam=0.998),
        measured("openvino", "bfloat16", 2.5, 3.0, logits=0.99),
    ],
    ids=["slower", "hardly faster", "other gradients", "other CAMs", "other logits"],
)
def test_what_gains_nothing_or_answers_otherwise_is_not_chosen(found):
    assert best([found], forced=False) is None


def test_a_graph_whose_maps_differ_stays_in_float32():
    found = measured("openvino", "bfloat16", 2.5, 3.0, gradient=0.9)
    assert found.unproven == ("gradient.onnx",)
    kept = Choice("openvino", "bfloat16", exact=found.unproven)
    assert kept.precision_of("gradient.onnx") == "float32"
    assert kept.precision_of("cam.onnx") == kept.precision_of("predict.onnx") == "bfloat16"
    assert BFLOAT16.unproven == ()


def test_a_forced_runtime_may_be_slower_but_not_wrong():
    wrong = measured("openvino", "bfloat16", 2.5, 3.0, gradient=0.5)
    assert best([FLOAT32, wrong], forced=True) == FLOAT32


def test_the_figures_of_the_bundle_forbid_a_precision(embedded):
    manifest, int8 = embedded.manifest, embedded.manifest.int8
    assert precisions(manifest, None, bfloat16=True) == ("float32", "bfloat16", "int8")
    assert precisions(manifest, None, bfloat16=False) == ("float32", "int8")
    lossy = replace(int8, macro_f1=int8.macro_f1_float32 - 0.004)
    halved = Bfloat16(1000, 0.895, 0.899, 0.99, "2026-11-30")
    worse = replace(manifest, int8=lossy, bfloat16=halved)
    assert precisions(worse, None, bfloat16=True) == ("float32",)
    assert precisions(worse, "int8", bfloat16=True) == ("int8",)


def test_another_bundle_is_in_int8_only_where_its_figures_allow_it(embedded):
    manifest, chosen = embedded.manifest, Choice(precision="int8", speed_ratio={"predictions": 2.0})
    assert chosen.of_bundle(manifest) is chosen
    lossy = replace(manifest.int8, macro_f1=manifest.int8.macro_f1_float32 - 0.004)
    for other in (replace(manifest, int8=lossy), replace(manifest, int8=None)):
        assert chosen.of_bundle(other) == Choice()
        assert BFLOAT16.of_bundle(other) is BFLOAT16


def test_the_workers_receive_the_choice(monkeypatch):
    monkeypatch.delenv(choice.PASSED, raising=False)
    assert choice.received("int8") == Choice(precision="int8")
    monkeypatch.setenv(choice.PASSED, "")  # which monkeypatch takes back
    sent = replace(INT8, exact=("gradient.onnx",), gradient=Choice("openvino", "bfloat16"))
    sent.pass_on()
    assert choice.received(None) == sent


def test_a_choice_is_said_in_words_and_numbers():
    assert BFLOAT16.sentence == (
        "OpenVINO in bfloat16 beside ONNX Runtime, times as fast on one thread: predictions 2.50, "
        "gradients 3.00; cosines with its answers: logits 0.99999, gradient 0.99500, cam 0.99950"
    )
    assert Choice().document() == {"engine": "onnxruntime", "precision": "float32"}
    assert BFLOAT16.document()["speed_ratio"] == {"predictions": 2.5, "gradients": 3.0}
    split = Choice(precision="int8", gradient=Choice("openvino", "bfloat16"))
    assert split.document() == {
        "engine": "onnxruntime",
        "precision": "int8",
        "gradient": {"graph": "gradient.onnx", "engine": "openvino", "precision": "bfloat16"},
    }
