"""Prediction sets: how often they hold the true class of test images, and how large they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.bundle.manifest import Manifest
from service.predictions import PredictionOptions, PredictionSet, predict
from service.runtime.graphs import Outputs
from training.data import ClassIndices

KINDS = {"marginal": False, "by_class": True}


def sets(outputs: Outputs, labels: ClassIndices, manifest: Manifest) -> Mapping[str, Any]:
    """The share of images covered, that of the worst class and the mean size of the sets.

    By coverage and by kind of threshold, marginal or by class.
    """
    known = manifest.prediction_sets
    if known is None:
        return {}
    return {
        coverage: {
            kind: _set_figures(
                served(outputs, manifest, PredictionOptions(1, coverage, by_class)),
                labels,
                manifest,
            )
            for kind, by_class in KINDS.items()
        }
        for coverage in known.coverages
    }


def served(outputs: Outputs, manifest: Manifest, options: PredictionOptions) -> list[PredictionSet]:
    """The prediction set of every image, as the service answers it."""
    answers = (predict(row, manifest, options).prediction_set for row in outputs.rows())
    return [each for each in answers if each is not None]


def _set_figures(
    answers: Sequence[PredictionSet], labels: ClassIndices, manifest: Manifest
) -> Mapping[str, Any]:
    truth = [manifest.labels[label] for label in labels]
    covered = np.array([name in each.labels for name, each in zip(truth, answers, strict=True)])
    sizes = np.array([len(each.labels) for each in answers])
    by_class = {
        name: float(covered[labels == index].mean())
        for index, name in enumerate(manifest.labels)
        if (labels == index).any()
    }
    return {
        "coverage": float(covered.mean()),
        "worst_class": min(by_class.values()),
        "by_class": by_class,
        "mean_size": float(sizes.mean()),
        "alone": float((sizes == 1).mean()),
    }
