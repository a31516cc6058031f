"""A legend names method, target and colours, and moves no pixel of the image."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle.manifest import Manifest
from service.explain import METHODS, Attribution, Question, Target, legend
from service.image.resize import Input

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
LABELS = ("ship", "café au lait", "\u732b", "a" * 300, "sea  lion,\n lying", "")
MANIFEST = Manifest("toy", LABELS, Input(8, (0.5,) * 3, (1.0,) * 3))
LOGITS = np.array([2, 1, 0, 0, 0, -9], np.float32)


def legend_for(method="integrated_gradients", target=0, against=None, values=None):
    drawn = (
        np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
        if values is None
        else values
    )
    result = Attribution(Question(METHODS[method], None, {}), Target(target, against), drawn, {})
    return legend.legend_of(result, MANIFEST, LOGITS)


def test_the_heading_names_method_target_and_probability():
    assert legend_for().heading == "Integrated Gradients for ship (56.4%)"
    assert (
        legend_for("grad_cam", 1, 0).heading
        == "Grad-CAM for cafe au lait (20.7%) rather than ship (56.4%)"
    )


def test_the_heading_names_an_earlier_layer():
    question = Question(METHODS["layer_cam"], None, {"layer": "early"})
    result = Attribution(question, Target(0), np.eye(8, dtype=np.float32), {})
    heading = legend.legend_of(result, MANIFEST, LOGITS).heading
    assert heading == "LayerCAM at the early layer for ship (56.4%)"


@pytest.mark.parametrize(
    ("target", "words"),
    [(2, "for class 2 (7.6%)"), (4, "for sea lion, lying (7.6%)"), (5, "for class 5 (<0.1%)")],
)
def test_a_label_that_cannot_be_drawn_is_called_by_its_index(target, words):
    assert legend_for(target=target).heading.endswith(words)


@pytest.mark.parametrize("method", METHODS)
def test_every_title_and_unit_can_be_drawn(method):
    heading = legend_for(method).heading
    assert all(legend._drawable(character) for character in heading + METHODS[method].unit)


def test_a_map_of_zeros_has_a_note_and_no_bar():
    zero = legend_for(values=np.zeros((8, 8), np.float32))
    assert (zero.note, zero.limit) == ("there is nothing to explain", 0)
    result = legend.below(IMAGE, zero)[40:]
    assert np.ptp(result.astype(int), axis=2).max() == 0
    assert len(result) < len(legend.below(IMAGE, legend_for())[40:])


def test_the_note_names_values_that_a_sequential_scale_hides():
    signed, negative = np.eye(8, dtype=np.float32) - 0.5, np.full((8, 8), -1, np.float32)
    assert legend_for("grad_cam", values=signed).note == "what speaks against it is not shown"
    assert legend_for("grad_cam", values=negative).note == "nothing speaks for it"
    assert (
        legend_for("grad_cam", values=np.zeros((8, 8), np.float32)).note
        == "there is nothing to explain"
    )
    assert not legend_for("saliency", values=np.abs(signed)).note


def test_an_answer_by_another_method_says_so_with_and_without_a_legend():
    asked = Question(METHODS["lime"], None, {})
    values = np.ones((8, 8), np.float32)
    other = Question(METHODS["grad_cam"], None, {})
    found = Attribution(other, Target(0, None), values, {}, degraded_from=asked)
    words = "not LIME as asked: there was no time"
    assert legend.legend_of(found, MANIFEST, LOGITS).note == words
    assert legend.of_replacement(found).heading == f"Grad-CAM, {words}"
    for same in (replace(found, degraded_from=None), replace(found, degraded_from=other)):
        assert legend.of_replacement(same) is None


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (32, 32), (40, 300), (700, 1000), (1000, 2000), (1, 9000)]
)
@pytest.mark.parametrize("method", ["integrated_gradients", "saliency"])
def test_the_image_keeps_its_place(method, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    result = legend.below(pixels, legend_for(method))
    assert result.shape[1] == max(width, 256)
    assert 60 < result.shape[0] - height < 400
    assert np.array_equal(result[:height, :width], pixels)
    assert (result[:height, width:] == 255).all()


@pytest.mark.parametrize("width", [1, 100, 1000])
def test_very_long_labels_are_cut_and_stay_inside(width):
    pixels = np.zeros((10, width, 3), np.uint8)
    for heading in ("x" * 5000, "many words " * 500, "W" * 37):
        result = legend.below(pixels, replace(legend_for(), heading=heading))
        assert len(result) - 10 < 400
        assert (result[10:, -3:] == 255).all()
        assert (result[-3:] == 255).all()


def test_the_bar_runs_from_blue_over_white_to_orange():
    strip = legend.below(IMAGE, legend_for())[40:].astype(int)
    coloured = np.ptp(strip, axis=2) > 60
    row = strip[np.argmax(coloured.sum(1))]
    assert row[20, 2] > row[20, 0] + 60
    assert row[235, 0] > row[235, 2] + 60
    assert row[128].min() > 240


def test_an_end_is_pointed_where_values_lie_beyond():
    def corners(below, above):
        result = legend.below(IMAGE, replace(legend_for(), below=below, above=above))[40:].astype(
            int
        )
        bar = np.flatnonzero((np.ptp(result, axis=2) > 30).sum(1) > 128)
        return [bool(np.ptp(result[bar[1], column])) for column in (12, 243)]

    assert corners(below=False, above=False) == [True, True]
    assert corners(below=True, above=False) == [False, True]
    assert corners(below=False, above=True) == [True, False]


def test_the_same_legend_gives_the_same_bytes():
    assert (
        legend.below(IMAGE, legend_for()).tobytes() == legend.below(IMAGE, legend_for()).tobytes()
    )


def test_a_tall_sliver_with_a_legend_stays_within_bounds(engine):
    from service.schedule.sent import draw_overlay, fit_image
    from support.images import encode

    sent = fit_image(
        encode(np.zeros((16_000, 3, 3), np.uint8)), engine.manifest.input, 10**6, keep=True
    )
    result = Attribution(
        Question(METHODS["saliency"], None, {}), Target(0), np.ones((32, 32), np.float32), {}
    )
    size = len(
        draw_overlay(
            engine,
            sent.ground,
            sent,
            result,
            legend.legend_of(result, engine.manifest, np.zeros(10, np.float32)),
        )
    )
    assert size < 10**6
