"""Explanations within a deadline: as asked if time allows, else cheaper, and never late.

The time of an answer is forecast from the forward passes of each graph, the recent mean time of a
pass, and its algebra. If the forecast turns out wrong on the way, the dearest answer that fits what
remains follows; if other callers wait, the cheapest.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from service.bundle import folder
from service.errors import DeadlineExceeded
from service.explain import Attribution, Question, cheaper_questions, explain, passes_by_graph
from service.explain.methods import GRADIENT_PASSES
from service.explain.question import algebra_operations
from service.runtime.engine import Engine
from service.schedule.pacing import GaveWay, Pacer
from service.schedule.progress import Progress, weights_of
from service.schedule.queue import Ticket
from service.schedule.timing import RecentMean
from service.workers.shared_state import EXPLAINING, SharedState

# What is kept of the remaining time for a cheaper answer, when one is chosen: this share, and the
# cheapest one twice, for a piece that runs is not interrupted.
RESERVE, CHEAPEST_TIMES = 0.2, 2.0
# The share that is kept while it runs, beside the cheapest one twice at the pace that is seen.
MARGIN = 0.1
# Of what then remains, for an answer that stands already: its caller must get it in time.
DELIVERY = 0.3
# Of a multiplication and addition of the algebra, on one core: measured 0.3 to 0.7 on an EPYC.
OPERATION_SECONDS = 1e-10
# The longest piece without predictions; the passes in it are taken for gradients.
STEP_SECONDS = 0.1
REMEMBERED_SECONDS = 10.0  # of the pace of another request


@dataclass(frozen=True)
class ExplanationTask:
    """A question about one image: `fitted` uint8 (H, W, 3), and its `logits` float32 (K,).

    The last `spare_seconds` before its deadline belong to other images of the same request.
    """

    fitted: UInt8[np.ndarray, "H W 3"]
    question: Question
    logits: Float32[np.ndarray, " classes"]
    spare_seconds: float = 0.0


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
        self._weights = weights_of(engine)
        self._least_pass_seconds = engine.row_seconds(folder.PREDICT)
        self._pass = RecentMean(self._least_pass_seconds)
        self._noted_at = clock()
        self._seen_seconds = 0.0  # of a pass, in the attempt that was given up last
        self._running: Progress | None = None
        step_rows = int(STEP_SECONDS / (GRADIENT_PASSES * engine.forward_seconds))
        self._most_rows = min(engine.most_rows, max(1, step_rows))

    def forecast(self, question: Question) -> float:
        """The seconds of an answer to `question`, at the recent pace."""
        return self._forecast(question, self._pass.seconds)

    def least_seconds(self, task: ExplanationTask) -> float:
        """The forecast for the cheapest answer to `task`, at no better pace than what runs."""
        *_, cheapest = cheaper_questions(task.question, self._engine.manifest)
        running = self._running
        return self._forecast(cheapest, max(self._pass.seconds, running.pace if running else 0.0))

    def expected_seconds(self, task: ExplanationTask, remaining: float) -> float:
        """The forecast for the answer to `task` that fits `remaining`, or for the cheapest."""
        self._forget()
        questions = list(cheaper_questions(task.question, self._engine.manifest))
        fitting = self._fitting(questions, remaining - task.spare_seconds, self._pass.seconds)
        return self.forecast(next(fitting, questions[-1]))

    def __call__(self, ticket: Ticket[ExplanationTask, Attribution]) -> Attribution:
        """The answer to the question, or to the dearest cheaper one that the deadline allows.

        Raises:
            DeadlineExceeded: the deadline allows no answer.
            Unavailable: the caller has left.
        """
        requested = ticket.item.question
        answer = self._best(ticket)
        return answer if answer.question is requested else replace(answer, degraded_from=requested)

    def _best(self, ticket: Ticket[ExplanationTask, Attribution]) -> Attribution:
        """The answer to the dearest question that fits, with less where a forecast was wrong."""
        questions = list(cheaper_questions(ticket.item.question, self._engine.manifest))
        self._forget()
        cheapest, rest, pace = questions[-1], questions, self._pass.seconds
        while True:
            remaining = ticket.deadline - ticket.item.spare_seconds - self._clock()
            first = next(self._fitting(rest, remaining, pace), cheapest)
            if first is cheapest:
                return self._cheapest(ticket, cheapest)
            rest = rest[rest.index(first) + 1 :]
            try:
                answer = self._answer(ticket, first, MARGIN * remaining, cheapest)
            except GaveWay:
                return self._cheapest(ticket, cheapest)
            except DeadlineExceeded:
                pace = max(pace, self._seen_seconds)
                continue
            if answer.warnings and first is not ticket.item.question:
                # Noise that nobody asked for is worth less than a plain map.
                with suppress(DeadlineExceeded):
                    return self._cheapest(ticket, cheapest, DELIVERY)
            return answer

    def _fitting(
        self, questions: list[Question], remaining: float, pace: float
    ) -> Iterator[Question]:
        """Those of `questions` that end in time, with the reserve, at `pace` seconds a pass."""
        most = remaining - self._reserve(questions[-1], remaining, pace)
        return (question for question in questions if self._forecast(question, pace) <= most)

    def _reserve(self, cheapest: Question, remaining: float, pace: float) -> float:
        """The seconds of `remaining` that are kept for a cheaper answer."""
        return max(RESERVE * remaining, CHEAPEST_TIMES * self._forecast(cheapest, pace))

    def _forecast(self, question: Question, pace: float) -> float:
        return self._work(question) * pace + self._algebra(question)

    def _forget(self) -> None:
        """Forgets a pace that was noted long ago: a busy moment may have passed."""
        if self._clock() - self._noted_at > REMEMBERED_SECONDS:
            self._pass.seconds = min(self._pass.seconds, self._least_pass_seconds)

    def _note(self, seconds: float) -> None:
        """Notes the seconds of a pass. One that is too dear degrades what would fit, and no answer
        corrects it; one that is too cheap is noticed early.
        """
        self._noted_at = self._clock()
        self._pass.add(seconds)
        self._pass.seconds = min(self._pass.seconds, max(seconds, self._least_pass_seconds))

    def _cheapest(
        self,
        ticket: Ticket[ExplanationTask, Attribution],
        question: Question,
        kept_share: float = 0.0,
    ) -> Attribution:
        """The answer to the cheapest `question`, in all the time that is left but `kept_share`.

        Raises:
            DeadlineExceeded: there is none.
        """
        remaining = ticket.deadline - self._clock()
        # A busy moment may have passed: it is tried unless it could not end even without others.
        if self._work(question) * self._least_pass_seconds >= remaining:
            raise DeadlineExceeded(
                f"deadline_ms leaves {max(0.0, remaining):.2g} s, and no explanation takes less: "
                "retry later, or give more time"
            )
        return self._answer(ticket, question, kept_share * remaining)

    def _answer(
        self,
        ticket: Ticket[ExplanationTask, Attribution],
        question: Question,
        kept_seconds: float,
        cheaper: Question | None = None,
    ) -> Attribution:
        """The answer to `question`, given up `kept_seconds` before its time ends.

        With a `cheaper` question to fall back on it leaves the spare seconds to others, gives way
        to them, and is given up as soon as it would leave no time for that question.
        """
        until = ticket.deadline - kept_seconds
        if cheaper is not None:
            until -= ticket.item.spare_seconds
        pacer, progress = self._begin(ticket, question, until, cheaper)
        before, self._running = self._running, progress
        try:
            with self._shared_state.computing(EXPLAINING):
                answer = explain(
                    self._engine.paced(pacer, progress),
                    ticket.item.fitted,
                    question,
                    ticket.item.logits,
                )
        except DeadlineExceeded:
            if progress.done:  # what follows must be forecast by what was seen just now
                self._seen_seconds = progress.pace
                self._note(self._seen_seconds)
            raise
        finally:
            self._running = before
        # Rests for predictions are part of it: the forecast follows the load.
        seconds = progress.seconds - self._algebra(question)
        # What is done, and not what was expected: a path may end early, and time before measures.
        self._note(max(0.0, seconds) / max(1.0, progress.done))
        return answer

    def _begin(
        self,
        ticket: Ticket[ExplanationTask, Attribution],
        question: Question,
        until: float,
        cheaper: Question | None,
    ) -> tuple[Pacer, Progress]:
        """The pace and the progress of an answer that begins now."""
        pacer = Pacer(
            self._most_rows,
            until,
            lambda: ticket.settled,
            self._shared_state,
            pressed=lambda: cheaper is not None and self._pressed(ticket),
            hopeless=lambda: cheaper is not None and progress.hopeless,
            clock=self._clock,
            rows_at_once=self._engine.rows_at_once,
            **self._between,
        )
        progress = Progress(
            self._weights,
            self._work(question),
            until,
            self._clock,
            lambda: pacer.interjected_seconds,
            kept=0.0 if cheaper is None else CHEAPEST_TIMES * self._work(cheaper),
        )
        return pacer, progress

    def _work(self, question: Question) -> float:
        """The forward passes of an answer, weighed by graph."""
        return sum(
            passes * self._weights.get(graph, 1.0)
            for graph, passes in passes_by_graph(question).items()
        )

    def _algebra(self, question: Question) -> float:
        return OPERATION_SECONDS * algebra_operations(question)
