"""The report of a run: figures of the test images, and held-out images with doubtful labels.

It is the same for every recipe, as JSON and as text. `test` are the figures of
`training.figures.accuracy`, `confusions` the pairs of classes that are confused most, and
`label_issues` the suspects of `training.figures.labels` among validation and test images. The
network has learnt from the training images, so they are not searched. Probabilities are the
softmax of the logits, before any calibration.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from training.data import ClassIndices
from training.figures.accuracy import accuracy, class_figures, confusions
from training.figures.guessing import guessing
from training.figures.labels import label_issues

SHOWN_CONFUSIONS, SHOWN_ISSUES = 10, 10  # in the text
SHOWN_CLASSES = 40
CONFUSIONS = 100  # in the JSON
CELL, WIDEST = 16, 1024  # pixels of the confusion image: a cell of it, and all of it

Report = Mapping[str, Any]


class Answers(NamedTuple):
    """A network's answers to held-out images that have `labels` and `names`."""

    logits: Float32[Tensor, "rows classes"]
    labels: ClassIndices
    names: np.ndarray


def report_of(held_out: Mapping[str, Answers], classes: Sequence[str], seed: int) -> Report:
    """The report on the answers to each held-out split; `test` must be one of them."""
    test = held_out["test"]
    predicted = test.logits.argmax(1).numpy()
    return {
        "test": accuracy(predicted, test.labels, classes, seed),
        "confusions": [
            pair._asdict() for pair in confusions(predicted, test.labels, classes, CONFUSIONS)
        ],
        "label_issues": _label_issues(held_out, classes),
    }


def text_of(report: Report) -> str:
    """The report for a reader, several lines."""
    test, remark = report["test"], guessing(report["test"])
    parts = [
        _averages(test),
        _table(test),
        _section("Largest confusions", _confusion_lines(report)),
        # the doubts of a network that guesses are worth nothing
        f"Beware: the network is {remark}."
        if remark
        else _section("Labels to look at (validation and test images)", _issue_lines(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def confusion_image(report: Report) -> UInt8[Tensor, "1 1 height width"] | None:
    """The confusion matrix as a grey image; a row is a true class. None of too many classes."""
    matrix = np.array(report["test"]["confusion"], float)
    if not 0 < len(matrix) <= WIDEST:
        return None
    shares = 255 * matrix / matrix.sum(1, keepdims=True).clip(1)
    cell = min(CELL, WIDEST // len(matrix))
    return torch.from_numpy(np.kron(shares, np.ones((cell, cell))).astype(np.uint8))[None, None]


def _label_issues(held_out: Mapping[str, Answers], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The suspects of all splits, ranked together; each with its split."""
    # together, because the usual probabilities of a class are means over few images
    logits = torch.cat([answers.logits for answers in held_out.values()])
    labels, names = (
        np.concatenate([getattr(answers, name) for answers in held_out.values()])
        for name in ("labels", "names")
    )
    splits = np.repeat(list(held_out), [len(answers.labels) for answers in held_out.values()])
    rows = np.arange(len(labels)).astype(np.str_)
    found = label_issues(logits.softmax(1).numpy(), labels, rows, classes)
    places = [int(entry["name"]) for entry in found]
    return [
        {**entry, "name": str(names[row]), "split": str(splits[row])}
        for entry, row in zip(found, places, strict=True)
    ]


def _averages(test: Report) -> str:
    lines = (
        f"{name:<10} {test[key]:.4f}  (95 % interval {_ends(test[f'{key}_interval'])})"
        for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"))
    )
    return "\n".join(lines)


def _ends(interval: Sequence[float]) -> str:
    return "–".join(f"{end:.4f}" for end in interval)


def _table(test: Report) -> str:
    """The classes in their order; of many, those with the lowest F1."""
    classes = class_figures(test)
    shown, note = list(classes), ""
    if len(classes) > SHOWN_CLASSES:
        shown = sorted(classes, key=lambda name: classes[name]["f1-score"])[:SHOWN_CLASSES]
        note = f"\n… the lowest F1 of {len(classes):,} classes; report.json has all"
    rows = {name: classes[name] for name in shown} | {"macro avg": test["classes"]["macro avg"]}
    width = max(map(len, rows))
    head = f"{'class':<{width}}  {'precision':>9} {'recall':>9} {'F1':>9} {'images':>9}"
    return "\n".join([head, *(_row(name, entry, width) for name, entry in rows.items())]) + note


def _row(name: str, entry: Mapping[str, float], width: int) -> str:
    shares = " ".join(f"{entry[key]:>9.4f}" for key in ("precision", "recall", "f1-score"))
    return f"{name:<{width}}  {shares} {entry['support']:>9,.0f}"


def _section(title: str, lines: Iterator[str]) -> str:
    listed = [f"  {line}" for line in lines]
    return "\n".join([f"{title}:", *listed]) if listed else ""


def _confusion_lines(report: Report) -> Iterator[str]:
    for pair in report["confusions"][:SHOWN_CONFUSIONS]:
        yield (
            f"{pair['images']:,} of {pair['support']:,} images of {pair['truth']} "
            f"are taken for {pair['answer']}"
        )


def _issue_lines(report: Report) -> Iterator[str]:
    for entry in report["label_issues"][:SHOWN_ISSUES]:
        yield (
            f"{entry['name']} ({entry['split']}): labelled {entry['label']} "
            f"({entry['label_probability']:.3f}), looks like {entry['likely']} "
            f"({entry['likely_probability']:.3f})"
        )
    more = len(report["label_issues"]) - SHOWN_ISSUES
    if more > 0:
        yield f"… and {more:,} more in report.json"
