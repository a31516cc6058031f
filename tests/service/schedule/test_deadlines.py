"""Explanations within a deadline: as asked, cheaper, or refused; never late."""

import asyncio
import time

import pytest

from service.errors import DeadlineExceeded
from service.explain import ask
from service.image.resize import to_input
from service.schedule.deadlines import Explainer, Job
from service.schedule.lanes import Ticket
from service.workers.shared_state import SharedState
from support.images import draw


@pytest.fixture
def explainer(engine):
    return Explainer(engine, SharedState())


def ticket(engine, method, seconds, **given):
    pixels = to_input(draw("red"), engine.manifest.input)
    job = Job(
        pixels, ask(engine.manifest, method, None, given), engine.predict(pixels[None]).logits[0]
    )
    loop = asyncio.new_event_loop()
    now = time.perf_counter()
    made = Ticket(job, now + seconds, 0.0, loop.create_future(), loop, now)
    loop.close()
    return made


def test_with_time_enough_the_answer_is_what_was_asked(explainer, engine):
    found = explainer(ticket(engine, "integrated_gradients", 60.0))
    assert (found.question.method.name, found.degraded_from) == ("integrated_gradients", None)


def test_with_little_time_the_answer_is_cheaper_and_says_so(explainer, engine):
    explainer._pass_seconds = 0.1
    found = explainer(ticket(engine, "kernel_shap", 1.0))
    assert found.question.method.name == "grad_cam"
    assert found.degraded_from.method.name == "kernel_shap"
    assert found.degraded_from.parameters["samples"] == 1024


def test_a_wrong_forecast_ends_in_the_cheapest_answer_before_the_deadline(explainer, engine):
    explainer(ticket(engine, "grad_cam", 60.0))
    explainer._pass_seconds /= 1000
    asked = ticket(engine, "kernel_shap", 0.5, samples=4096)
    found = explainer(asked)
    assert time.perf_counter() < asked.deadline
    assert (found.question.method.name, found.degraded_from.method.name) == (
        "grad_cam",
        "kernel_shap",
    )


def test_without_time_for_anything_it_is_refused(explainer, engine):
    with pytest.raises(DeadlineExceeded, match="no explanation takes less"):
        explainer(ticket(engine, "saliency", 0.0))


def test_the_cheapest_answer_costs_less_than_what_was_asked(explainer, engine):
    dear, cheap = (
        explainer.least_seconds(ticket(engine, method, 1.0).item)
        for method in ("kernel_shap", "grad_cam")
    )
    assert 0 < dear == cheap
