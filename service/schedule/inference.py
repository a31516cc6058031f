"""What the predict lane runs: a batch of images → probabilities, and the maps made beside them."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from service.explain import Attribution, Question, explain, explain_together, fits
from service.predictions import Calibrated, Prediction, calibrate
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from service.schedule.queue import Ticket
from service.workers.shared_state import PREDICTING, SharedState

Fitted = UInt8[np.ndarray, "H W 3"]


class Asked(NamedTuple):
    """An image in the predict queue; `activation` if a class activation map may be made of it. It
    answers the `question`, if that is asked whatever the prediction is.
    """

    fitted: Fitted
    activation: bool = False
    question: Question | None = None


class Seen(NamedTuple):
    """The prediction of an image, and the `attribution` that was made beside it, if one was."""

    prediction: Prediction
    attribution: Attribution | None = None


class Inferred(NamedTuple):
    """What came of an image: with the `attribution`, if a map was certain to be asked for, the
    `seconds` that those of its batch took.
    """

    calibrated: Calibrated
    attribution: Attribution | None = None
    seconds: float = 0.0


class Inference:
    """Predictions of one engine, and class activation maps of what they computed."""

    def __init__(self, engine: Engine, shared_state: SharedState) -> None:
        self._engine, self._on_one_core = engine, engine.on_one_core()
        self._shared_state = shared_state

    def run(self, batch: list[Ticket[Asked, Inferred]]) -> list[Inferred]:
        """The answers of a batch."""
        # A worker that computes alone has all cores; several have one each.
        engine = self._engine if self._shared_state.idle else self._on_one_core
        asked = [ticket.item for ticket in batch]
        with self._shared_state.computing(PREDICTING):
            images = [each.fitted for each in asked]
            outputs = engine.predict_quick(
                images[0][None] if len(images) == 1 else np.stack(images),
                activation=any(each.activation for each in asked),
            )
        calibrated = calibrate(outputs.rows(), outputs.logits, engine.manifest)
        started = time.perf_counter()
        maps = self._maps(outputs, asked)
        seconds = time.perf_counter() - started
        return [Inferred(*both, seconds) for both in zip(calibrated, maps, strict=True)]

    def map_of(self, fitted: Fitted, question: Question, prediction: Prediction) -> Attribution:
        """The map of an image, made of the activation that its `prediction` has."""
        activation, logits = prediction.activation, prediction.logits
        assert activation is not None
        if fits(self._engine, question):
            return explain_together(self._engine, activation[None], logits[None], [question])[0]
        return explain(self._engine.seeing(logits, activation), fitted, question, logits)

    def _maps(self, outputs: Outputs, asked: Sequence[Asked]) -> list[Attribution | None]:
        """The maps that are certain and can be made together."""
        found: list[Attribution | None] = [None] * len(asked)
        certain = {
            row: each.question
            for row, each in enumerate(asked)
            if each.activation and each.question and fits(self._engine, each.question)
        }
        if certain and outputs.activation is not None:
            rows = list(certain)
            seen = outputs.activation, outputs.logits
            if len(rows) < len(asked):
                seen = seen[0][rows], seen[1][rows]
            for row, answer in zip(
                rows, explain_together(self._engine, *seen, list(certain.values())), strict=True
            ):
                found[row] = answer
        return found
