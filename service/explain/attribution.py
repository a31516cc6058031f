"""The answer to a question: an attribution map with measures of its own quality."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.errors import DeadlineExceeded
from service.explain import cells, quality
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
    `degraded_from` is the one that was sent, if its answer would have taken too long.
    """

    question: Question
    target: Target
    map: Float32[np.ndarray, "H W"]
    quality: Mapping[str, float]
    degraded_from: Question | None = None

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
    worse = (
        quality["deletion"] >= quality["deletion_random"]
        and quality["insertion"] <= quality["insertion_random"]
    )
    return "a random order of blocks is as good as that of the map: ask another method" * worse


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

    A question without a target is about the predicted class. If time is up once the map stands,
    measures are left out; without the full ones the answer's question asks for basic ones.
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
        # The map stands: without time for another it is answered as it is.
        with suppress(DeadlineExceeded):
            other, _ = compute(pixels, rival, parameters=fewer)
            measured["class_cosine"] = cosine(values, other)
    if question.quality == "full":
        try:
            found = quality.faithfulness(engine, pixels, values, target.index)
            found["sensitivity"] = quality.sensitivity(
                pixels, values, lambda noisy: compute(noisy, target)[0]
            )
        except DeadlineExceeded:
            question = replace(question, quality="basic")
        else:
            measured |= found
    return Attribution(question, target, values, measured)
