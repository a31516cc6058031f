"""The card's part on reliability: probabilities, prediction sets, familiarity."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.bundle.manifest import Manifest
from training.audit.markdown import figure, paragraph, percentage, table
from training.reliability.conformal import CONFIDENCE
from training.reliability.fitting import held_out_sentence

SHOWN = 20  # classes

Report = Mapping[str, Any]


def reliability(manifest: Manifest, report: Report) -> str:
    """The section; figures that an older report lacks are left out."""
    lines = ["## Reliability\n", *_probabilities(manifest, report["calibration"])]
    if report["prediction_sets"]:
        lines += _sets(manifest, report["prediction_sets"])
    if report["familiarity"]:
        lines += _familiarity(report["familiarity"])
    return "\n".join(lines)


def _probabilities(manifest: Manifest, section: Mapping[str, Any]) -> Iterator[str]:
    scores = (("log_loss", "log loss, nats", 4), ("brier", "Brier score, 0 to 2", 4))
    rows = [
        (
            title,
            f"{section[f'{name}_before']:.{digits}f}",
            figure(section[name], section.get(f"{name}_interval"), digits),
        )
        for name, title, digits in scores
        if name in section
    ]
    error = (
        "calibration error, 15 bins",
        f"{section['ece_before']:.2%}",
        percentage(section["ece"], section.get("ece_interval"), 2),
    )
    yield paragraph(f"Probabilities are {calibration(manifest)}. {held_out_sentence(manifest)}")
    yield from table(("of the probabilities", "before calibration", "as served"), [*rows, error])
    yield ""
    if "ece_perfect" in section:
        perfect = section["ece_perfect"]
        yield paragraph(
            "The bins hold equally many images, and no number of them is right: log loss and Brier "
            "score need none. With these probabilities a perfectly calibrated model would show an "
            f"error of {perfect['mean']:.2%} on average, and above {perfect['high']:.2%} one time "
            "in twenty."
        )
    if "by_answer" in section:
        answers = section["by_answer"]
        shown = answers
        if len(answers) > SHOWN:
            shown = sorted(answers, key=lambda one: -abs(one["confidence"] - one["accuracy"]))
        yield from table(
            ("answers", "images", "mean probability", "right"),
            [
                (
                    entry["label"],
                    f"{entry['pictures']:,}",
                    f"{entry['confidence']:.3f}",
                    figure(entry["accuracy"], entry["accuracy_interval"]),
                )
                for entry in shown[:SHOWN]
            ],
        )
        yield ""


def calibration(manifest: Manifest) -> str:
    """The formula of the probabilities, in words."""
    temperature, factors = f"{manifest.temperature:.3f}", manifest.class_temperatures
    if not manifest.entropy_power and not factors:
        return f"softmax(logits / {temperature})"
    words = []
    if manifest.entropy_power:
        temperature += f" · H^{manifest.entropy_power:.3f}"
        words.append("H the entropy of softmax(logits) as a share of its maximum")
    if factors:
        temperature += " · F"
        words.append(
            f"F the mean over classes of a factor for each ({min(factors):.2f} to "
            f"{max(factors):.2f}), geometric and weighted by softmax(logits)"
        )
    return f"softmax(logits / T), T = {temperature}, {', '.join(words)}"


def _sets(manifest: Manifest, section: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            f"{coverage}, {kind.replace('_', ' ')}",
            figure(figures["coverage"], figures.get("coverage_interval")),
            figure(figures["worst_class"], figures.get("worst_class_interval")),
            ", ".join(figures.get("short", ())) or "none",
            figure(figures["mean_size"], figures.get("mean_size_interval"), 2),
        )
        for coverage, kinds in section.items()
        for kind, figures in kinds.items()
    ]
    head = ("prediction sets of", "coverage", "worst class", "classes below", "mean size")
    yield from table(head, rows)
    yield ""
    yield paragraph(
        "The coverage is promised for images like the held-out ones, and for no others. Marginal "
        "sets promise it over all images together. Sets by class promise it for each class by "
        f"itself, with a confidence of {CONFIDENCE}, and so not for all {len(manifest.labels):,} "
        "at once: about one class in ten falls a little short. The classes below are those that "
        "fall short beyond chance (5%, corrected for the number of classes). The worst class is "
        "picked after the fact: its interval is that of a class that was not."
    )
    sizes = [
        (
            f"{coverage}, {kind.replace('_', ' ')}",
            _sizes(entry),
            f"{entry['sets']:,}",
            figure(entry["share"], entry["interval"]),
        )
        for coverage, kinds in section.items()
        for kind, figures in kinds.items()
        for entry in figures.get("by_size", ())
    ]
    if not sizes:
        return
    yield from table(("sets of", "classes in the set", "sets", "hold the right one"), sizes)
    yield ""
    yield paragraph(
        "Neither promise is about sets of one size, of which the share may be above it or below."
    )


def _sizes(entry: Mapping[str, Any]) -> str:
    least, most = entry["least"], entry.get("most")
    if most is None:
        return f"{least} or more"
    return f"{least}" if least == most else f"{least} to {most}"


def _familiarity(section: Mapping[str, Any]) -> Iterator[str]:
    strangers = section["strangers"]
    rows = [
        (
            kind,
            {True: "yes", False: "**no**"}.get(entry.get("tuned"), "–"),
            *_detected(entry),
        )
        for kind, entry in strangers.items()
    ]
    head = (
        "images of another kind",
        "tuned with it",
        "images",
        "area under ROC",
        "called unfamiliar",
    )
    yield from table(head, rows)
    yield ""
    yield paragraph(
        f"{percentage(section['test_familiar'], section.get('test_familiar_interval'), 1)} of the "
        "test images are familiar. The weight of textures in the score was chosen with images of "
        "the kinds marked so, which flatters it on these."
    )
    if "left_out" not in section:
        return
    by_class = sorted(section["left_out"].items(), key=lambda item: item[1]["auroc"])
    mean = sum(entry["auroc"] for _, entry in by_class) / len(by_class)
    rate = sum(entry["rate"] for _, entry in by_class) / len(by_class)
    yield from table(
        ("class left out", "images", "area under ROC", "called unfamiliar"),
        [(name, *_detected(entry)) for name, entry in by_class[:SHOWN]],
    )
    yield ""
    yield paragraph(
        "Each class in turn is left out of the reference images, and its test images are judged "
        f"beside those of the other classes. On average the area is {mean:.3f}, and "
        f"{1 - rate:.0%} pass as familiar. The network learnt its features with the class, though: "
        "of near strangers that it never saw, expect more to pass."
    )


def _detected(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        f"{entry['pictures']:,}" if "pictures" in entry else "–",
        figure(entry["auroc"], entry.get("auroc_interval")),
        percentage(entry["rate"], entry.get("rate_interval")),
    )
