"""What the figures come to: sentences about what someone should look at before the model is used."""

from collections.abc import Iterator, Mapping
from typing import Any

BORDER_FLIPS = 0.35
GAP = 0.2
P_VALUE = 0.05
EXCESS = 0.05
ROUGH_ECE = 0.03
REMEDY = "Look whether colour goes with class in the training data"


def findings(report: Mapping[str, Any]) -> list[str]:
    """The sentences, worst first within their kind."""
    bias = report["bias"]
    return [
        *_colour(bias["colour"]),
        *_background(bias["edits"]),
        *_slices(bias["slices"]),
        *_rest(report),
    ]


def _colour(colour: Mapping[str, Any]) -> Iterator[str]:
    """Of all answers, or else of those that colour decides."""
    by_answer = sorted(colour["by_answer"].items(), key=lambda item: -item[1]["colour"])
    decided = [(name, found) for name, found in by_answer if found["p_value"] < P_VALUE]
    if colour["p_value"] < P_VALUE:
        most = (
            f"; most of all of {decided[0][0]} ({decided[0][1]['colour']:.0%})" if decided else ""
        )
        yield f"colour decides: {_won(colour)}{most}. {REMEDY}"
        return
    for name, found in decided:
        yield f"colour decides for {name}: {_won(found)}. {REMEDY}"


def _won(found: Mapping[str, Any]) -> str:
    low, high = found["colour_interval"]
    return (
        f"of {found['pairs']:,} images in the colours of one with another answer {found['colour']:.0%} ({low:.0%} to {high:.0%}) get that "
        f"answer, {found['thing']:.0%} keep their own (p = {found['p_value']:.2g})"
    )


def _background(edits: Mapping[str, Any]) -> Iterator[str]:
    rate = edits["border_covered"]["flip_rate_of_right"]
    if rate > BORDER_FLIPS:
        yield (
            f"background: {rate:.0%} of right answers change when the border is covered (limit {BORDER_FLIPS:.0%}); "
            f"most of all for {edits['border_covered']['most_hit']}. The model goes by what is around things"
        )


def _slices(slices: list[Mapping[str, Any]]) -> Iterator[str]:
    for entry in sorted(slices, key=lambda entry: entry["excess"]):
        if entry["p_value"] < P_VALUE and entry["excess"] < -EXCESS:
            yield (
                f"{entry['property']} {entry['slice']}: accuracy {entry['accuracy']:.3f} on {entry['pictures']:,} images, "
                f"{-100 * entry['excess']:.1f} points below what their classes let expect (p = {entry['p_value']:.3f})"
            )


def _rest(report: Mapping[str, Any]) -> Iterator[str]:
    gap = report["bias"]["classes"]["gap"]
    if gap > GAP:
        accuracy = report["bias"]["classes"]["accuracy"]
        yield f"classes: {100 * gap:.1f} points between the best and the worst, {min(accuracy, key=lambda name: accuracy[name])}"
    if report["calibration"]["ece"] > ROUGH_ECE:
        yield f"calibration: the expected calibration error is {report['calibration']['ece']:.1%} (limit {ROUGH_ECE:.0%})"
