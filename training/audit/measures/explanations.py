"""Explanations: how faithful attribution maps are, how far they agree, and what they depend on.

Measured on few images, for the predicted class.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from scipy.stats import spearmanr

from service.bundle.folder import Bundle
from service.explain import Attribution, Target, ask, available, explain, faithfulness
from service.explain.faithfulness import OPPONENTS, SIDES, Trial
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from training.audit.measures import cascade
from training.data import Pixels
from training.data.images import in_threads
from training.figures.intervals import bootstrap

METHODS = ("integrated_gradients", "grad_cam", "occlusion")
EDGE = 8  # an eighth of a side is border

Maps = Float32[np.ndarray, "rows H W"]


class Explained(NamedTuple):
    """An attribution, and the deletion and insertion areas of its map beside its opponents'."""

    attribution: Attribution
    areas: Mapping[str, float]


def explanations(
    bundle: Bundle, engine: Engine, pixels: Pixels, cascaded: int, seed: int
) -> Mapping[str, Any]:
    """The figures of each of METHODS, and the agreement of each pair of them.

    `cascaded` of the images are explained by every method of the bundle, and again with shuffled
    weights.
    """
    names = _available(engine)
    by_image = _explained(engine, pixels, names, seed)
    by_method = {name: [each[name] for each in by_image] for name in names}
    maps = {
        name: np.stack([each.attribution.map for each in rows]) for name, rows in by_method.items()
    }
    agreement = {f"{a}, {b}": _agreement(maps[a], maps[b]) for a, b in combinations(names, 2)}
    return {
        "pictures": len(pixels),
        "methods": {name: _method_figures(rows, seed) for name, rows in by_method.items()},
        "agreement": agreement,
        **cascade.figures(bundle, engine, pixels[:cascaded], seed),
    }


def _available(engine: Engine) -> list[str]:
    known = {method.name for method in available(engine.manifest)}
    return [name for name in METHODS if name in known]


def _explained(
    engine: Engine, pixels: Pixels, names: Sequence[str], seed: int
) -> list[Mapping[str, Explained]]:
    """The maps of each image by method; its opponents are measured once for all methods."""
    questions = {name: ask(engine.manifest, name, None, {}) for name in names}
    # an image a core: two cores on one image would wait for each other
    alone = engine.on_one_core()

    def of_image(image: InputPixels, logits: np.ndarray) -> Mapping[str, Explained]:
        trial = Trial(alone, image, Target(int(logits.argmax())), "probability")
        opponents, found = trial.opponents(seed), {}
        for name, question in questions.items():
            attribution = explain(alone, image, question, logits)
            own = trial.areas(attribution.map)
            found[name] = Explained(attribution, faithfulness.measures(own, opponents))
        return found

    rows = list(zip(pixels, engine.predict(pixels).logits, strict=True))
    return list(in_threads(lambda row: of_image(*row), rows))


def _method_figures(rows: Sequence[Explained], seed: int) -> Mapping[str, Any]:
    areas, attributions = [each.areas for each in rows], [each.attribution for each in rows]
    figures: dict[str, Any] = {}
    for name in areas[0]:
        values = np.array([entry[name] for entry in areas])
        figures[name] = float(values.mean())
        figures[f"{name}_interval"] = mean_interval(values, seed)
    # a median: a completeness gap is large where the logit hardly differs from the baseline's
    for name in sorted({key for each in attributions for key in each.quality}):
        # a map that is nothing has no measures
        found = np.array([each.quality[name] for each in attributions if name in each.quality])
        figures[name] = float(np.median(found))
        figures[f"{name}_interval"] = _median_interval(found, seed)
    shares = np.array([border_share(each.map) for each in attributions])
    return figures | {
        **_better(areas),
        "border_share": float(shares.mean()),
        "border_share_interval": mean_interval(shares, seed),
    }


def _better(areas: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By area and opponent, the share of the images on which the map is better.

    Than random orders by their mean, and `_beyond_spread` as an answer is judged.
    """
    found = {}
    for side in SIDES:
        sign = -1 if side == "deletion" else 1
        for name in OPPONENTS:
            leads = [sign * (each[side] - each[f"{side}_{name}"]) for each in areas]
            found[f"{side}_better_than_{name}"] = float(np.mean(np.array(leads) > 0))
        beaten = ["random" not in faithfulness.unbeaten(each, side) for each in areas]
        found[f"{side}_beyond_spread"] = float(np.mean(beaten))
    return found


def mean_interval(values: Float64[np.ndarray, " images"], seed: int) -> list[float]:
    """The 95 % interval of the mean of `values`, a bootstrap's over the images."""
    return bootstrap(lambda drawn: float(values[drawn].mean()), len(values), seed)


def _median_interval(values: Float64[np.ndarray, " images"], seed: int) -> list[float]:
    return bootstrap(lambda drawn: float(np.median(values[drawn])), len(values), seed)


def border_share(values: Float32[np.ndarray, "H W"]) -> float:
    """The border's share of the map's absolute mass, divided by its share of the image's area.

    1 for a map that is spread evenly.
    """
    edge = max(1, min(values.shape) // EDGE)
    mass, inside = np.abs(values), np.s_[edge:-edge, edge:-edge]
    area = 1 - mass[inside].size / mass.size
    return float((1 - mass[inside].sum() / mass.sum()) / area) if mass.sum() > 0 else 1.0


def _agreement(first: Maps, second: Maps) -> float:
    """The mean rank correlation of two methods' maps of the same images."""
    # a constant map has no ranks
    pairs = zip(first, second, strict=True)
    return float(
        np.nanmean(
            [
                spearmanr(a.ravel(), b.ravel()).statistic
                for a, b in pairs
                if np.ptp(a) > 0 and np.ptp(b) > 0
            ]
        )
    )
