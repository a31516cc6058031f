"""Prediction sets are measured as they are served."""

from dataclasses import replace

import numpy as np
import pytest

from service.predictions import PredictionOptions
from service.runtime.engine import Engine
from training.audit.measures.sets import served, sets


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu")


def test_figures_count_the_sets_that_hold_the_label(engine, dataset):
    outputs, labels = engine.predict(dataset.test.pixels), dataset.test.labels
    for by_class, kind in ((False, "marginal"), (True, "by_class")):
        figures = sets(outputs, labels, engine.manifest)["0.90"][kind]
        thresholds = np.asarray(getattr(engine.manifest.prediction_sets, kind)["0.90"])
        probabilities = engine.manifest.calibration.probabilities(outputs.logits)
        members = probabilities >= thresholds
        # the most probable class alone, where no class reaches its threshold
        members[np.arange(len(members)), probabilities.argmax(1)] |= ~members.any(1)
        covered = members[np.arange(len(labels)), labels]
        assert figures["coverage"] == pytest.approx(covered.mean())
        assert figures["mean_size"] == pytest.approx(members.sum(1).mean())
        assert figures["alone"] == pytest.approx((members.sum(1) == 1).mean())
        assert figures["worst_class"] == pytest.approx(
            min(covered[labels == label].mean() for label in range(3))
        )
        options = PredictionOptions(1, "0.90", by_class)
        answers = served(outputs, engine.manifest, options)
        assert [len(each.labels) for each in answers] == members.sum(1).tolist()


def test_a_bundle_without_sets_has_no_figures(engine, dataset):
    outputs = engine.predict(dataset.test.pixels)
    without = replace(engine.manifest, prediction_sets=None)
    assert sets(outputs, dataset.test.labels, without) == {}
