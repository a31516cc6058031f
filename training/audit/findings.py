"""Findings: sentences about the figures that a person should look at before using the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from training.figures.guessing import guessing

BORDER_FLIPS = 0.35
GAP = 0.2
P_VALUE = 0.05
EXCESS = 0.05
ROUGH_ECE = 0.03
REMEDY = "Check the training data for colours that go with classes"


def findings(report: Mapping[str, Any]) -> list[str]:
    """The findings of a report: guessing, colour, background, slices, classes, calibration."""
    bias = report["bias"]
    return [
        *_guessing(report["test"]),
        *_colour(bias["colour"]),
        *_background(bias["edits"]),
        *_slices(bias["slices"]),
        *_classes(bias["classes"]),
        *_calibration(report["calibration"]),
    ]


def _guessing(test: Mapping[str, Any]) -> Iterator[str]:
    remark = guessing(test)
    if remark is not None:
        yield f"guessing: the model is {remark}"


def _colour(colour: Mapping[str, Any]) -> Iterator[str]:
    """One finding for all answers; where there is none, one for each answer that colour decides."""
    by_answer = sorted(colour["by_answer"].items(), key=lambda item: -item[1]["colour"])
    decided = [(name, figures) for name, figures in by_answer if figures["p_value"] < P_VALUE]
    if colour["p_value"] < P_VALUE:
        most = (
            f"; most often for {decided[0][0]} ({decided[0][1]['colour']:.0%})" if decided else ""
        )
        yield f"colour decides: {_conflicts(colour)}{most}. {REMEDY}"
        return
    for name, figures in decided:
        yield f"colour decides for {name}: {_conflicts(figures)}. {REMEDY}"


def _conflicts(figures: Mapping[str, Any]) -> str:
    low, high = figures["colour_interval"]
    return (
        f"of {figures['pairs']:,} images in the colours of one with another answer, "
        f"{figures['colour']:.0%} ({low:.0%} to {high:.0%}) get that answer and "
        f"{figures['thing']:.0%} keep their own (p = {figures['p_value']:.2g})"
    )


def _background(edits: Mapping[str, Any]) -> Iterator[str]:
    figures = edits["border_covered"]
    rate = figures["flip_rate_of_right"]
    if rate > BORDER_FLIPS:
        yield (
            f"background: {rate:.0%} of correct answers change when the border is covered "
            f"(limit {BORDER_FLIPS:.0%}), most often for {figures['most_hit']}. "
            "The model relies on the background"
        )


def _slices(slices: list[Mapping[str, Any]]) -> Iterator[str]:
    """The worst slice first."""
    for entry in sorted(slices, key=lambda entry: entry["excess"]):
        if entry["p_value"] < P_VALUE and entry["excess"] < -EXCESS:
            yield (
                f"{entry['property']} {entry['slice']}: accuracy {entry['accuracy']:.3f} on "
                f"{entry['pictures']:,} images, {-100 * entry['excess']:.1f} points below that of "
                f"their classes (p = {entry['p_value']:.3f})"
            )


def _classes(classes: Mapping[str, Any]) -> Iterator[str]:
    gap, accuracy = classes["gap"], classes["accuracy"]
    if gap > GAP:
        worst = min(accuracy, key=lambda name: accuracy[name])
        yield f"classes: {100 * gap:.1f} points of accuracy between the best and the worst, {worst}"


def _calibration(calibration: Mapping[str, Any]) -> Iterator[str]:
    perfect = calibration["ece_perfect"]["high"]
    # of few images a perfectly calibrated model shows as much
    if calibration["ece"] > max(ROUGH_ECE, perfect):
        yield (
            f"calibration: the expected calibration error is {calibration['ece']:.1%} "
            f"(limit {ROUGH_ECE:.0%}, and {perfect:.1%} is chance)"
        )
