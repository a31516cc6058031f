"""Explanations within a deadline: as asked if time allows, else cheaper, and never late.

The time of an answer is forecast from its forward passes and the recent mean time of a pass. If
the forecast is wrong, the cheapest answer still has a share of the time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8

from service.errors import DeadlineExceeded
from service.explain import Attribution, Question, cheaper_questions, explain, forward_passes
from service.runtime.engine import Engine
from service.schedule.pacing import Pacer
from service.schedule.queue import Ticket
from service.schedule.timing import RecentMean
from service.workers.shared_state import EXPLAINING, SharedState

# The share of the remaining time that is kept for the cheapest answer.
RESERVE = 0.2


@dataclass(frozen=True)
class ExplanationTask:
    """A question about one image: `fitted` uint8 (S, S, 3), and its `logits` float32 (K,)."""

    fitted: UInt8[np.ndarray, "size size 3"]
    question: Question
    logits: Float32[np.ndarray, " classes"]


class DeadlineExplainer:
    """The work of the explain lane; times are seconds of `clock`."""

    def __init__(
        self,
        engine: Engine,
        shared_state: SharedState,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._shared_state = shared_state
        self._clock = clock
        self._pass = RecentMean(engine.forward_seconds)

    def least_seconds(self, task: ExplanationTask) -> float:
        """The forecast for the cheapest answer to `task`."""
        *_, cheapest = cheaper_questions(task.question, self._engine.manifest)
        return self._forecast(cheapest)

    def __call__(self, ticket: Ticket[ExplanationTask, Attribution]) -> Attribution:
        """The answer to the question, or to the dearest cheaper one that the deadline allows.

        Raises:
            DeadlineExceeded: the deadline allows no answer.
            Unavailable: the caller has left.
        """
        requested, remaining = ticket.item.question, ticket.deadline - self._clock()
        questions = [
            question
            for question in cheaper_questions(requested, self._engine.manifest)
            if self._forecast(question) <= remaining
        ]
        if not questions:
            raise DeadlineExceeded(
                f"deadline_ms leaves {max(0.0, remaining):.2g} s, and no explanation takes less: "
                "retry later, or give more time"
            )
        first, cheapest = questions[0], questions[-1]
        try:
            answer = self._answer(ticket, first, 0.0 if first is cheapest else RESERVE * remaining)
        except DeadlineExceeded:
            if first is cheapest:
                raise
            answer = self._answer(ticket, cheapest, 0.0)
        return answer if answer.question is requested else replace(answer, degraded_from=requested)

    def _answer(
        self, ticket: Ticket[ExplanationTask, Attribution], question: Question, reserve: float
    ) -> Attribution:
        """The answer to `question`, given up `reserve` seconds before the deadline."""
        started = self._clock()
        pacer = Pacer(
            self._engine.most_rows,
            ticket.deadline - reserve,
            lambda: ticket.settled,
            self._shared_state,
            clock=self._clock,
        )
        with self._shared_state.computing(EXPLAINING):
            answer = explain(
                self._engine.paced(pacer), ticket.item.fitted, question, ticket.item.logits
            )
        # Rests for predictions are part of it: the forecast follows the load.
        self._pass.add((self._clock() - started) / forward_passes(question))
        return answer

    def _forecast(self, question: Question) -> float:
        return forward_passes(question) * self._pass.seconds
