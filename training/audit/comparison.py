"""Two models side by side: the figures of two reports on the same data, with their intervals.

Accuracy, log loss and Brier score are compared image by image, for both models have the same test
images: an image that is hard for one is mostly hard for the other, which the two intervals beside
each other do not know. McNemar's exact test (Psychometrika 1947) looks at the images that one model
alone gets right; a bootstrap draws images with both answers. Of the other figures the intervals
stand beside each other: where they overlap, the models may still differ.

The report in a bundle is used if it is of that bundle's own predict.onnx, of the same images, seed
and minutes. Otherwise the bundle is measured again. Both columns therefore come from the same
measurement.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from scipy.stats import binomtest

from service.bundle.folder import PREDICT, REPORT, Bundle
from service.runtime.engine import Engine
from training.audit.measures.calibration import brier_scores, log_losses
from training.audit.report import SCHEMA_VERSION
from training.data import ClassIndices
from training.data.images import Images
from training.figures.intervals import bootstrap
from training.figures.outputs import outputs_of

Report = Mapping[str, Any]
Figure = tuple[str, float, list[float] | None]  # name, value, interval


def report_of(bundle: Bundle, fingerprint: str, seed: int, minutes: float) -> Report | None:
    """The report in `bundle`, if it compares with one on the data with `fingerprint`; else None."""
    if not bundle.has(REPORT):
        return None
    report: Report = json.loads(bundle.read(REPORT))
    own = report.get("files", {}).get(PREDICT) == bundle.manifest.files[PREDICT].sha256
    same = (
        report.get("schema_version") == SCHEMA_VERSION
        and report.get("seed") == seed
        # a report of an earlier release has no minutes
        and report.get("minutes", minutes) == minutes
    )
    return report if own and same and report["data"]["fingerprint"] == fingerprint else None


class Answers(NamedTuple):
    """Calibrated `probabilities` float64 (N, K) of the test images, and if each is `correct`."""

    probabilities: Float64[np.ndarray, "rows classes"]
    correct: Bool[np.ndarray, " rows"]


def answers_of(bundle: Bundle, test: Images) -> Answers:
    """The answers of `bundle` to the test images."""
    engine = Engine(bundle, "cpu")
    logits = outputs_of(engine, test).logits
    probabilities = engine.manifest.calibration.probabilities(logits)
    return Answers(probabilities, logits.argmax(1) == test.labels)


def paired(this: Answers, other: Answers, labels: ClassIndices, seed: int) -> dict[str, Any]:
    """The differences of two models on the same images; `seed` draws the bootstrap samples."""
    ours = int((this.correct & ~other.correct).sum())
    theirs = int((other.correct & ~this.correct).sum())
    differences = {
        "accuracy": this.correct.astype(float) - other.correct,
        "log_loss": log_losses(this.probabilities, labels)
        - log_losses(other.probabilities, labels),
        "brier": brier_scores(this.probabilities, labels)
        - brier_scores(other.probabilities, labels),
    }
    return {
        "pictures": len(labels),
        "this_only": ours,
        "other_only": theirs,
        "p_value": float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0,
        "differences": {
            name: _side(float(values.mean()), _drawn(values, seed))
            for name, values in differences.items()
        },
    }


def _drawn(values: Float64[np.ndarray, " rows"], seed: int) -> list[float]:
    return bootstrap(lambda rows: float(values[rows].mean()), len(values), seed)


def comparison(
    report: Report, other: Report, bundle: Bundle, pairs: Mapping[str, Any]
) -> dict[str, Any]:
    """The section of `report` that compares it with `other`, the report of `bundle`.

    It holds the figures of both reports, the differences image by image, and the findings of the
    other.
    """
    theirs = {name: (value, interval) for name, value, interval in figures(other)}
    return {
        "with": {
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            "sha256": other["files"][PREDICT],
        },
        "figures": [
            {"figure": name, "this": _side(value, interval), "other": _side(*theirs[name])}
            for name, value, interval in figures(report)
            if name in theirs
        ],
        "paired": dict(pairs),
        "findings": list(other["findings"]),
    }


def sentences(section: Mapping[str, Any]) -> str:
    """The differences image by image, in words."""
    pairs, other = section["paired"], section["with"]["name"]
    listed = ", ".join(
        f"{_words(name)} {side['value']:+.4f} ({side['interval'][0]:+.4f} to "
        f"{side['interval'][1]:+.4f})"
        for name, side in pairs["differences"].items()
    )
    return (
        f"Image by image, this model minus {other} on the same {pairs['pictures']:,} test images: "
        f"{listed}. It alone is right on {pairs['this_only']:,}, the other alone on "
        f"{pairs['other_only']:,} (McNemar's exact test: p = {pairs['p_value']:.2g}). The figures "
        "below are not paired: where intervals overlap, the models may still differ."
    )


def table(section: Mapping[str, Any], name: str) -> str:
    """The figures of a comparison as Markdown; `name` is the model of the first column."""
    other = f"{section['with']['name']} {section['with']['version']}"
    rows = [
        f"| {row['figure']} | {_cell(row['this'])} | {_cell(row['other'])} "
        f"| {row['this']['value'] - row['other']['value']:+.4f} |"
        for row in section["figures"]
    ]
    return "\n".join(
        [f"| figure | {name} | {other} | difference |", "| --- | --- | --- | --- |", *rows]
    )


def _side(value: float, interval: list[float] | None) -> dict[str, Any]:
    return {"value": value} | ({} if interval is None else {"interval": interval})


def _cell(side: Mapping[str, Any]) -> str:
    interval = side.get("interval")
    return f"{side['value']:.4f}" + (f" ({interval[0]:.4f}–{interval[1]:.4f})" if interval else "")


def figures(report: Report) -> Iterator[Figure]:
    """The figures of a report that compare with those of another."""
    yield from _of_answers(report)
    yield from _of_robustness(report)
    yield from _of_bias(report["bias"])
    for method, values in report.get("explanations", {}).get("methods", {}).items():
        for name in ("deletion", "insertion", "class_cosine", "border_share"):
            yield f"{_words(method)}: {_words(name)}", values[name], values.get(f"{name}_interval")


def _of_answers(report: Report) -> Iterator[Figure]:
    test, calibration = report["test"], report["calibration"]
    yield "accuracy", test["accuracy"], test["accuracy_interval"]
    yield "macro F1", test["macro_f1"], test["macro_f1_interval"]
    yield "log loss, nats", calibration["log_loss"], calibration["log_loss_interval"]
    yield "Brier score", calibration["brier"], calibration["brier_interval"]
    yield "calibration error", calibration["ece"], calibration["ece_interval"]
    for coverage, kinds in report["prediction_sets"].items():
        for kind, values in kinds.items():
            for name in ("coverage", "worst_class", "mean_size"):
                of = f"sets of {coverage}, {_words(kind)}: {_words(name)}"
                yield of, values[name], values[f"{name}_interval"]
    for kind, values in report["familiarity"].get("strangers", {}).items():
        yield f"area under ROC, {kind}", values["auroc"], values["auroc_interval"]
    for name, values in report["familiarity"].get("left_out", {}).items():
        yield f"area under ROC, {name} left out", values["auroc"], values["auroc_interval"]


def _of_robustness(report: Report) -> Iterator[Figure]:
    section = report["corruptions"]
    yield "corrupted images: mean accuracy", section["mean"], section["mean_interval"]
    for kind, values in section["accuracy"].items():
        mean, interval = sum(values) / len(values), section["kind_intervals"][kind]
        yield f"corrupted by {_words(kind)}: mean accuracy", mean, interval
    for attack, by_radius in report.get("attacks", {}).get("accuracy", {}).items():
        for radius, value in by_radius.items():
            interval = report["attacks"].get("interval", {}).get(attack, {}).get(radius)
            yield f"{_words(attack)}, radius {radius}/255: accuracy", value, interval


def _of_bias(bias: Mapping[str, Any]) -> Iterator[Figure]:
    yield "gap between classes", bias["classes"]["gap"], bias["classes"]["gap_interval"]
    for entry in bias["slices"]:
        yield (
            f"{_words(entry['property'])} {entry['slice']}: accuracy",
            entry["accuracy"],
            entry["accuracy_interval"],
        )
    for edit, values in bias["edits"].items():
        interval = values["flip_rate_interval"]
        yield f"answers that change, {_words(edit)}", values["flip_rate"], interval
    yield "answers that follow colours", bias["colour"]["colour"], bias["colour"]["colour_interval"]


def _words(name: str) -> str:
    return name.replace("_", " ")
