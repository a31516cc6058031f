"""Explanations within a deadline: as asked if time allows, else cheaper, and never late.

The time of an answer is forecast from its forward passes, the recent mean time of a pass, and its
algebra. If the forecast is wrong, or if other callers wait, the cheapest answer follows.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from service.errors import DeadlineExceeded
from service.explain import Attribution, Question, cheaper_questions, explain, forward_passes
from service.explain.methods import GRADIENT_PASSES
from service.explain.question import algebra_operations
from service.runtime.engine import Engine
from service.schedule.pacing import Pacer
from service.schedule.queue import Ticket
from service.schedule.timing import RecentMean
from service.workers.shared_state import EXPLAINING, SharedState

# The share of the remaining time that is kept for the cheapest answer.
RESERVE = 0.2
# Of a multiplication and addition of the algebra, on one core: measured 0.3 to 0.7 on an EPYC.
OPERATION_SECONDS = 1e-10
# The longest piece without predictions; the passes in it are taken for gradients.
STEP_SECONDS = 0.1


@dataclass(frozen=True)
class ExplanationTask:
    """A question about one image: `fitted` uint8 (H, W, 3), and its `logits` float32 (K,)."""

    fitted: UInt8[np.ndarray, "H W 3"]
    question: Question
    logits: Float32[np.ndarray, " classes"]


class DeadlineExplainer:
    """The work of the explain lane; times are seconds of `clock`."""

    def __init__(
        self,
        engine: Engine,
        shared_state: SharedState,
        clock: Callable[[], float] = time.perf_counter,
        pressed: Callable[[Ticket[ExplanationTask, Attribution]], bool] = lambda _ticket: False,
        **between: Any,
    ) -> None:
        """Makes the work; an explanation gives way to others once it is `pressed`. `between` are
        `rest` and `interjected_at` of its `Pacer`.
        """
        self._between = between
        self._engine = engine
        self._pressed = pressed
        self._shared_state = shared_state
        self._clock = clock
        self._pass = RecentMean(engine.forward_seconds)
        step_rows = int(STEP_SECONDS / (GRADIENT_PASSES * engine.forward_seconds))
        self._most_rows = min(engine.most_rows, max(1, step_rows))

    def least_seconds(self, task: ExplanationTask) -> float:
        """The forecast for the cheapest answer to `task`."""
        return self.expected_seconds(task, 0.0)

    def expected_seconds(self, task: ExplanationTask, remaining: float) -> float:
        """The forecast for the answer to `task` that fits `remaining`, or for the cheapest."""
        for question in cheaper_questions(task.question, self._engine.manifest):
            seconds = self._forecast(question)
            if seconds <= remaining:
                break
        return seconds

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
        answer = self._best(ticket, questions, remaining)
        return answer if answer.question is requested else replace(answer, degraded_from=requested)

    def _best(
        self,
        ticket: Ticket[ExplanationTask, Attribution],
        questions: Sequence[Question],
        remaining: float,
    ) -> Attribution:
        """The answer to the first of `questions`, or to the last where its time is not enough."""
        first, cheapest = questions[0], questions[-1]
        if first is cheapest:
            return self._answer(ticket, first)
        try:
            pressed = partial(self._pressed, ticket)
            answer = self._answer(ticket, first, RESERVE * remaining, pressed)
        except DeadlineExceeded:
            return self._answer(ticket, cheapest)
        if answer.warnings and first is not ticket.item.question:
            # Noise that nobody asked for is worth less than a plain map.
            with suppress(DeadlineExceeded):
                return self._answer(ticket, cheapest)
        return answer

    def _answer(
        self,
        ticket: Ticket[ExplanationTask, Attribution],
        question: Question,
        reserve: float = 0.0,
        pressed: Callable[[], bool] = lambda: False,
    ) -> Attribution:
        """The answer to `question`, given up `reserve` seconds before the deadline."""
        started = self._clock()
        pacer = Pacer(
            self._most_rows,
            ticket.deadline - reserve,
            lambda: ticket.settled,
            self._shared_state,
            pressed=pressed,
            clock=self._clock,
            **self._between,
        )
        with self._shared_state.computing(EXPLAINING):
            answer = explain(
                self._engine.paced(pacer), ticket.item.fitted, question, ticket.item.logits
            )
        # Rests for predictions are part of it: the forecast follows the load.
        passed = self._clock() - started - pacer.interjected_seconds
        seconds = passed - self._algebra(question)
        self._pass.add(max(0.0, seconds) / forward_passes(question))
        return answer

    def _forecast(self, question: Question) -> float:
        return forward_passes(question) * self._pass.seconds + self._algebra(question)

    def _algebra(self, question: Question) -> float:
        return OPERATION_SECONDS * algebra_operations(question)
