"""The answer to a question: an attribution map with measures of its own quality."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.errors import DeadlineExceeded
from service.explain import quality
from service.explain.question import Question, quartered
from service.explain.target import Target, ranking, rival_of
from service.image.resize import InputPixels
from service.runtime.engine import Engine

NOISE_GAP = 0.5  # the completeness gap above which a map is mostly error


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
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what makes the map unfit for use, by its own measures."""
        gap = self.quality.get("completeness_gap", 0.0)
        if gap <= NOISE_GAP:
            return ()
        words = f"the map misses the change of the score by {gap:.0%}, so it is mostly error"
        return (f"{words}: ask for more steps or samples, or give more time",)


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
            measured["class_cosine"] = quality.cosine(values, other)
    if question.quality == "full":
        measured |= quality.faithfulness(engine, pixels, values, target.index)
        measured["sensitivity"] = quality.sensitivity(
            pixels, values, lambda noisy: compute(noisy, target)[0]
        )
    return Attribution(question, target, values, measured)
