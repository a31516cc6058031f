"""Prediction sets are measured as they are served."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.predictions import PredictionOptions
from service.runtime.engine import Engine
from training.audit.measures.sets import served, sets, short


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu")


def test_figures_count_the_sets_that_hold_the_label(engine, dataset):
    outputs, labels = engine.predict(dataset.test.pixels), dataset.test.labels
    for by_class, kind in ((False, "marginal"), (True, "by_class")):
        figures = sets(outputs, labels, engine.manifest, seed=0)["0.90"][kind]
        thresholds = np.asarray(getattr(engine.manifest.prediction_sets, kind)["0.90"])
        probabilities = engine.manifest.calibration.probabilities(outputs.logits)
        members = probabilities >= thresholds
        # the most probable class alone, where no class reaches its threshold
        members[np.arange(len(members)), probabilities.argmax(1)] |= ~members.any(1)
        covered = members[np.arange(len(labels)), labels]
        assert figures["coverage"] == pytest.approx(covered.mean())
        assert figures["mean_size"] == pytest.approx(members.sum(1).mean())
        assert figures["alone"] == pytest.approx((members.sum(1) == 1).mean())
        low, high = figures["coverage_interval"]
        assert low <= covered.mean() <= high
        assert sum(entry["sets"] for entry in figures["by_size"]) == len(labels)
        assert figures["worst_class"] == pytest.approx(
            min(covered[labels == label].mean() for label in range(3))
        )
        options = PredictionOptions(1, "0.90", by_class)
        answers = served(outputs, engine.manifest, options)
        assert [len(each.labels) for each in answers] == members.sum(1).tolist()


def test_a_bundle_without_sets_has_no_figures(engine, dataset):
    outputs = engine.predict(dataset.test.pixels)
    without = replace(engine.manifest, prediction_sets=None)
    assert sets(outputs, dataset.test.labels, without, seed=0) == {}


def test_a_class_below_its_promise_is_named_only_if_chance_would_not_do_it():
    manifest = Manifest("three", ("a", "b", "c"), Input(32, (0.5,) * 3, (0.5,) * 3))
    labels = np.repeat([0, 1, 2], 1000)
    covered = np.ones(3000, bool)
    covered[:60] = covered[1000:1080] = False  # 0.940 and 0.920 of a promised 0.95
    assert short(covered, labels, manifest, 0.95) == ["b"]
