"""Two models side by side: the figures of two reports on the same data, with their intervals.

The report in a bundle is used if it is of that bundle's own predict.onnx, of the same images, seed
and minutes. Otherwise the bundle is measured again. Both columns therefore come from the same
measurement.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from service.bundle.folder import PREDICT, REPORT, Bundle
from training.audit.report import SCHEMA_VERSION

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


def comparison(report: Report, other: Report, bundle: Bundle) -> dict[str, Any]:
    """The section of `report` that compares it with `other`, the report of `bundle`.

    It holds the figures of both reports, and the findings of the other.
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
        "findings": list(other["findings"]),
    }


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
    yield "calibration error", calibration["ece"], None
    yield "log loss, nats", calibration["log_loss"], None
    for coverage, kinds in report["prediction_sets"].items():
        for kind, values in kinds.items():
            for name in ("coverage", "worst_class", "mean_size"):
                yield f"sets of {coverage}, {_words(kind)}: {_words(name)}", values[name], None
    for kind, values in report["familiarity"].get("strangers", {}).items():
        yield f"area under ROC, {kind}", values["auroc"], None


def _of_robustness(report: Report) -> Iterator[Figure]:
    section = report["corruptions"]
    yield "corrupted images: mean accuracy", section["mean"], section.get("mean_interval")
    for kind, values in report["corruptions"]["accuracy"].items():
        yield f"corrupted by {_words(kind)}: mean accuracy", sum(values) / len(values), None
    for attack, by_radius in report.get("attacks", {}).get("accuracy", {}).items():
        for radius, value in by_radius.items():
            interval = report["attacks"].get("interval", {}).get(attack, {}).get(radius)
            yield f"{_words(attack)}, radius {radius}/255: accuracy", value, interval


def _of_bias(bias: Mapping[str, Any]) -> Iterator[Figure]:
    yield "gap between classes", bias["classes"]["gap"], None
    for entry in bias["slices"]:
        yield (
            f"{_words(entry['property'])} {entry['slice']}: accuracy",
            entry["accuracy"],
            entry["accuracy_interval"],
        )
    for edit, values in bias["edits"].items():
        yield f"answers that change, {_words(edit)}", values["flip_rate"], None
    yield "answers that follow colours", bias["colour"]["colour"], bias["colour"]["colour_interval"]


def _words(name: str) -> str:
    return name.replace("_", " ")
