"""CARD.md in Hugging Face's format: metadata for machines, and below it what a person should know before using the model.

Every figure is from the report, which names the digest of the graph that it was measured on: a report of another bundle is refused.
"""

import json
from collections.abc import Mapping
from typing import Any

from service.bundle.folder import PREDICT
from service.bundle.manifest import Manifest
from training.audit.comparison import table
from training.audit.findings import P_VALUE

Report = Mapping[str, Any]
SHOWN = 20  # labels
NO_SLICE = "No slice by looks differs (5 %, corrected for all looked at).\n"


class CardError(Exception):
    """The report is of another bundle."""


def card(manifest: Manifest, report: Report) -> str:
    """The card of the bundle that has `manifest`, by its `report`.

    Raises:
        CardError: the report was made of another predict.onnx.
    """
    measured, present = report["files"][PREDICT], manifest.files[PREDICT].sha256
    if measured != present:
        raise CardError(
            f"the report is of a {PREDICT} with sha256 {measured[:12]}…, the bundle's has {present[:12]}…: audit this bundle itself"
        )
    parts = [
        _metadata(manifest, report),
        _introduction(manifest, report),
        _accuracy(report),
        _trust(manifest, report),
    ]
    return "\n".join(
        [
            *parts,
            _strength(report),
            _bias(report),
            _explanations(report),
            *_beside(manifest, report),
            _reproduce(manifest, report),
        ]
    )


def _metadata(manifest: Manifest, report: Report) -> str:
    """The YAML block that model hubs read; JSON values are YAML."""
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
    return "\n".join(["---", *lines, f"model-index: {json.dumps(index)}", "---", ""])


def _introduction(manifest: Manifest, report: Report) -> str:
    recipe = manifest.provenance.get("recipe", {})
    trained = "{network}, trained for {epochs} epochs, seed {seed}"
    made = trained.format(**recipe) if recipe else "A network that came as an ONNX file"
    shown = ", ".join([*manifest.labels[:SHOWN], *(["…"] if len(manifest.labels) > SHOWN else [])])
    return f"""# {manifest.name}

{made}. It tells {len(manifest.labels)} classes apart: {shown}.
Input: {manifest.input.size} × {manifest.input.size} pixels, RGB.

**Meant for** trying out and teaching explanations, calibration and audits of image classifiers. **Not meant for** decisions about people or
safety, nor for images of anything else than these classes: every image gets one of them. Familiarity, below, says when an image is unlike
those of the training.

Data: {report["data"]["name"]}, fingerprint `{report["data"]["fingerprint"][:12]}…`. What it may be used for is a question of its own licence,
which this card does not answer.
"""


def _accuracy(report: Report) -> str:
    test = report["test"]
    rows = [
        f"| {name} | {entry['precision']:.3f} | {entry['recall']:.3f} | {entry['f1-score']:.3f} |"
        for name, entry in test["classes"].items()
        if isinstance(entry, Mapping) and not name.endswith(" avg")
    ]
    says = (
        f"On {test['pictures']:,} test images, one view: accuracy **{test['accuracy']:.4f}** ({_interval(test['accuracy_interval'])}), "
        f"macro F1 **{test['macro_f1']:.4f}** ({_interval(test['macro_f1_interval'])}). Intervals hold 95 % of bootstrap "
        "samples of the images.\n"
    )
    head = "| class | precision | recall | F1 |\n| --- | --- | --- | --- |"
    return "\n".join(
        [
            "## How often it is right\n",
            says,
            head,
            *(rows if len(rows) <= SHOWN else [*rows[:SHOWN], "| … | | | |"]),
            "",
        ]
    )


def _trust(manifest: Manifest, report: Report) -> str:
    calibrated = report["calibration"]
    says = (
        f"Probabilities are {_calibration(manifest)}. Expected calibration error in 15 bins: {calibrated['ece']:.2%} "
        f"({calibrated['ece_before']:.2%} before calibration).\n"
    )
    told = ["## How far to trust an answer\n", says]
    if report["prediction_sets"]:
        told += [
            "| prediction sets of | cover | worst class | mean size |",
            "| --- | --- | --- | --- |",
        ]
        told += [
            f"| {coverage}, {kind.replace('_', ' ')} | {found['coverage']:.3f} | {found['worst_class']:.3f} | {found['mean_size']:.2f} |"
            for coverage, kinds in report["prediction_sets"].items()
            for kind, found in kinds.items()
        ]
        told.append("\nThe promise holds for images like the held-out ones, and for no others.\n")
    if report["familiarity"]:
        told += ["| strangers | area under ROC | called unfamiliar |", "| --- | --- | --- |"]
        told += [
            f"| {kind} | {found['auroc']:.3f} | {found['rate']:.0%} |"
            for kind, found in report["familiarity"]["strangers"].items()
        ]
        told.append(
            f"\nOf the test images {report['familiarity']['test_familiar']:.1%} are familiar.\n"
        )
    return "\n".join(told)


