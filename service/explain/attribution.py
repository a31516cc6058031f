"""The answer to a question: an attribution map with measures of its own quality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.errors import DeadlineExceeded
from service.explain import cells, faithfulness, quality
from service.explain.faithfulness import Trial, Unit, unit_of
from service.explain.maps.sampling import cosine
from service.explain.maps.segments import cells as count_of
from service.explain.maps.target import Target, ranking, rival_of
from service.explain.question import Question, quartered
from service.image.resize import InputPixels
from service.runtime.engine import Engine

NOISE_GAP = 0.5  # the completeness gap above which a map is mostly error
NOISE_AGREEMENT = 0.5  # below it, another seed gives a map that is mostly different
NOISE_R2 = 0.1  # of LIME's linear model, below which it describes nothing
NOISE_SENSITIVITY = 1.0  # a change as large as the map, under noise that nobody sees
MORE = "ask for more steps or samples, or give more time"


@dataclass(frozen=True)
class Attribution:
    """A `map` float32 (H, W) in the method's unit, positive where it speaks for `target`.

    `quality`: measures of the map by name. `question` is the one that was answered;
    `degraded_from` is the one that was sent, if its answer would have taken too long. `areas_unit`
    is that of deletion and insertion, where `quality` has them.
    """

    question: Question
    target: Target
    map: Float32[np.ndarray, "H W"]
    quality: Mapping[str, float]
    degraded_from: Question | None = None
    areas_unit: Unit | None = None

    @property
    def cell(self) -> int:
        """The side in pixels of the cells that the map is drawn by; 1: pixel by pixel."""
        method = self.question.method
        signed = method.sign == "signed"
        return cells.cell_of(self.map.shape, signed=signed) if method.of_pixels else 1

    @property
    def shown(self) -> Float32[np.ndarray, "cells_high cells_wide"]:
        """What an overlay shows of the map: the means of its cells."""
        return cells.means(self.map, self.cell)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what makes the map unfit for use, by its own measures."""
        faults = [
            judge(self.quality) for judge in (_gap, _disagreement, _surrogate, _order, _unstable)
        ]
        return tuple(fault for fault in (*faults, _coalitions(self.question)) if fault)


def _gap(quality: Mapping[str, float]) -> str:
    gap = quality.get("completeness_gap", 0.0)
    if gap <= NOISE_GAP:
        return ""
    return f"the map misses the change of the score by {gap:.0%}, so it is mostly error: {MORE}"


def _disagreement(quality: Mapping[str, float]) -> str:
    agreement = quality.get("agreement", 1.0)
    if agreement >= NOISE_AGREEMENT:
        return ""
    words = f"with another seed the map would be another (cosine {agreement:.2f})"
    return f"{words}, so it is mostly error: {MORE}"


def _surrogate(quality: Mapping[str, float]) -> str:
    r2 = quality.get("surrogate_r2", 1.0)
    if r2 >= NOISE_R2:
        return ""
    return f"the linear model describes {max(0.0, r2):.0%} of the network's answers: {MORE}"


def _order(quality: Mapping[str, float]) -> str:
    if "deletion" not in quality:
        return ""
    rivals = [faithfulness.unbeaten(quality, side) for side in faithfulness.SIDES]
    if not all(rivals):
        return ""
    by = " and ".join(
        f"{faithfulness.NAMES[found[0]]} by {side}"
        for side, found in zip(faithfulness.SIDES, rivals, strict=True)
    )
    return (
        f"an order of blocks that knows nothing of the network is as good as the map's ({by}): "
        "ask another method"
    )


def _unstable(quality: Mapping[str, float]) -> str:
    change = quality.get("sensitivity", 0.0)
    if change <= NOISE_SENSITIVITY:
        return ""
    return f"noise of 3 grey levels changes the map by {change:.0%}: {MORE}"


def _coalitions(question: Question) -> str:
    samples, segments = (question.parameters.get(name) for name in ("samples", "segments"))
    if samples is None or segments is None or samples >= count_of(segments):
        return ""
    return f"{samples} samples cannot tell {count_of(segments)} segments apart: {MORE}"


def explain(
    engine: Engine,
    pixels: InputPixels,
    question: Question,
    logits: Float32[np.ndarray, " classes"],
) -> Attribution:
    """Answers `question` about the network input `pixels` and its known `logits`.

    A question without a target is about the predicted class.
    """
    ranked = ranking(logits, engine.manifest)
    target = question.target or Target(int(ranked.argmax()))
    rival = rival_of(target, ranked)

    def compute(
        image: InputPixels,
        explained: Target,
        beside: Target | None = None,
        parameters: Mapping[str, Any] = question.parameters,
    ) -> tuple[np.ndarray, dict[str, float]]:
        result = question.method.compute(engine, image, explained, beside, **parameters)
        return result.map, result.quality

    values, measured = compute(pixels, target, rival)
    if rival and "class_cosine" not in measured:
        # The rival's map is only compared, never shown: a quarter of the steps is enough.
        fewer = {**question.parameters, **quartered(question.parameters)}
        try:
            other, _ = compute(pixels, rival, parameters=fewer)
        except DeadlineExceeded:
            if "steps" not in measured:  # of a map that took the time there was, and is complete
                raise
        else:
            measured["class_cosine"] = cosine(values, other)
    unrelated = engine.manifest.unrelated.get(question.method.name)
    if unrelated and "class_cosine" in measured:
        measured["class_cosine_unrelated"] = unrelated.high
    if question.quality == "basic":
        return Attribution(question, target, values, measured)
    trial = Trial(engine, pixels, target, unit_of(target, ranked))
    measured |= _in_full(trial, values, lambda noisy: compute(noisy, target)[0])
    return Attribution(question, target, values, measured, areas_unit=trial.unit)


def _in_full(
    trial: Trial,
    values: Float32[np.ndarray, "H W"],
    again: Callable[[InputPixels], Float32[np.ndarray, "H W"]],
) -> dict[str, float]:
    """The measures that cost passes of their own; `again` explains another image."""
    return {
        **faithfulness.measures(trial.areas(values), trial.opponents()),
        "sensitivity": quality.sensitivity(trial.pixels, values, again),
    }
