"""Accuracy and F1, overall and by class, with 95 % intervals, and the confusion of classes.

`predicted` and `labels` are int64 (N,). The interval of the accuracy is Wilson's, that of macro F1
a bootstrap's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from sklearn.metrics import classification_report, confusion_matrix

from training.data import ClassIndices
from training.figures.intervals import PERCENTILES, RESAMPLES, bootstrap, wilson

MOST_CLASSES = 1000  # of a matrix: more would be a file of a gigabyte
AVERAGES = ("accuracy", "micro avg", "macro avg", "weighted avg")  # of scikit-learn's report

Figures = Mapping[str, Any]


class Confusion(NamedTuple):
    """`images` of the `support` images of the class `truth` get the class `answer`."""

    truth: str
    answer: str
    images: int
    support: int


def accuracy(
    predicted: ClassIndices, labels: ClassIndices, classes: Sequence[str], seed: int
) -> Figures:
    """Accuracy and macro F1 with their intervals, scikit-learn's report, and the confusion matrix.

    A row of the matrix is a true class; of more than MOST_CLASSES it is empty. `seed` draws the
    bootstrap samples.
    """
    hits = int((predicted == labels).sum())
    report = classification_report(
        labels,
        predicted,
        labels=range(len(classes)),
        target_names=list(classes),
        output_dict=True,
        zero_division=0.0,
    )
    return {
        "pictures": len(labels),
        "accuracy": hits / len(labels),
        "accuracy_interval": wilson(hits, len(labels)),
        "macro_f1": macro_f1(predicted, labels, len(classes)),
        "macro_f1_interval": bootstrap(
            lambda rows: macro_f1(predicted[rows], labels[rows], len(classes)), len(labels), seed
        ),
        "classes": report,
        "confusion": _matrix(predicted, labels, len(classes)),
    }


def macro_f1(predicted: ClassIndices, labels: ClassIndices, classes: int) -> float:
    """The mean of F1 = 2·hits / (predicted + true) over the classes that occur in either."""
    # equal to scikit-learn's and a hundred times as fast, for a thousand bootstrap samples
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    # a small class is absent from some samples: it must not count as a class that all fail
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def class_intervals(
    predicted: ClassIndices, labels: ClassIndices, classes: Sequence[str], seed: int
) -> dict[str, dict[str, list[float]]]:
    """The intervals of precision and recall of each class, Wilson's, and of F1, a bootstrap's."""
    count = len(classes)
    hits = np.bincount(labels[predicted == labels], minlength=count).tolist()
    answers, truth = (np.bincount(each, minlength=count).tolist() for each in (predicted, labels))
    rng = np.random.default_rng(seed)
    drawn = [
        _f1(predicted[rows], labels[rows], count)
        for rows in (rng.integers(len(labels), size=len(labels)) for _ in range(RESAMPLES))
    ]
    ends = np.percentile(drawn, PERCENTILES, axis=0).T.tolist()
    return {
        name: {
            "precision": wilson(hits[index], answers[index]),
            "recall": wilson(hits[index], truth[index]),
            "f1-score": ends[index],
        }
        for index, name in enumerate(classes)
    }


def _f1(
    predicted: ClassIndices, labels: ClassIndices, classes: int
) -> Float64[np.ndarray, " classes"]:
    """The F1 of each class; 0 of a class that occurs in neither."""
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return np.asarray(2 * hits / np.maximum(both, 1))


def class_figures(figures: Figures) -> dict[str, Mapping[str, float]]:
    """Precision, recall, F1 and support by class, without the averages of scikit-learn's report."""
    return {name: entry for name, entry in figures["classes"].items() if name not in AVERAGES}


def confusions(
    predicted: ClassIndices, labels: ClassIndices, classes: Sequence[str], most: int
) -> Iterator[Confusion]:
    """At most `most` pairs of classes that are confused, the most images first."""
    wrong, support = predicted != labels, np.bincount(labels, minlength=len(classes))
    pairs, counts = np.unique(
        np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True
    )
    # of equal counts the smaller class first, which loses more of its images
    for place in np.lexsort((support[pairs[0]], -counts))[:most].tolist():
        truth, answer = pairs[:, place].tolist()
        yield Confusion(classes[truth], classes[answer], int(counts[place]), int(support[truth]))


def _matrix(predicted: ClassIndices, labels: ClassIndices, classes: int) -> list[list[int]]:
    if classes > MOST_CLASSES:
        return []
    return [row.tolist() for row in confusion_matrix(labels, predicted, labels=range(classes))]