def _strength(report: Report) -> str:
    spoilt = report["corruptions"]
    hardest = sorted(spoilt["accuracy"], key=lambda name: spoilt["accuracy"][name][-1])[:3]
    says = (
        f"Spoilt images (15 kinds, 5 severities, {spoilt['pictures']:,} images): mean accuracy {spoilt['mean']:.3f}, "
        f"{spoilt['clean']:.3f} unspoilt. Hardest at the highest severity: {', '.join(hardest)}.\n"
    )
    told = ["## What breaks it\n", says]
    if "attacks" in report:
        attacks = report["attacks"]
        says = (
            f"Attacks through its own gradient ({attacks['pictures']} images, accuracy {attacks['clean']:.3f} before), by the radius in grey "
            "levels of 255:\n"
        )
        told += [
            says,
            f"| attack | {' | '.join(map(str, attacks['radius_levels']))} |",
            f"| --- |{' --- |' * len(attacks['radius_levels'])}",
            *(
                f"| {name} | {' | '.join(f'{value:.3f}' for value in left.values())} |"
                for name, left in attacks["accuracy"].items()
            ),
            "\nWhat an attacker can change at will is not protected by anything here.\n",
        ]
    return "\n".join(told)


def _bias(report: Report) -> str:
    bias = report["bias"]
    uneven = [entry for entry in bias["slices"] if entry["p_value"] < P_VALUE]
    slices = "; ".join(
        f"{entry['property']} {entry['slice']}: accuracy {entry['accuracy']:.3f}, "
        f"{100 * entry['excess']:+.1f} points against what its classes let expect"
        for entry in uneven
    )
    return "\n".join(
        [
            "## Where it is uneven\n",
            f"Between the best and the worst class lie {100 * bias['classes']['gap']:.1f} points of accuracy. "
            + (
                f"Slices that differ (5 %, corrected for all looked at): {slices}.\n"
                if uneven
                else NO_SLICE
            ),
            "| edit | answers that change | accuracy left | most hit |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name.replace('_', ' ')} | {found['flip_rate']:.1%} | {found['accuracy']:.3f} | {found['most_hit']} |"
                for name, found in bias["edits"].items()
            ),
            f"\n{_conflicts(bias['colour'])}",
            *(f"\n**Finding:** {finding}" for finding in report["findings"]),
            "",
        ]
    )


def _conflicts(colour: Mapping[str, Any]) -> str:
    return (
        f"Of {colour['pairs']:,} images in the colours of one with another answer, {colour['colour']:.1%} "
        f"({_interval(colour['colour_interval'])}) got that answer and {colour['thing']:.1%} kept their own."
    )


def _explanations(report: Report) -> str:
    if "explanations" not in report:
        return "## Explanations\n\nThis bundle has no gradients; methods that change the image explain it.\n"
    found = report["explanations"]
    rows = [
        f"| {name} | {entry['deletion']:.3f} | {entry['deletion_random']:.3f} | {entry['deletion_better_than_random']:.0%} "
        f"| {entry['class_cosine']:.2f} |"
        for name, entry in found["methods"].items()
    ]
    head = "| method | deletion | random | better | class cosine |\n| --- | --- | --- | --- | --- |"
    limits = (
        "A map says what the answer hangs on, not whether it is right. Class cosine near 1 means that the map would look the same for another "
        "class. docs/explanations.md says what each figure means and when it misleads.\n"
    )
    return "\n".join(
        [
            f"## Explanations\n\n{found['pictures']} test images, the predicted class.\n",
            head,
            *rows,
            "",
            limits,
        ]
    )


def _beside(manifest: Manifest, report: Report) -> list[str]:
    """The other model, if there was one to compare with."""
    if "comparison" not in report:
        return []
    section = report["comparison"]
    told = [
        f"## Beside {section['with']['name']} {section['with']['version']}\n",
        table(section, manifest.name),
    ]
    return [
        "\n".join(
            [
                *told,
                *(f"\n**Finding on the other:** {finding}" for finding in section["findings"]),
                "",
            ]
        )
    ]


def _reproduce(manifest: Manifest, report: Report) -> str:
    seed = report["seed"]
    return (
        f"## How to reproduce\n\n`python -m training audit BUNDLE --data {report['data']['name']} --seed {seed}` makes report.json and this "
        f"card again; predict.onnx has sha256 `{manifest.files[PREDICT].sha256}`.\n"
    )


def _calibration(manifest: Manifest) -> str:
    if not manifest.entropy_power:
        return f"softmax(logits / {manifest.temperature:.3f})"
    entropy = "the entropy of softmax(logits) as a share of the most there can be"
    return f"softmax(logits / T), T = {manifest.temperature:.3f} · H^{manifest.entropy_power:.3f}, H {entropy}"


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:.4f}–{ends[1]:.4f}"
