"""CARD.md in Hugging Face's format: metadata for machines, then text for users of the model.

Every figure is from the report. The report names the digest of the graph that it was measured on,
so a report of another bundle makes no card.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from service.bundle.folder import PREDICT
from service.bundle.manifest import Manifest
from service.explain.faithfulness import OPPONENTS, SIDES
from service.image.resize import described
from training.audit.comparison import sentences
from training.audit.comparison import table as comparison_table
from training.audit.findings import P_VALUE
from training.audit.markdown import figure, interval, paragraph, percentage, percentage_of, table
from training.audit.reliability_card import reliability
from training.figures.accuracy import class_figures
from training.figures.intervals import wilson_of

Report = Mapping[str, Any]
SHOWN = 20  # labels
CLASS_FIGURES = ("precision", "recall", "f1-score")
MEASURED = {  # images of each measure
    "familiarity": "of each other kind",
    "attacks": "attacked",
    "corruptions": "corrupted",
    "explanations": "explained",
    "cascade": "explained with shuffled weights",
    "edits": "edited, recoloured or without a part",
}

OPPONENT_COLUMNS = ("random orders", "centred blob", "edges")
RACES = (
    "Mean probability while the strongest blocks go first (deletion: lower is better) or come "
    "first (insertion: higher is better). The blob and the edges of the image know nothing of the "
    "network: a map that does not beat them on most images shows little of it. The last column "
    "has the shares of the images on which the map is better than random orders, blob and edges."
)
ATTACKS = (
    "Attacked images are 8-bit images. The worst of attacks leaves those that outlast all of "
    "{starts} starts of APGD (arXiv 2003.01690), at this radius and at smaller ones. It is an "
    "upper bound: a stronger attack leaves no more."
)
DEPENDENCE = (
    "Cosines of a map with that of the next class (median), with those of other images for their "
    "next class (median, and the 95th percentile), and with those of the network after a share of "
    "its weights was shuffled, the last ones first (mean). Near 1, the map hardly depends on what "
    "was changed."
)


class CardError(Exception):
    """The report is of another bundle."""


def card(manifest: Manifest, report: Report) -> str:
    """The card of the bundle that has `manifest`, from its `report`.

    Raises:
        CardError: the report was measured on another predict.onnx.
    """
    measured, present = report["files"][PREDICT], manifest.files[PREDICT].sha256
    if measured != present:
        raise CardError(
            f"the report is of a {PREDICT} with sha256 {measured[:12]}…, the bundle's has "
            f"{present[:12]}…: audit this bundle itself"
        )
    return "\n".join(
        [
            _metadata(manifest, report),
            _introduction(manifest, report),
            _accuracy(report),
            reliability(manifest, report),
            _robustness(report),
            _bias(report),
            _explanations(report),
            *_comparison(manifest, report),
            _reproduction(manifest, report),
        ]
    )


def _metadata(manifest: Manifest, report: Report) -> str:
    """The YAML block that model hubs read."""
    metrics = [
        {"type": "accuracy", "value": round(report["test"]["accuracy"], 4)},
        {"type": "f1", "name": "macro F1", "value": round(report["test"]["macro_f1"], 4)},
    ]
    data = report["data"]["name"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data, "type": data, "split": "test"},
        "metrics": metrics,
    }
    index = [{"name": manifest.name, "results": [result]}]
    lines = [
        "library_name: onnx",
        "pipeline_tag: image-classification",
        "tags: [image-classification, explainability, candor]",
    ]
    # JSON is YAML, if it is indented below its key
    value = textwrap.indent(json.dumps(index, indent=2), "  ")
    return "\n".join(["---", *lines, "model-index:", value, "---", ""])


def _introduction(manifest: Manifest, report: Report) -> str:
    recipe = manifest.provenance.get("recipe", {})
    trained = "{network}, trained for {epochs} epochs, seed {seed}"
    origin = trained.format(**recipe) if recipe else "A network from an ONNX file"
    weights = manifest.provenance.get("weights")
    if isinstance(weights, str):  # bundles of ONNX files had a text at first
        origin += f", from the weights {weights}"
    elif weights:
        origin += f", from the weights {weights['name']} (sha256 `{weights['sha256'][:12]}…`)"
    shown = ", ".join([*manifest.labels[:SHOWN], *(["…"] if len(manifest.labels) > SHOWN else [])])
    return "\n".join(
        [
            f"# {manifest.name}\n",
            paragraph(
                f"{origin}. It distinguishes {len(manifest.labels)} classes: {shown}. Input: "
                f"{described(manifest.input.size)} pixels, RGB."
            ),
            paragraph(
                "**Meant for** trying out and teaching explanations, calibration and audits of "
                "image classifiers. **Not meant for** decisions about people or safety, nor for "
                "images of anything but these classes: every image gets one of them. Familiarity, "
                "below, shows if an image is unlike the training images."
            ),
            paragraph(
                f"Data: {report['data']['name']}, fingerprint "
                f"`{report['data']['fingerprint'][:12]}…`. Its own licence decides what it may be "
                "used for, not this card."
            ),
        ]
    )


def _accuracy(report: Report) -> str:
    test = report["test"]
    intervals = test.get("class_intervals", {})
    rows = [
        (name, *(figure(entry[of], intervals.get(name, {}).get(of)) for of in CLASS_FIGURES))
        for name, entry in class_figures(test).items()
    ]
    shown = rows if len(rows) <= SHOWN else [*rows[:SHOWN], ("…", "", "", "")]
    return "\n".join(
        [
            "## Accuracy\n",
            paragraph(
                f"On {test['pictures']:,} test images, one view: "
                f"accuracy **{test['accuracy']:.4f}** ({interval(test['accuracy_interval'])}), "
                f"macro F1 **{test['macro_f1']:.4f}** ({interval(test['macro_f1_interval'])}). "
                "In brackets 95% intervals: Wilson's of shares of images, DeLong's of areas under "
                "ROC, and a bootstrap's of all else."
            ),
            *table(("class", "precision", "recall", "F1"), shown),
            "",
        ]
    )


def _robustness(report: Report) -> str:
    section = report["corruptions"]
    hardest = sorted(section["accuracy"], key=lambda name: section["accuracy"][name][-1])[:3]
    lines = [
        "## Robustness\n",
        paragraph(
            f"Corrupted images (15 kinds, 5 severities, {section['pictures']:,} images): mean "
            f"accuracy {figure(section['mean'], section.get('mean_interval'))}; "
            f"{_clean(section)} without corruption. "
            f"Hardest at the highest severity: {', '.join(hardest)}."
        ),
        *table(("corruption", "mean of the severities", "at the highest"), _corruptions(section)),
        "",
    ]
    if "attacks" in report:
        attacks = report["attacks"]
        ends = attacks.get("interval", {})  # not in an older report
        rows = [
            (
                name.replace("_", " "),
                *(
                    figure(value, ends.get(name, {}).get(radius))
                    for radius, value in by_radius.items()
                ),
            )
            for name, by_radius in attacks["accuracy"].items()
        ]
        lines += [
            paragraph(
                f"Attacks through the model's own gradient ({attacks['pictures']} images, accuracy "
                f"{attacks['clean']:.3f} before): accuracy by radius, in grey levels of 255."
            ),
            *table(("attack", *map(str, attacks["radius_levels"])), rows),
            *([f"\n{paragraph(ATTACKS.format(**attacks))}".rstrip()] if ends else []),
            "\nThis model has no protection against attackers that choose the images.\n",
        ]
    return "\n".join(lines)


def _clean(section: Mapping[str, Any]) -> str:
    return figure(section["clean"], wilson_of(section["clean"], section["pictures"]))


def _corruptions(section: Mapping[str, Any]) -> list[tuple[str, ...]]:
    intervals = section.get("kind_intervals", {})
    return [
        (
            kind.replace("_", " "),
            figure(sum(values) / len(values), intervals.get(kind)),
            figure(values[-1], wilson_of(values[-1], section["pictures"])),
        )
        for kind, values in section["accuracy"].items()
    ]


def _bias(report: Report) -> str:
    bias = report["bias"]
    uneven = [entry for entry in bias["slices"] if entry["p_value"] < P_VALUE]
    slices = "; ".join(
        f"{entry['property']} {entry['slice']}, accuracy "
        f"{figure(entry['accuracy'], entry['accuracy_interval'])} "
        f"({100 * entry['excess']:+.1f} points)"
        for entry in uneven
    )
    rows = [
        (
            name.replace("_", " "),
            percentage(figures["flip_rate"], figures.get("flip_rate_interval"), 1),
            figure(figures["accuracy"], figures.get("accuracy_interval")),
            figures["most_hit"] if figures["flip_rate"] else "–",
        )
        for name, figures in bias["edits"].items()
    ]
    return "\n".join(
        [
            "## Bias\n",
            paragraph(
                f"The best and the worst class differ by {_points(bias['classes'])} points "
                "of accuracy. Slices of similar images with another accuracy than their classes "
                f"(5%, corrected for the number of slices): {slices or 'none'}."
            ),
            *table(("edit", "answers that change", "accuracy after it", "most affected"), rows),
            "",
            paragraph(_conflicts(bias["colour"])),
            *(paragraph(f"**Finding:** {finding}.") for finding in report["findings"]),
        ]
    )


def _points(classes: Mapping[str, Any]) -> str:
    ends = classes.get("gap_interval")
    return figure(100 * classes["gap"], ends and [100 * end for end in ends], 1)


def _conflicts(colour: Mapping[str, Any]) -> str:
    low, high = colour["colour_interval"]
    return (
        f"Of {colour['pairs']:,} images in the colours of one with another answer, "
        f"{colour['colour']:.1%} ({low:.1%} to {high:.1%}) got that answer and "
        f"{percentage(colour['thing'], wilson_of(colour['thing'], colour['pairs']), 1)} kept "
        "their own."
    )


def _explanations(report: Report) -> str:
    if "explanations" not in report:
        return "## Explanations\n\nThis bundle has no gradients; perturbation methods explain it.\n"
    section = report["explanations"]
    lines = [f"## Explanations\n\n{section['pictures']} test images, for the predicted class.\n"]
    if "deletion_blob" in next(iter(section["methods"].values()), {}):
        lines += [*_races(section), paragraph(RACES)]
    else:
        lines += [*_random_orders(section), ""]
    if "unrelated" in section:
        lines += [*_dependence(section), "", paragraph(DEPENDENCE)]
    return "\n".join(
        [
            *lines,
            paragraph(
                "A map shows what the answer depends on, and not that the answer is right. With a "
                "class cosine near 1 the map of another class would look the same. "
                "docs/explanations.md explains each figure."
            ),
        ]
    )


def _races(section: Mapping[str, Any]) -> Iterator[str]:
    """For deletion and insertion, the areas of each method beside those of its opponents."""
    for side in SIDES:
        rows = []
        for name, figures in section["methods"].items():
            areas = [
                figure(figures[f"{side}{of}"], figures[f"{side}{of}_interval"])
                for of in ("", *(f"_{opponent}" for opponent in OPPONENTS))
            ]
            won = " / ".join(
                percentage_of(figures[f"{side}_better_than_{of}"], section["pictures"])
                for of in OPPONENTS
            )
            rows.append((name, *areas, won))
        yield from table((side, "map", *OPPONENT_COLUMNS, "better than each on"), rows)
        yield ""


def _random_orders(section: Mapping[str, Any]) -> list[str]:
    """The same of an older report, which has random orders alone."""
    rows = [
        (
            name,
            f"{figures['deletion']:.3f}",
            f"{figures['deletion_random']:.3f}",
            percentage_of(figures["deletion_better_than_random"], section["pictures"]),
            f"{figures['class_cosine']:.2f}",
        )
        for name, figures in section["methods"].items()
    ]
    return table(("method", "deletion", "random order", "better than random", "class cosine"), rows)


def _dependence(section: Mapping[str, Any]) -> list[str]:
    """For every method, the cosines of a map with others: class, images, shuffled weights."""
    intervals = section.get("cascade_intervals", {})
    others = section.get("unrelated_intervals", {})
    rows = [
        (
            name,
            _cosine(
                section["methods"].get(name, {}).get("class_cosine"),
                section["methods"].get(name, {}).get("class_cosine_interval"),
            ),
            *(
                _cosine(section["unrelated"].get(name, {}).get(of), others.get(name, {}).get(of))
                for of in ("median", "high")
            ),
            *(_cosine(value, intervals.get(name, {}).get(at)) for at, value in by_depth.items()),
        )
        for name, by_depth in section["cascade"].items()
    ]
    depths = next(iter(section["cascade"].values()))
    shuffled = (f"{float(depth):.0%} shuffled" for depth in depths)
    return table(("cosine", "class", "other images", "of 95% up to", *shuffled), rows)


def _cosine(value: float | None, ends: list[float] | None = None) -> str:
    return "–" if value is None else figure(value, ends, 2)


def _comparison(manifest: Manifest, report: Report) -> list[str]:
    """The other model, if the report compares with one."""
    if "comparison" not in report:
        return []
    section = report["comparison"]
    lines = [
        f"## Comparison with {section['with']['name']} {section['with']['version']}\n",
        paragraph(sentences(section)),
        comparison_table(section, manifest.name),
        "",
        *(paragraph(f"**Finding on the other:** {finding}.") for finding in section["findings"]),
    ]
    return ["\n".join(lines)]


def _reproduction(manifest: Manifest, report: Report) -> str:
    command = (
        f"python -m training audit BUNDLE --data {report['data']['name']} --seed {report['seed']}"
    )
    if "minutes" in report:
        command += f" --minutes {report['minutes']:g}"
    for name, entry in report["familiarity"].get("strangers", {}).items():
        if not entry.get("tuned", True):
            command += f" --strangers {name}"
    made = (
        f"`{command}` writes report.json and this card again. predict.onnx has sha256 "
        f"`{manifest.files[PREDICT].sha256}`."
    )
    return "## Reproduction\n\n" + "\n".join(map(paragraph, (made, *_images(report))))


def _images(report: Report) -> Iterator[str]:
    """The sentence on the images of each measure; an older report has no numbers for it."""
    if "images" not in report:
        return
    sections = {"cascade": "explanations", "edits": "bias"}
    listed = ", ".join(
        f"{count:,} {MEASURED[name]}"
        for name, count in report["images"].items()
        if report.get(sections.get(name, name))
    )
    yield (
        f"Images of each measure, chosen for {report['minutes']:g} minutes of two cores: {listed}. "
        f"The other measures have all {report['test']['pictures']:,} test images. In brackets are "
        "95% intervals; those of fewer images are wider."
    )
