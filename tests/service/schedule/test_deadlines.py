"""Explanations within a deadline: as asked, cheaper, or rejected; never late."""

import asyncio

import pytest

from service.errors import DeadlineExceeded
from service.explain import ask, cheaper_questions, explain, forward_passes
from service.image.resize import to_input
from service.schedule.deadlines import (
    CHEAPEST_TIMES,
    OPERATION_SECONDS,
    REMEMBERED_SECONDS,
    RESERVE,
    DeadlineExplainer,
    ExplanationTask,
)
from service.schedule.queue import Ticket
from service.workers.shared_state import SharedState
from support.clock import Clock
from support.images import draw

PASS_SECONDS = 0.001


class Room:
    """An explainer on a clock of its own, which forecasts PASS_SECONDS for each forward pass."""

    def __init__(self, engine, step=0.0):
        self._engine = engine
        self.clock = Clock(step=step)
        self.pressed = False
        self.explainer = DeadlineExplainer(
            engine, SharedState(), self.clock, lambda _ticket: self.pressed
        )
        self.explainer._pass.seconds = PASS_SECONDS
        self.explainer._weights = {}  # a pass of each graph takes the same
        self.explainer._most_rows = engine.most_rows  # a busy machine would halve the pieces

    def task(self, method, **parameters):
        question = ask(self._engine.manifest, method, None, parameters)
        pixels = to_input(draw("red"), self._engine.manifest.input)
        return ExplanationTask(pixels, question, self._engine.predict(pixels[None]).logits[0])

    def ticket(self, method, seconds, **parameters):
        loop = asyncio.new_event_loop()
        ticket = Ticket(
            self.task(method, **parameters),
            self.clock.now + seconds,
            0.0,
            self.clock.now,
            loop.create_future(),
        )
        loop.close()
        return ticket


@pytest.fixture
def room(engine):
    return Room(engine)


def test_with_time_enough_the_answer_is_as_asked(room):
    answer = room.explainer(room.ticket("integrated_gradients", 60.0))
    assert (answer.question.method.name, answer.degraded_from) == ("integrated_gradients", None)


def test_an_answer_that_just_fits_is_as_asked(room):
    own, cheapest = (
        PASS_SECONDS * forward_passes(room.task(method).question)
        for method in ("saliency", "grad_cam")
    )
    seconds = own + CHEAPEST_TIMES * cheapest
    assert room.explainer(room.ticket("saliency", seconds + 1e-6)).degraded_from is None
    room.explainer._pass.seconds = PASS_SECONDS
    answer = room.explainer(room.ticket("saliency", seconds - 1e-6))
    assert (answer.question.method.name, answer.degraded_from.method.name) == (
        "grad_cam",
        "saliency",
    )


def test_with_little_time_the_answer_is_cheaper_and_names_the_question(room):
    answer = room.explainer(room.ticket("kernel_shap", PASS_SECONDS * 10))
    assert answer.question.method.name == "grad_cam"
    assert answer.degraded_from.method.name == "kernel_shap"
    assert answer.degraded_from.parameters["samples"] == 512


def test_a_wrong_forecast_ends_in_the_cheapest_answer_before_the_deadline(engine):
    room = Room(engine, step=0.01)  # of 4,096 samples 256 pieces would take 2.56 s and more
    room.explainer._pass.seconds = 1e-6
    ticket = room.ticket("kernel_shap", 0.5, samples=4096)
    answer = room.explainer(ticket)
    assert room.clock.now < ticket.deadline - RESERVE * 0.5  # noticed early
    assert (answer.question.method.name, answer.degraded_from.method.name) == (
        "grad_cam",
        "kernel_shap",
    )


def test_integrated_gradients_stop_when_time_is_up_and_have_the_gap_of_what_ran(engine):
    room = Room(engine, step=0.01)
    room.explainer._pass.seconds = 1e-6
    answer = room.explainer(room.ticket("integrated_gradients", 1.2, tolerance=1e-9, steps=512))
    assert answer.degraded_from is None
    assert answer.quality["completeness_gap"] > 1e-9  # so it would have gone on
    assert 4 < answer.quality["steps"] < 512


def test_a_path_that_ends_early_is_noted_by_what_ran(engine):
    room = Room(engine, step=0.01)
    room.explainer(room.ticket("integrated_gradients", 60.0, tolerance=1.0))
    assert room.explainer._pass.seconds > PASS_SECONDS


