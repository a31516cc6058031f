"""Prediction sets: how often they hold the true class of test images, and how large they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest

from service.bundle.manifest import Manifest
from service.predictions import PredictionOptions, PredictionSet, predict
from service.runtime.graphs import Outputs
from training.data import ClassIndices
from training.figures.intervals import bootstrap, wilson
from training.reliability.conformal import sets_by_size

KINDS = {"marginal": False, "by_class": True}
MOST_SIZE = 5  # larger sets are counted together
FALLS_SHORT = 0.05  # how often some class would seem to, if none did


def sets(
    outputs: Outputs, labels: ClassIndices, manifest: Manifest, seed: int
) -> Mapping[str, Any]:
    """The share of images covered, that of the worst class and the mean size of the sets.

    By coverage and by kind of threshold, marginal or by class. `seed` draws bootstrap samples.
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
                float(coverage),
                seed,
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
    answers: Sequence[PredictionSet],
    labels: ClassIndices,
    manifest: Manifest,
    promised: float,
    seed: int,
) -> Mapping[str, Any]:
    covered = np.array(
        [label in each.indices for label, each in zip(labels, answers, strict=True)], bool
    )
    sizes = np.array([len(each.indices) for each in answers])
    by_class = {
        name: float(covered[labels == index].mean())
        for index, name in enumerate(manifest.labels)
        if (labels == index).any()
    }
    least = covered[labels == min(np.unique(labels), key=lambda one: covered[labels == one].mean())]
    counted = sets_by_size(np.minimum(sizes, MOST_SIZE), covered)
    return {
        "coverage": float(covered.mean()),
        "coverage_interval": wilson(int(covered.sum()), len(covered)),
        "worst_class": min(by_class.values()),
        "worst_class_interval": wilson(int(least.sum()), len(least)),
        "by_class": by_class,
        "short": short(covered, labels, manifest, promised),
        "mean_size": float(sizes.mean()),
        "mean_size_interval": bootstrap(lambda rows: float(sizes[rows].mean()), len(sizes), seed),
        "alone": float((sizes == 1).mean()),
        "by_size": [
            {
                "least": each.least,
                **({} if each.most is None else {"most": each.most}),
                "sets": each.sets,
                "share": each.share,
                "interval": wilson(each.held, each.sets),
            }
            for each in counted
        ],
    }


def short(
    covered: Bool[np.ndarray, " rows"], labels: ClassIndices, manifest: Manifest, promised: float
) -> list[str]:
    """The classes that are covered less than promised, beyond chance (Bonferroni)."""
    present = np.unique(labels).tolist()
    return [
        manifest.labels[index]
        for index in present
        if binomtest(
            int(covered[labels == index].sum()),
            int((labels == index).sum()),
            promised,
            alternative="less",
        ).pvalue
        < FALLS_SHORT / len(present)
    ]
