"""The answer to a question: an attribution map with a measure of its own quality."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from service.explain import quality
from service.explain.cost import quartered
from service.explain.question import Question
from service.explain.target import Target, rival_of
from service.runtime.engine import Engine


@dataclass(frozen=True)
class Attribution:
    """`map` float32 (S, S) in the method's unit, positive = speaks for `target`; `quality` names its measures.

    `question` is what was answered, `degraded_from` what was asked, if that would have taken too long.
    """

    question: Question
    target: Target
    map: Float32[np.ndarray, "size size"]
    quality: Mapping[str, float]
    degraded_from: Question | None = None


def explain(
    engine: Engine,
    pixels: UInt8[np.ndarray, "size size 3"],
    question: Question,
    logits: Float32[np.ndarray, " classes"],
) -> Attribution:
    """Answers `question` about one fitted image whose `logits` are known; without a target the predicted class is explained."""
    target = question.target or Target(int(logits.argmax()))
    rival = rival_of(target, logits)

    def compute(
        image: UInt8[np.ndarray, "size size 3"],
        of: Target,
        beside: Target | None = None,
        parameters: Mapping[str, Any] = question.parameters,
    ) -> tuple[np.ndarray, dict[str, float]]:
        answer = question.method.compute(engine, image, of, beside, **parameters)
        return answer.map, answer.quality

    values, measured = compute(pixels, target, rival)
    if rival and "class_cosine" not in measured:
        fewer = {**question.parameters, **quartered(question.parameters)}
        measured["class_cosine"] = quality.cosine(
            values, compute(pixels, rival, parameters=fewer)[0]
        )
    if question.quality == "full":
        measured |= quality.faithfulness(engine, pixels, values, target.index)
        measured["sensitivity"] = quality.sensitivity(
            pixels, values, lambda noisy: compute(noisy, target)[0]
        )
    return Attribution(question, target, values, measured)
