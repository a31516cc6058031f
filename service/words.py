"""An answer in words: the classes, how sure they are, where the map is strong, how good it is.

Each function gives one sentence, for a terminal or a notebook. The page has sentences of its own in
its visitor's language.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float32

from service.bundle.manifest import Manifest
from service.explain import Attribution
from service.explain.faithfulness import NAMES, Side, Unit, unbeaten
from service.predictions import Class, Prediction, PredictionSet

HALF = 0.5
LISTED = 5  # classes of a prediction set
THIRDS = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
# Good up to the first, poor above the second; of an agreement, what it lacks to 1. The page has the
# same (service/web/quality.js), which a test compares.
LIMITS = {
    "completeness_gap": (0.05, 0.2),
    "agreement": (0.1, 0.5),
    "class_cosine": (0.5, 0.9),
}
# Of the way from the cosine of unrelated maps to 1, where two maps are nearly the same.
REST = 0.2


def classes(prediction: Prediction) -> str:
    """The predicted class and the next ones: "tabby, 87 %; then tiger cat 8 %".

    Of a multi-label model all that are likely: "each for itself: sea 97 %, ship 64 %".
    """
    if prediction.likely:
        return f"each for itself: {', '.join(map(_share, prediction.likely))}"
    if prediction.likely is not None:
        return f"none of the classes is likely; the most probable is {_share(prediction.best)}"
    best, *others = prediction.top
    rest = ", ".join(_share(entry) for entry in others)
    return f"{best.label}, {_percent(best.probability)}" + (f"; then {rest}" if rest else "")


def trust(prediction: Prediction) -> str:
    """The prediction set and the familiarity, or the reason why there are none."""
    found, familiarity = prediction.prediction_set, prediction.familiarity
    if found is None:
        words = "no images were held out to calibrate it, so the probability is the network's own"
    else:
        more = f" and {len(found.indices) - LISTED} more" if len(found.indices) > LISTED else ""
        share, listed = _percent(float(found.coverage)), ", ".join(found.labels[:LISTED])
        words = f"prediction set: {listed or 'no class'}{more}; " + (
            f"each class, by itself, is in it for {share} of the images that have the class"
            if found.by_class
            else f"of all sets {share} hold the right class{_like_it(found)}"
        )
    if familiarity is not None and not familiarity.familiar:
        words = f"unlike the images that the network knows: do not rely on it; {words}"
    return words


def _like_it(found: PredictionSet) -> str:
    """The lower end of the share of held-out sets like this one, where they were counted."""
    counted = found.counted
    if counted is None:
        return ""
    # rounded down, so that "at least" stays true
    least = f"{math.floor(100 * counted.interval[0])} %"
    if counted.label is not None:
        return f", of those that are only {found.labels[0]} at least {least}"
    if counted.most is None:
        size = f"{counted.least} or more classes" if counted.least > 1 else "any size"
    elif counted.most == counted.least:
        size = "one class" if counted.least == 1 else f"{counted.least} classes"
    else:
        size = f"{counted.least} to {counted.most} classes"
    return f", of those of {size} at least {least}"


def place(attribution: Attribution, manifest: Manifest) -> str:
    """The method, and the part of the image that holds half of what speaks for the class."""
    title, label = attribution.question.title, manifest.name_of(attribution.target.index)
    positive = np.maximum(attribution.map, 0)
    if not positive.any():
        return f"{title} finds nothing that speaks for {label}"
    return (
        f"half of what speaks for {label} lies on {_percent(_area(positive))} of what the network "
        f"saw, mostly {_where(positive)} ({title})"
    )


def quality(attribution: Attribution) -> str:
    """What makes the map unfit for use, if anything does, and its measures in words."""
    judged = [judge(attribution) for name, judge in MEASURES.items() if name in attribution.quality]
    return "; ".join([*attribution.warnings, *judged]) or "no measure of this map"


def lines(prediction: Prediction, attribution: Attribution, manifest: Manifest) -> list[str]:
    """Four lines: classes, trust, place, quality."""
    return [
        classes(prediction),
        trust(prediction),
        place(attribution, manifest),
        quality(attribution),
    ]


def _area(positive: Float32[np.ndarray, "height width"]) -> float:
    """The smallest share of the pixels that holds half of the sum."""
    strongest = np.sort(positive, axis=None)[::-1].cumsum(dtype=np.float64)
    return float(np.searchsorted(strongest, HALF * strongest[-1]) + 1) / positive.size


def _where(positive: Float32[np.ndarray, "height width"]) -> str:
    """The ninth of the image that holds most."""
    parts = [np.array_split(rows, 3, axis=1) for rows in np.array_split(positive, 3, axis=0)]
    sums = np.array([[part.sum(dtype=np.float64) for part in row] for row in parts])
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    name = THIRDS[row][column]
    return "in the middle" if name == "middle" else f"at the {name}"


def _gap(attribution: Attribution) -> str:
    value, (good, fair) = attribution.quality["completeness_gap"], LIMITS["completeness_gap"]
    if value <= good:
        return f"it adds up (gap {_percent(value)})"
    much = "nearly" if value <= fair else "does not"
    return f"it {much} add{'s' if value <= fair else ''} up (gap {_percent(value)})"


def _logit_gap(attribution: Attribution) -> str:
    gap = _percent(attribution.quality["logit_gap"])
    return f"its cells add up to the logit without the bias (gap {gap})"


def _agreement(attribution: Attribution) -> str:
    value, (good, fair) = attribution.quality["agreement"], LIMITS["agreement"]
    lacks = 1 - value
    much = "nearly the same" if lacks <= good else "similar" if lacks <= fair else "another"
    return f"with other random samples the map would be {much} (agreement {value:.2f})"


def _cosine(attribution: Attribution) -> str:
    """Beside the cosine of unrelated maps of the method; without it, of maps with signs alone."""
    value = attribution.quality["class_cosine"]
    unrelated = attribution.quality.get("class_cosine_unrelated")
    good, fair = LIMITS["class_cosine"]
    beside = ""
    if unrelated is not None:
        good, fair = unrelated, 1 - REST * (1 - unrelated)
        beside = f"; of unrelated images up to {unrelated:.2f}"
        if value <= good:
            return (
                "the map of the next class is no more like it than maps of unrelated images "
                f"(cosine {value:.2f}, theirs up to {unrelated:.2f})"
            )
    elif attribution.question.method.is_rectified:
        return (
            "maps without a sign are alike whatever the class "
            f"(cosine {value:.2f} with that of the next class)"
        )
    much = "differs" if value <= good else "is similar" if value <= fair else "is nearly the same"
    return f"the map of the next class {much} (cosine {value:.2f}{beside})"


def _deletion(attribution: Attribution) -> str:
    return f"deleting its strongest parts first lowers {_race(attribution, 'deletion')}"


def _insertion(attribution: Attribution) -> str:
    return f"inserting its strongest parts first raises {_race(attribution, 'insertion')}"


def _race(attribution: Attribution, side: Side) -> str:
    """The map beside its opponents: faster than all of them, or no faster than the strongest."""
    measured, unit = attribution.quality, attribution.areas_unit or "probability"
    shown = {name: _area_of(measured[f"{side}_{name}"], unit) for name in NAMES}
    shown["random"] += f" ± {_area_of(measured[f'{side}_random_sd'], unit)}"
    own, score = _area_of(measured[side], unit), f"the {unit}"
    rivals = unbeaten(measured, side)
    if not rivals:
        listed = ", ".join(f"{NAMES[name]} ({area})" for name, area in shown.items())
        return f"{score} faster ({own}) than {listed}"
    return f"{score} no faster ({own}) than {NAMES[rivals[0]]} ({shown[rivals[0]]})"


def _area_of(value: float, unit: Unit) -> str:
    return _percent(value) if unit == "probability" else f"{value:.2f}"


MEASURES: Mapping[str, Callable[[Attribution], str]] = {
    "completeness_gap": _gap,
    "logit_gap": _logit_gap,
    "agreement": _agreement,
    "class_cosine": _cosine,
    "deletion": _deletion,
    "insertion": _insertion,
}


def _share(entry: Class) -> str:
    return f"{entry.label} {_percent(entry.probability)}"


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")  # noqa: PLR2004
