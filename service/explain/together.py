"""The Grad-CAMs of a batch that was just predicted, with their quality.

Behind a linear head a prediction has all that its map needs (`service.runtime.head`), and the many
small steps of numpy to an answer take longer than its sums: five to ten times as long as in a loop,
since the network has taken the caches. Here each step is taken once for all images. The answers are
those of `service.explain.attribution.explain`.
"""

from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.manifest import Unrelated
from service.explain import quality, render
from service.explain.attribution import GRAD_CAM, Attribution
from service.explain.cells import cell_of
from service.explain.maps import cam, scaling
from service.explain.maps.mass import masses_of
from service.explain.maps.target import Target
from service.explain.question import Question
from service.image.resize import sides
from service.runtime.engine import Engine
from service.runtime.graphs import QUICK, Logits
from service.runtime.head import Activations

Pairs = Float32[np.ndarray, "rows 2 height width"]  # cells of a class and of the runner-up


def fits(engine: Engine, question: Question) -> bool:
    """True if `explain_together` answers `question`: Grad-CAM at the last layer behind a linear
    head, of one class out of classes that exclude each other, with the basic measures.
    """
    target = question.target
    return (
        engine.bias is not None
        and not engine.manifest.is_multi_label
        and question.method.name == GRAD_CAM
        and question.graph == folder.CAM
        and question.quality == "basic"
        and (target is None or target.against is None)
    )


def explain_together(
    engine: Engine,
    activations: Activations,
    logits: Logits,
    questions: Sequence[Question],
    *,
    masses: bool = False,
) -> list[Attribution]:
    """The answer to each of `questions`, which `fits`, about the image of its row; with the
    `masses` of all maps, which are otherwise computed when they are asked for.
    """
    method, manifest = questions[0].method, engine.manifest
    predicted, shape = logits.argmax(1).tolist(), sides(manifest.input.size)
    targets = [
        question.target or Target(index)
        for question, index in zip(questions, predicted, strict=True)
    ]
    pairs = engine.cams(activations, _with_runners_up(logits, targets))
    cells, maps = pairs[:, 0], cam.scaled(pairs[:, 0], shape)
    figures = _figures(engine, logits, targets, pairs, maps)
    known = masses_of(cells, [each.spread for each in figures]) if masses else []
    is_small = cell_of(shape, signed=method.sign == "signed") == 1
    strongest = render.limits(maps, method.scale) if is_small else []
    unrelated, origin = manifest.unrelated.get(method.name), engine.origin(QUICK)
    return [
        Attribution(
            questions[row],
            targets[row],
            maps[row],
            each.measures(unrelated),
            spread=each.spread,
            cells=cells[row],
            origin=origin,
        ).with_known(
            largest=each.weight,
            **({"mass": known[row]} if masses else {}),
            **({"strongest": strongest[row]} if is_small else {}),
        )
        for row, each in enumerate(figures)
    ]


def _with_runners_up(logits: Logits, targets: Sequence[Target]) -> list[tuple[int, int]]:
    """The class of each target, and the most probable other one."""
    others = logits.copy()
    for row, target in enumerate(targets):
        others[row, target.index] = -np.inf
    return list(zip([each.index for each in targets], others.argmax(1).tolist(), strict=True))


def _figures(
    engine: Engine, logits: Logits, targets: Sequence[Target], pairs: Pairs, maps: cam.Maps
) -> "list[_Figures]":
    """The figures of each of the `maps` of the `targets`, and of its runner-up's."""
    bias = engine.bias
    assert bias is not None
    exact = pairs.astype(np.float64)
    scores = [
        float(logits[row, each.index]) - float(bias[each.index]) for row, each in enumerate(targets)
    ]
    columns = (
        np.abs(maps).max((1, 2)).tolist(),
        np.abs(pairs[:, 1]).max((1, 2)).tolist(),
        quality.spreads(logits, sigmoid=False),
        exact[:, 0].sum((1, 2)).tolist(),
        scores,
        scaling.cosines(exact, maps.shape[1:]),
    )
    return list(starmap(_Figures, zip(*columns, strict=True)))


class _Figures(NamedTuple):
    """Of one map: its weight and that of the runner-up's, the spread of the logits, what the cells
    sum to and should, and the cosine of both maps.
    """

    weight: float
    other_weight: float
    spread: float
    total: float
    score: float
    likeness: float

    def measures(self, unrelated: Unrelated | None) -> dict[str, float]:
        """The quality of the map; of one that is nothing there is none."""
        if quality.is_nothing(self.weight, self.spread):
            return {}
        found = {"logit_gap": quality.completeness_gap(self.total, self.score)}
        if not quality.is_nothing(self.other_weight, self.spread):
            found["class_cosine"] = self.likeness
            if unrelated is not None:
                found["class_cosine_unrelated"] = unrelated.high
        return found
