"""Explanations within a deadline: what was asked if there is time for it, else something cheaper, never something late.

What an answer takes is foretold from its forward passes and the mean time that a pass took lately, rests for predictions included.
Where the forecast was wrong and time runs out on the way, what is left of it is enough for the cheapest answer.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, UInt8

from service.errors import DeadlineExceeded
from service.explain import Attribution, Question, cheaper_questions, explain, forward_passes
from service.runtime.engine import Engine
from service.schedule.lanes import Ticket
from service.schedule.pacing import Turns
from service.workers.shared_state import EXPLAINING, SharedState

RECENT = 0.2  # weight of the latest explanation in the mean time of a pass
RESERVE = 0.2  # the share of the time left that is kept for the cheapest answer


@dataclass(frozen=True)
class Job:
    """What an explanation is made of."""

    fitted: UInt8[np.ndarray, "size size 3"]
    question: Question
    logits: Float32[np.ndarray, " classes"]


class Explainer:
    """The work of the explain lane."""

    def __init__(self, engine: Engine, shared_state: SharedState) -> None:
        self._engine = engine
        self._shared_state = shared_state
        self._pass_seconds = engine.forward_seconds

    def least_seconds(self, job: Job) -> float:
        """What the cheapest answer takes."""
        *_, cheapest = cheaper_questions(job.question, self._engine.manifest)
        return self._seconds(cheapest)

    def __call__(self, ticket: Ticket[Job, Attribution]) -> Attribution:
        """The answer to what was asked, or to the dearest cheaper question that there is time for.

        Raises:
            DeadlineExceeded: there is no time for any.
            Unavailable: the caller went away.
        """
        asked, left = ticket.item.question, ticket.deadline - time.perf_counter()
        rungs = [
            rung
            for rung in cheaper_questions(asked, self._engine.manifest)
            if self._seconds(rung) <= left
        ]
        if not rungs:
            raise DeadlineExceeded(
                f"{max(0.0, left):.2g} s are left of deadline_ms, and no explanation takes less: ask again later, or give more time"
            )
        first, last = rungs[0], rungs[-1]
        try:
            answer = self._answer(ticket, first, 0.0 if first is last else RESERVE * left)
        except DeadlineExceeded:
            if first is last:
                raise
            answer = self._answer(ticket, last, 0.0)
        return answer if answer.question is asked else replace(answer, degraded_from=asked)

    def _answer(
        self, ticket: Ticket[Job, Attribution], question: Question, reserve: float
    ) -> Attribution:
        """The answer to `question`, given up `reserve` seconds before the deadline."""
        started = time.perf_counter()
        turns = Turns(ticket.deadline - reserve, lambda: ticket.abandoned, self._shared_state)
        with self._shared_state.computing(EXPLAINING):
            answer = explain(
                self._engine.paced(turns), ticket.item.fitted, question, ticket.item.logits
            )
        self._pass_seconds += RECENT * (
            (time.perf_counter() - started) / forward_passes(question) - self._pass_seconds
        )
        return answer

    def _seconds(self, question: Question) -> float:
        return forward_passes(question) * self._pass_seconds