def test_noise_that_nobody_asked_for_makes_way_for_the_cheapest_answer(room):
    noisy = {"noise": 1.0, "samples": 32, "seed": 6}
    asked = room.task("gradient_shap", **noisy)
    fewer = list(cheaper_questions(asked.question, room._engine.manifest))[-2]
    seconds = PASS_SECONDS * (forward_passes(fewer) + 1) / (1 - RESERVE)
    ticket = room.ticket("gradient_shap", seconds, **noisy)
    assert explain(room._engine, asked.fitted, fewer, asked.logits).warnings
    answer = room.explainer(ticket)
    assert answer.question.method.name == "grad_cam"
    assert answer.degraded_from.method.name == "gradient_shap"


def test_a_dear_answer_gives_way_to_the_cheapest_when_others_wait(room):
    room.pressed = True
    answer = room.explainer(room.ticket("kernel_shap", 60.0))
    assert (answer.question.method.name, answer.degraded_from.method.name) == (
        "grad_cam",
        "kernel_shap",
    )


def test_the_cheapest_answer_gives_way_to_nobody(room):
    room.pressed = True
    assert room.explainer(room.ticket("grad_cam", 60.0)).degraded_from is None


def test_the_forecast_holds_the_algebra(room):
    task = room.task("kernel_shap", samples=1024, segments=32)
    passes = PASS_SECONDS * forward_passes(task.question)
    algebra = room.explainer.expected_seconds(task, 60.0) - passes
    assert algebra == pytest.approx(OPERATION_SECONDS * (2 * 1024 + 4 * 1024) * 1024**2)
    assert algebra > 0.2
    room.explainer(room.ticket("kernel_shap", 60.0, samples=1024, segments=32))
    assert room.explainer._pass.seconds < PASS_SECONDS, "the algebra counts as passes"


def test_the_forecast_is_that_of_the_answer_that_fits(room):
    task = room.task("kernel_shap", samples=1024)
    dear, quarter, cheapest = (
        room.explainer.expected_seconds(task, seconds) for seconds in (60.0, 0.5, 0.01)
    )
    assert dear > 0.5
    assert 0.5 > quarter > 0.1 > cheapest
    assert cheapest == room.explainer.least_seconds(task)


def test_a_cheapest_answer_that_is_late_fails(engine):
    room = Room(engine, step=0.01)
    room.explainer._pass.seconds = room.explainer._least_pass_seconds = 1e-6
    with pytest.raises(DeadlineExceeded, match="deadline_ms was over"):
        room.explainer(room.ticket("grad_cam", 0.035))


def test_without_time_for_any_answer_the_question_is_rejected(room):
    with pytest.raises(DeadlineExceeded, match="no explanation takes less: retry later"):
        room.explainer(room.ticket("saliency", 0.0))


def test_the_forecast_follows_the_explanations(engine):
    room = Room(engine, step=0.01)
    passes = forward_passes(room.task("grad_cam").question)
    room.explainer(room.ticket("grad_cam", 60.0))
    took = 4 * room.clock.step  # one piece: two reads before it, one after it, and the end
    assert room.explainer._pass.seconds == pytest.approx(
        PASS_SECONDS + 0.2 * (took / passes - PASS_SECONDS)
    )


def test_the_pace_of_a_busy_moment_is_forgotten(room):
    room.explainer._least_pass_seconds = PASS_SECONDS
    task = room.task("kernel_shap")
    quiet = room.explainer.expected_seconds(task, 2.0)
    room.explainer._note(1.0)
    assert room.explainer.expected_seconds(task, 2.0) < quiet  # of a cheaper answer
    room.clock.sleep(REMEMBERED_SECONDS + 1)
    assert room.explainer.expected_seconds(task, 2.0) == quiet


def test_a_quicker_answer_is_believed_at_once(room):
    room.explainer._least_pass_seconds = PASS_SECONDS
    room.explainer._pass.seconds = 1.0
    room.explainer._note(2 * PASS_SECONDS)
    assert room.explainer._pass.seconds == 2 * PASS_SECONDS


def test_the_queue_expects_the_time_of_the_cheapest_answer(room):
    dear, cheap = (
        room.explainer.least_seconds(room.task(method)) for method in ("kernel_shap", "grad_cam")
    )
    assert 0 < dear == cheap
    assert cheap == PASS_SECONDS * forward_passes(room.task("grad_cam").question)
