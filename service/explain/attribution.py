"""The answer to a question: an attribution map with a measure of its own quality."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from service.engine import Engine
from service.explain.question import Question


@dataclass(frozen=True)
class Attribution:
    """`map` float32 (S, S) in the method's unit, positive = speaks for class `target`; `quality` names its measures."""

    question: Question
    target: int
    map: Float32[np.ndarray, "size size"]
    quality: Mapping[str, float]


def explain(engine: Engine, pixels: UInt8[np.ndarray, "size size 3"], question: Question, predicted: int) -> Attribution:
    """Answers `question` about one fitted picture whose predicted class is known.

    Quality: `completeness_gap` = |Σ map − (f(x) − f(baseline))| / |f(x) − f(baseline)| of an additive method; 0 is perfect.
    """
    target = predicted if question.target is None else question.target
    answer = question.method.run(engine, pixels[None], np.array([target]), question.parameters)
    return Attribution(question, target, answer.maps[0], _quality(answer.maps[0], answer.difference))


def _quality(values: Float32[np.ndarray, "size size"], difference: Float32[np.ndarray, " rows"] | None) -> dict[str, float]:
    if difference is None:
        return {}
    expected = float(difference[0])
    return {"completeness_gap": abs(float(values.sum(dtype=np.float64)) - expected) / max(abs(expected), 1e-6)}
