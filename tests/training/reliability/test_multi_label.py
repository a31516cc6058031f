"""Each class of a multi-label model is calibrated for itself, and covered as promised."""

import numpy as np
import pytest
from scipy.special import expit

from service.bundle.manifest import Manifest
from service.image.resize import Input
from training.reliability import multi_label

SCALE, BIAS = np.array([0.5, 2.0, 1.0, 1.0]), np.array([1.0, -1.0, 0.0, 0.0])
LABELS = ("too sure", "too shy", "right", "rare")
MANIFEST = Manifest("four", LABELS, Input(8, (0.5,) * 3, (0.5,) * 3), head="sigmoid")
ROWS = 4000


def drawn(seed, rows=ROWS):
    """Logits, and classes that come with sigmoid(SCALE · logit + BIAS); of the last one three."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, len(LABELS))).astype(np.float32)
    has = rng.random(logits.shape) < expit(SCALE * logits + BIAS)
    has[:, 3] = np.arange(rows) < 3
    return logits, has


@pytest.fixture(scope="module")
def fitted():
    return multi_label.fit(MANIFEST, *drawn(0))


def test_scale_and_bias_of_each_class_are_found(fitted):
    platt = fitted.manifest.platt
    assert platt.pictures == ROWS // 2
    assert np.allclose(platt.scale[:3], SCALE[:3], rtol=0.15)
    assert np.allclose(platt.bias[:3], BIAS[:3], atol=0.15)


def test_probabilities_are_right_as_often_as_they_say(fitted):
    logits, has = drawn(1)
    probabilities = fitted.manifest.calibration.probabilities(logits)
    for index in range(3):
        near = np.abs(probabilities[:, index] - 0.8) < 0.1
        assert has[near, index].mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("coverage", ["0.90", "0.95", "0.99"])
def test_each_class_is_in_the_sets_of_the_images_that_have_it(fitted, coverage):
    logits, has = drawn(2)
    thresholds = fitted.manifest.prediction_sets.thresholds(coverage, by_class=True)
    members = fitted.manifest.calibration.probabilities(logits) >= thresholds
    for index in range(3):
        # The share of fresh images deviates, too.
        assert members[has[:, index], index].mean() >= float(coverage) - 0.01
        assert members[:, index].mean() < 1


def test_a_class_that_few_images_have_stays_as_it_is_and_is_in_every_set(fitted):
    assert (fitted.manifest.platt.scale[3], fitted.manifest.platt.bias[3]) == (1.0, 0.0)
    assert fitted.manifest.prediction_sets.by_class["0.95"][3] == 0.0
    assert fitted.figures[3].named == 1.0


def test_a_class_that_is_told_apart_without_error_has_finite_numbers():
    logits = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
    platt = multi_label.fit_platt(logits, logits > 0)
    assert 1 < platt.scale[0] <= multi_label.MOST_SCALE
    assert abs(platt.bias[0]) < 1


def test_a_class_is_never_turned_round():
    logits = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
    assert multi_label.fit_platt(logits, logits < 0).scale[0] > 0


def test_its_figures_are_of_images_that_did_not_fit_them(fitted):
    figures = fitted.figures[0]
    assert fitted.manifest.provenance["held_out"]["same_images"] is False
    assert figures.of == ROWS // 2
    low, high = figures.interval
    assert low <= 0.95 + 0.01
    assert low < figures.covered < high < low + 0.04
    assert figures.log_loss < figures.log_loss_before
    assert fitted.manifest.provenance["held_out"]["classes"][0]["covered"] == figures.covered


def test_few_images_fit_both_and_that_is_said():
    logits, has = drawn(3, 100)
    counts = multi_label.fit(MANIFEST, logits, has).manifest.provenance["held_out"]
    assert (counts["temperature"], counts["prediction_sets"], counts["same_images"]) == (
        100,
        100,
        True,
    )


def test_the_manifest_survives_its_text(fitted):
    assert Manifest.parse(fitted.manifest.canonical()) == fitted.manifest


def test_a_table_has_a_line_for_each_class(fitted):
    lines = multi_label.table(fitted.figures).splitlines()
    assert len(lines) == 2 + len(LABELS)
    assert lines[2].startswith("| too sure |")
    assert len(multi_label.table(fitted.figures * 20).splitlines()) == 2 + multi_label.SHOWN
