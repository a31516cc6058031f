"""Accuracy and F1, overall and by class, with bootstrap intervals.

`predicted` and `labels` are int64 (N,). Intervals are percentiles of bootstrap samples of the
images (Efron, Annals of Statistics 1979).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import classification_report, confusion_matrix

from service.bundle.manifest import Manifest
from training.data import ClassIndices

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


def accuracy(
    predicted: ClassIndices, labels: ClassIndices, manifest: Manifest, seed: int
) -> Mapping[str, Any]:
    """Accuracy and macro F1 with their intervals, scikit-learn's report, and the confusion matrix.

    A row of the matrix is a true class.
    """
    classes = range(len(manifest.labels))
    report = classification_report(
        labels,
        predicted,
        labels=classes,
        target_names=list(manifest.labels),
        output_dict=True,
        zero_division=0.0,
    )
    matrix = confusion_matrix(labels, predicted, labels=classes)
    return {
        "pictures": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "accuracy_interval": interval(
            lambda rows: (predicted[rows] == labels[rows]).mean(), len(labels), seed
        ),
        "macro_f1": float(report["macro avg"]["f1-score"]),
        "macro_f1_interval": interval(
            lambda rows: macro_f1(predicted[rows], labels[rows], len(classes)), len(labels), seed
        ),
        "classes": report,
        "confusion": matrix.tolist(),
    }


def macro_f1(predicted: ClassIndices, labels: ClassIndices, classes: int) -> float:
    """The mean over classes of F1 = 2·hits / (predicted + true)."""
    # equal to scikit-learn's and a hundred times as fast, for a thousand bootstrap samples
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * hits / np.maximum(both, 1)).mean())


def interval(figure: Callable[[ClassIndices], float], rows: int, seed: int) -> list[float]:
    """The ends of the 95 % interval of `figure` over bootstrap samples of `rows` rows."""
    rng = np.random.default_rng(seed)
    values: Float64[np.ndarray, " resamples"] = np.array(
        [figure(rng.integers(rows, size=rows)) for _ in range(RESAMPLES)]
    )
    return [float(end) for end in np.percentile(values, INTERVAL)]
