"""What the predict lane runs: a batch of images → predictions, and the maps made beside them."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from service.explain import Attribution, Question, explain, explain_together, fits
from service.explain.policy import FAIR, ON_REQUEST, Policy, Reason
from service.predictions import Prediction, PredictionOptions, calibrate, prediction_of
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from service.schedule.queue import Ticket
from service.workers.shared_state import PREDICTING, SharedState

Fitted = UInt8[np.ndarray, "H W 3"]


class Asked(NamedTuple):
    """An image in the predict queue, the `options` of its prediction, and the `question` about it
    where the policy `when` has a reason. With `activation` a class activation map may follow.
    """

    fitted: Fitted
    options: PredictionOptions
    question: Question | None = None
    when: Policy = ON_REQUEST
    activation: bool = False


class Seen(NamedTuple):
    """What came of an image: its prediction, the `reason` to explain it, if there is one, and the
    `attribution`, if that was made at once; the maps of its batch took so many `seconds`.
    """

    prediction: Prediction
    reason: Reason | None = None
    attribution: Attribution | None = None
    seconds: float = 0.0


class Inference:
    """Predictions of one engine, and class activation maps of what they computed."""

    def __init__(self, engine: Engine, shared_state: SharedState) -> None:
        self._engine, self._on_one_core = engine, engine.on_one_core()
        self._shared_state = shared_state

    def run(self, batch: list[Ticket[Asked, Seen]]) -> list[Seen]:
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
        manifest = self._engine.manifest
        calibrated = calibrate(outputs.rows(), outputs.logits, manifest)
        predictions = [
            prediction_of(row, manifest, each.options)
            for row, each in zip(calibrated, asked, strict=True)
        ]
        reasons = [
            each.when.reason(prediction) if each.question else None
            for each, prediction in zip(asked, predictions, strict=True)
        ]
        started = time.perf_counter()
        maps = self._maps(outputs, asked, reasons)
        seconds = time.perf_counter() - started
        answers = enumerate(zip(predictions, reasons, strict=True))
        return [Seen(*answer, maps.get(row), seconds) for row, answer in answers]

    def map_of(self, fitted: Fitted, question: Question, prediction: Prediction) -> Attribution:
        """The map of an image, made of the activation that its `prediction` has."""
        activation, logits = prediction.activation, prediction.logits
        assert activation is not None
        if fits(self._engine, question):
            return explain_together(self._engine, activation[None], logits[None], [question])[0]
        return explain(self._engine.seeing(logits, activation), fitted, question, logits)

    def _maps(
        self, outputs: Outputs, asked: Sequence[Asked], reasons: Sequence[Reason | None]
    ) -> dict[int, Attribution]:
        """The maps by row that there is a reason for and that can be made together."""
        questions = {
            row: each.question
            for row, (each, reason) in enumerate(zip(asked, reasons, strict=True))
            if reason and each.activation and each.question and fits(self._engine, each.question)
        }
        if not questions or outputs.activation is None:
            return {}
        rows, seen = list(questions), (outputs.activation, outputs.logits)
        if len(rows) < len(asked):
            # Of one row, as most often, a slice makes no copy.
            chosen = rows if len(rows) > 1 else slice(rows[0], rows[0] + 1)
            seen = seen[0][chosen], seen[1][chosen]
        # Drift looks at no map that comes along because an answer is unsure.
        masses = any(reasons[row] in FAIR for row in rows)
        maps = explain_together(self._engine, *seen, list(questions.values()), masses=masses)
        return dict(zip(rows, maps, strict=True))
