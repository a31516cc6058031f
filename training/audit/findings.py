"""What the figures come to: sentences about what someone should look at before the model is used."""

from collections.abc import Iterator, Mapping
from typing import Any

COLOUR_FLIPS = 0.35  # of right answers that change with the colours: networks that look at shapes stay well below
BORDER_FLIPS = 0.35
GAP = 0.2
P_VALUE = 0.05
EXCESS = 0.05
ROUGH_ECE = 0.03


def findings(report: Mapping[str, Any]) -> list[str]:
    """The sentences, worst first within their kind."""
    return [*_edits(report["bias"]["edits"]), *_slices(report["bias"]["slices"]), *_rest(report)]


def _edits(edits: Mapping[str, Any]) -> Iterator[str]:
    for name, what in (("hue", "exchanged"), ("grey", "taken away")):
        rate = edits[name]["flip_rate_of_right"]
        if rate > COLOUR_FLIPS:
            yield (
                f"colour: {rate:.0%} of right answers change when colours are {what} (limit {COLOUR_FLIPS:.0%}); most of all for "
                f"{edits[name]['most_hit']}. The model goes by colour: look whether colour goes with class in the training data"
            )
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
                f"{entry['property']} {entry['slice']}: accuracy {entry['accuracy']:.3f} on {entry['pictures']:,} pictures, "
                f"{-100 * entry['excess']:.1f} points below what their classes let expect (p = {entry['p_value']:.3f})"
            )


def _rest(report: Mapping[str, Any]) -> Iterator[str]:
    gap = report["bias"]["classes"]["gap"]
    if gap > GAP:
        accuracy = report["bias"]["classes"]["accuracy"]
        yield f"classes: {100 * gap:.1f} points between the best and the worst, {min(accuracy, key=lambda name: accuracy[name])}"
    if report["calibration"]["ece"] > ROUGH_ECE:
        yield f"calibration: the expected calibration error is {report['calibration']['ece']:.1%} (limit {ROUGH_ECE:.0%})"
