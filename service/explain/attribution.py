"""The answer to a question: an attribution map with a measure of its own quality."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from service.engine import Engine
from service.explain import quality
from service.explain.question import Question
from service.explain.target import Target, rival_of

FEWEST = 4  # steps or samples


@dataclass(frozen=True)
class Attribution:
    """`map` float32 (S, S) in the method's unit, positive = speaks for `target`; `quality` names its measures."""

    question: Question
    target: Target
    map: Float32[np.ndarray, "size size"]
    quality: Mapping[str, float]


def explain(
    engine: Engine, pixels: UInt8[np.ndarray, "size size 3"], question: Question, logits: Float32[np.ndarray, " classes"]
) -> Attribution:
    """Answers `question` about one fitted picture whose `logits` are known; without a target the predicted class is explained."""
    target = question.target or Target(int(logits.argmax()))
    rival = rival_of(target, logits)

    def compute(
        picture: UInt8[np.ndarray, "size size 3"], of: Target, beside: Target | None = None, **cheaper: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        answer = question.method.compute(engine, picture, of, beside, **question.parameters | cheaper)
        return answer.map, answer.quality

    values, measured = compute(pixels, target, rival)
    if rival and "class_cosine" not in measured:
        measured["class_cosine"] = quality.cosine(values, compute(pixels, rival, **cheaper(question.parameters))[0])
    if question.quality == "full":
        measured |= quality.faithfulness(engine, pixels, values, target.index)
        measured["sensitivity"] = quality.sensitivity(pixels, values, lambda noisy: compute(noisy, target)[0])
    return Attribution(question, target, values, measured)


def cheaper(parameters: Mapping[str, Any]) -> dict[str, int]:
    """What makes a method cost a quarter: a quarter of its steps or samples. Enough for a map that another is only compared with."""
    fewer = {name: min(parameters[name], max(FEWEST, parameters[name] // 4)) for name in ("steps", "samples") if name in parameters}
    return fewer | ({"max_steps": fewer["steps"]} if "max_steps" in parameters else {})
