"""Maps beside the truth: whether a map's strongest pixel lies in the patch that decides the class.

Of planted images (`training.data.patches`) the pixels that an explanation has to name are known.

    pointing    the pointing game: the strongest pixel of a map lies in the patch (Zhang et al.,
                "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507, here without
                its tolerance of 15 pixels). Of several strongest pixels, as segments have, the
                share that does.
    energy      the share of a map's positive values that lies in the patch (Wang et al.,
                "Score-CAM", arXiv 1910.01279)
    precision   the area under the curve of precision and recall of the pixels of the patch, as the
                average precision of their order by the map

A map without the network's help gets the patch's share of the image in all three. The maps are for
the class of the patch, float32 (H, W); images uint8 (N, H, W, 3); patches bool (H, W).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from sklearn.metrics import average_precision_score

from service.bundle.manifest import Manifest
from service.explain import Question, Target, ask, available
from service.explain.opponents import blob, edges
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from training.audit.measures.explanations import mean_interval
from training.data.images import in_threads
from training.data.patches import Planted
from training.figures.intervals import wilson_of

OPPONENTS: Mapping[str, Callable[[InputPixels], Float32[np.ndarray, "H W"]]] = {
    "blob": blob,
    "edges": edges,
}

MOST_SAMPLES = 256  # four for each segment: a thousand images take minutes then, and not hours

Map = Float32[np.ndarray, "H W"]
Patch = Bool[np.ndarray, "H W"]


class Scores(NamedTuple):
    """The three figures of one map, each in 0…1."""

    pointing: float
    energy: float
    precision: float


def scores(values: Map, patch: Patch) -> Scores:
    """The figures of a map whose right pixels are those of `patch`."""
    positive = np.maximum(values, 0, dtype=np.float64)
    total = float(positive.sum())
    return Scores(
        float(patch[values == values.max()].mean()),
        float(positive[patch].sum()) / total if total else 0.0,
        float(average_precision_score(patch.ravel(), values.ravel())),
    )


def questions(manifest: Manifest) -> Mapping[str, Question]:
    """A question for each method of a bundle, at each of its layers and by each segmentation.

    Parameters are the defaults, but for samples: MOST_SAMPLES at most, and not doubled.
    """
    found = {}
    for method in available(manifest):
        choices = {each.name: each.choices for each in method.parameters}
        name, values = next(
            (
                (name, choices[name])
                for name in ("layer", "segmentation")
                if len(choices.get(name, ())) > 1
            ),
            ("", ("",)),
        )
        for value in values:
            question = ask(manifest, method.name, None, {name: value} if name else {})
            given = question.parameters
            if "samples" in given:
                samples = min(given["samples"], MOST_SAMPLES)
                given = {**given, "samples": samples, "max_samples": samples}
            label = f"{method.name}, {value}" if name else method.name
            found[label] = replace(question, parameters=given)
    return found


def figures(
    engine: Engine,
    planted: Planted,
    asked: Mapping[str, Question],
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> Mapping[str, Any]:
    """The figures of each question and of the opponents, means over the images with intervals.

    `accuracy` is the network's; `patch_share` what a map of chance gets. Shares have Wilson's
    intervals, other means a bootstrap's by `seed`. `done` is called after each image.
    """
    alone = engine.on_one_core()

    def of_image(row: tuple[InputPixels, int, Patch]) -> Mapping[str, Scores]:
        image, label, patch = row
        found = {name: scores(opponent(image), patch) for name, opponent in OPPONENTS.items()}
        for name, question in asked.items():
            compute = question.method.compute
            result = compute(alone, image, Target(label), None, **question.parameters)
            found[name] = scores(result.map, patch)
        done()
        return found

    rows = zip(planted.pixels, planted.labels.tolist(), planted.patches, strict=True)
    by_image = list(in_threads(of_image, list(rows)))
    predicted = np.concatenate(
        [engine.predict(part).logits.argmax(1) for part in np.split(planted.pixels, len(by_image))]
    )
    return {
        "pictures": len(by_image),
        "accuracy": float((predicted == planted.labels).mean()),
        "patch_share": float(planted.patches.mean()),
        "maps": {
            name: _summary([each[name] for each in by_image], seed)
            | {"forward_passes": _passes(asked[name]) if name in asked else 0}
            for name in by_image[0]
        },
    }


def _passes(question: Question) -> int:
    """Those of the map alone."""
    return question.method.passes(question.parameters)


def _summary(rows: list[Scores], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in Scores._fields:
        values = np.array([getattr(each, name) for each in rows])
        mean = float(values.mean())
        found[name] = mean
        found[f"{name}_interval"] = (
            wilson_of(mean, len(values)) if name == "pointing" else mean_interval(values, seed)
        )
    return found
