"""The stages of an image, over a real engine, and as a real server shows them."""

import asyncio
import gc
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from service.errors import (
    ImageTooLarge,
    RequestError,
    TooManyRequests,
    Unavailable,
    UndecodableImage,
)
from service.explain import ask, explain
from service.explain.policy import ON_REQUEST, Policy
from service.predictions import PredictionOptions, predict
from service.runtime.engine import Engine
from service.runtime.graphs import QUICK
from service.schedule.allowance import Caller
from service.schedule.lanes import LoopLane, ThreadLane
from service.schedule.pipeline import Pipeline
from service.schedule.resources import Resources
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers import host
from service.workers.shared_state import PREDICTING, SharedState
from support import arrivals, load
from support.heavy_bodies import chunk, png
from support.images import draw, encode
from support.servers import Server

IMAGE = encode(draw("red"))
OPTIONS = PredictionOptions()
IN_FLIGHT = 'candor_in_flight{lane="predict"}'


@pytest.fixture
def pipeline(engine, embedded):
    opened = Pipeline(engine, Settings(), Metrics())
    yield opened
    opened.close()


def run(pipeline, steps):
    """What the coroutine function `steps` makes of a new timing."""
    return asyncio.run(steps(Timing(pipeline.metrics)))


def text(pipeline):
    return pipeline.metrics.text().decode()


@pytest.mark.parametrize(
    ("seconds", "capacity", "lane"),
    [
        (0.1, 128, ThreadLane),
        (0.005, 128, ThreadLane),
        (0.001, 179, LoopLane),
        (1e-5, 512, LoopLane),
    ],
)
def test_the_time_of_a_prediction_decides_the_lane_and_the_places(
    seconds, capacity, lane, embedded
):
    engine = Engine(embedded, "cpu", 1, timings={(QUICK, 1): (seconds, seconds)})
    opened = Pipeline(engine, Settings(), Metrics())
    opened.close()
    assert isinstance(opened._predict, lane)
    assert f'candor_queue_limit{{lane="predict"}} {capacity}.0' in text(opened)
    assert 'candor_queue_limit{lane="explain"} 128.0' in text(opened)


def test_an_image_is_predicted_as_the_engine_predicts_it(pipeline, engine):
    timings = []

    async def steps(timing):
        timings.append(timing)
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        return sent, await pipeline.predict(sent, OPTIONS, timing)

    sent, seen = run(pipeline, steps)
    expected = predict(engine.predict(sent.fitted[None]).rows()[0], engine.manifest)
    assert seen.prediction.best == expected.best
    assert (sent.width, sent.height, sent.format, sent.ground) == (32, 32, "PNG", None)
    assert timings[0].seconds.keys() == {"decode", "queue", "infer"}
    assert "candor_predictions_total" in text(pipeline)


def test_only_a_prediction_for_its_own_sake_slows_explanations(pipeline, engine):
    async def steps(timing, question):
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        await pipeline.predict(sent, OPTIONS, timing, question)
        return pipeline._shared_state.last_prediction

    question = ask(engine.manifest, "saliency", None, {})
    assert run(pipeline, lambda timing: steps(timing, question)) == 0
    assert run(pipeline, lambda timing: steps(timing, None)) > 0


def test_a_damaged_image_is_counted_and_frees_its_place(pipeline):
    async def steps(timing):
        with pytest.raises(UndecodableImage):
            await pipeline.receive(IMAGE[:-100], timing, keep=False)

    run(pipeline, steps)
    assert 'candor_image_rejected_total{reason="undecodable_picture"} 1.0' in text(pipeline)
    assert pipeline._predict.queue._reserved == 0


@pytest.mark.parametrize("size", [64, 200])  # decoded on the loop, and on a thread
def test_pixels_and_their_file_are_predicted_alike(size, pipeline):
    async def steps(timing):
        pixels = draw("red", size)
        sent = await pipeline.receive_pixels(pixels, timing)
        received = await pipeline.receive(encode(pixels), timing, keep=False)
        return sent, received

    sent, received = run(pipeline, steps)
    assert np.array_equal(sent.fitted, received.fitted)
    assert (sent.width, sent.height, sent.format) == (size, size, "pixels")


@pytest.mark.parametrize("form", ["file", "pixels"])
@pytest.mark.parametrize(
    ("size", "seconds", "spare_cores", "on_thread"),
    [
        (256, 0.001, 0, False),
        (257, 0.001, 0, True),
        (256, 0.001, 1, True),
        (256, 0.1, 0, True),  # no prediction waits for the loop
        (128, 0.1, 1, False),
    ],
)
def test_images_that_are_unpacked_quickly_need_no_thread_where_it_has_no_core(
    size, seconds, spare_cores, on_thread, form, embedded
):
    if host.cores() == spare_cores:
        pytest.skip("this machine has a single core")
    engine = Engine(embedded, "cpu", 1, timings={(QUICK, 1): (seconds, seconds)})
    opened = Pipeline(engine, Settings(workers=host.cores() - spare_cores), Metrics())
    pixels, before = draw("red", size), image_threads()

    async def steps(timing):
        if form == "pixels":
            return await opened.receive_pixels(pixels, timing)
        return await opened.receive(encode(pixels, "JPEG"), timing, keep=False)

    sent, after = run(opened, steps), image_threads()
    opened.close()
    assert (sent.width, after > before) == (size, on_thread)


def image_threads():
    return {each for each in threading.enumerate() if each.name.startswith("images")}


def test_an_explanation_is_charged_to_its_caller(pipeline, engine):
    question = ask(engine.manifest, "saliency", None, {})

    async def steps(timing):
        timing.caller = Caller("192.0.2.1")
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        seen = await pipeline.predict(sent, OPTIONS, timing, question)
        await pipeline.explain(sent, question, seen, timing)

    run(pipeline, steps)
    shares = pipeline._explain.queue._shares
    assert shares.of("192.0.2.1", time.perf_counter()) > 0
    assert shares.of("", time.perf_counter()) == 0


def test_an_explanation_is_counted_with_its_gap(pipeline, engine):
    question = ask(engine.manifest, "integrated_gradients", None, {"steps": 8})

    async def steps(timing):
        sent = await pipeline.receive(IMAGE, timing, keep=True)
        seen = await pipeline.predict(sent, OPTIONS, timing, question)
        attribution = await pipeline.explain(sent, question, seen, timing)
        return attribution, await pipeline.overlay(sent, attribution, timing)

    attribution, overlay = run(pipeline, steps)
    assert attribution.degraded_from is None
    assert overlay.startswith(b"\x89PNG")
    exposition = text(pipeline)
    for name in ("candor_explanation_duration_seconds", "candor_completeness_gap"):
        assert f'{name}_count{{method="integrated_gradients"}} 1.0' in exposition
    answered = 'candor_explanations_total{method="integrated_gradients",outcome="answered"} 1.0'
    assert answered in exposition


@pytest.mark.parametrize("target", [None, "cat", "cat,dog"])
def test_grad_cam_is_made_of_what_the_prediction_computes(target, pipeline, engine):
    question = ask(engine.manifest, "grad_cam", target, {})

    async def steps(timing):
        timing.caller = Caller("192.0.2.2")
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        seen = await pipeline.predict(sent, OPTIONS, timing, question)
        return sent, seen.prediction, await pipeline.explain(sent, question, seen, timing)

    sent, prediction, answer = run(pipeline, steps)
    expected = explain(engine, sent.fitted, question, prediction.logits)
    assert answer.map == pytest.approx(expected.map, abs=1e-5)
    assert answer.quality == pytest.approx(expected.quality, abs=1e-5)
    # no lane of its own
    assert pipeline._explain.queue._shares.of("192.0.2.2", time.perf_counter()) == 0
    answered = 'candor_explanations_total{method="grad_cam",outcome="answered"} 1.0'
    assert answered in text(pipeline)


@pytest.mark.parametrize(
    "reasons",
    [[None, "asked", None, "asked", "unfamiliar"], [None, "unfamiliar", None], ["asked", "asked"]],
)
def test_the_maps_that_there_is_a_reason_for_come_with_the_batch(reasons, pipeline, engine):
    policies = {None: Policy(), "asked": ON_REQUEST, "unfamiliar": Policy(unfamiliar=True)}
    asked = [ask(engine.manifest, "grad_cam", "cat" if row % 2 else None, {}) for row in range(5)]
    files = [encode(draw("red", 32, row)) for row in range(len(reasons))]

    async def steps(timing):
        images = [await pipeline.receive(file, timing, keep=False) for file in files]
        plain = pipeline.predict(images[0], OPTIONS, timing)
        return images, await asyncio.gather(
            plain,
            *(
                pipeline.predict(image, OPTIONS, timing, question, policies[reason])
                for image, question, reason in zip(images, asked, reasons, strict=False)
            ),
        )

    images, (plain, *answers) = run(pipeline, steps)
    assert (plain.reason, plain.attribution) == (None, None)
    assert [each.reason for each in answers] == reasons
    for image, question, seen in zip(images, asked, answers, strict=False):
        assert (seen.attribution is None) == (seen.reason is None)
        if seen.attribution is not None:
            expected = explain(engine, image.fitted, question, seen.prediction.logits)
            assert seen.attribution.map == pytest.approx(expected.map, abs=1e-5)
            # Drift looks at those that were asked for.
            assert ("mass" in vars(seen.attribution)) == ("asked" in reasons)
    assert f'candor_batch_size_sum{{lane="predict"}} {1 + len(reasons)}.0' in text(pipeline)
    assert 'candor_batch_size_count{lane="predict"} 1.0' in text(pipeline)


def test_each_prediction_of_a_batch_has_the_parts_that_its_caller_asked_for(pipeline):
    async def steps(timing):
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        return await asyncio.gather(
            *(pipeline.predict(sent, PredictionOptions(top_k), timing) for top_k in (1, 5, 3))
        )

    assert [len(seen.prediction.top) for seen in run(pipeline, steps)] == [1, 5, 3]
    assert 'candor_batch_size_count{lane="predict"} 1.0' in text(pipeline)


def test_full_measures_of_grad_cam_take_the_lane(pipeline, engine):
    question = ask(engine.manifest, "grad_cam", None, {}, "full")
    assert not pipeline.in_one_pass(question)
    assert pipeline.in_one_pass(replace(question, quality="basic"))


def test_a_map_in_one_pass_costs_its_caller_a_prediction(embedded, engine):
    limited = Pipeline(engine, Settings(passes_per_second=1), Metrics())
    charged = []
    limited.allowances.charge = lambda *given: charged.append(given[-1])
    for method in ("grad_cam", "saliency"):
        limited.charge(ask(engine.manifest, method, None, {}), 2, Timing(limited.metrics))
    limited.close()
    assert charged == [2.0, 2.0 * (1 + ask(engine.manifest, "saliency", None, {}).most_passes)]


def test_a_worker_beside_another_that_computes_predicts_on_one_core(embedded, tmp_path):
    engine = Engine(embedded, "cpu", threads=2)
    ours, theirs = (SharedState(tmp_path / "shared", own) for own in (0, 1))
    metrics = Metrics()
    pipeline = Pipeline(engine, Settings(), metrics, Resources(Settings(), metrics, ours))
    calls = []
    for cores in ("all_cores", "one_core"):
        programs = getattr(engine._sessions, cores)
        programs[QUICK] = lambda *given, cores=cores, program=programs[QUICK]: (
            calls.append(cores) or program(*given)
        )

    async def steps(timing):
        sent = await pipeline.receive(IMAGE, timing, keep=False)
        await pipeline.predict(sent, OPTIONS, timing)
        with theirs.computing(PREDICTING):
            await pipeline.predict(sent, OPTIONS, timing)

    run(pipeline, steps)
    pipeline.close()
    assert calls == ["all_cores", "one_core"]


def test_a_closed_pipeline_rejects(engine, embedded):
    closed = Pipeline(engine, Settings(), Metrics())

    async def steps(timing):
        sent = await closed.receive(IMAGE, timing, keep=False)
        closed.close()
        with pytest.raises(Unavailable, match="the service is stopping"):
            await closed.predict(sent, OPTIONS, timing)

    run(closed, steps)


def test_a_scrape_sees_images_in_flight_although_predictions_run_on_the_loop(tmp_path):
    with Server(tmp_path, workers=1) as server:
        raw, seen = load.image("/predict", IMAGE, "png").raw(), threading.Event()
        ends = time.monotonic() + 60
        requests = iter(lambda: None if seen.is_set() or time.monotonic() > ends else raw, None)
        working = threading.Thread(
            target=lambda: arrivals.run(
                arrivals.closed_loop(server.port, requests, 32, lambda _answer: None)
            )
        )
        working.start()
        largest = 0.0
        while not largest and time.monotonic() < ends:
            largest = server.metric(IN_FLIGHT)
        seen.set()
        working.join()
        assert 0 < largest <= 32
        assert server.metric(IN_FLIGHT) == 0


LARGE = encode(draw(size=400))  # takes 1.2 MB


@pytest.fixture
def tight(engine, embedded):
    """A pipeline whose largest image takes 1.5 MB."""
    opened = Pipeline(engine, Settings(decode_memory=2_000_000), Metrics())
    yield opened
    opened.close()


def test_an_image_that_never_fits_the_memory_is_a_413_by_its_header(tight):
    webp = encode(draw(size=400), "WEBP")
    with pytest.raises(
        ImageTooLarge, match=r"400×400 px and takes 2\.\d+ MB of memory; the limit is"
    ):
        run(tight, lambda timing: tight.receive(webp, timing, keep=False))
    assert 'candor_budget_rejected_total{budget="images",reason="too_large"} 1.0' in text(tight)


def test_an_image_waits_for_memory_until_its_deadline(tight):
    async def steps(timing):
        timing.allow(50)
        with tight.budgets.images.take(1_500_000):
            with pytest.raises(TooManyRequests, match="memory for images are in use"):
                await tight.receive(LARGE, timing, keep=False)
            waiting = asyncio.ensure_future(tight.receive(LARGE, Timing(tight.metrics), keep=False))
            await asyncio.sleep(0)
            await tight.receive(IMAGE, timing, keep=False)  # a small one passes
        return await waiting

    assert run(tight, steps).width == 400
    assert tight.budgets.images.used_bytes == 0


@pytest.mark.parametrize("options", [{"keep": True}, {"keep": False, "masked": True}], ids=str)
def test_memory_of_an_overlay_or_a_mask_is_held_until_the_image_is_answered(pipeline, options):
    sent = run(pipeline, lambda timing: pipeline.receive(LARGE, timing, **options))
    assert pipeline.budgets.images.used_bytes > 0
    sent.release()
    assert pipeline.budgets.images.used_bytes == 0


def test_a_caller_that_leaves_gives_its_memory_back_once_the_decoder_is_done(tight):
    async def steps(timing):
        work = asyncio.ensure_future(tight.receive(LARGE, timing, keep=False))
        while not tight.budgets.images.used_bytes:  # noqa: ASYNC110 - it lasts less than any pause
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    run(tight, steps)
    assert tight.budgets.images.used_bytes == 0


def test_a_damaged_large_image_gives_its_memory_back(tight):
    with pytest.raises(UndecodableImage):
        run(tight, lambda timing: tight.receive(LARGE[: len(LARGE) // 2], timing, keep=False))
    assert tight.budgets.images.used_bytes == 0


def test_a_rejected_image_is_in_no_cycle(pipeline):
    body = png(chunk(b"teSt") * 20_000)

    async def steps(timing):
        with pytest.raises(RequestError):
            await pipeline.receive(body, timing, keep=False)

    gc.disable()
    try:
        before = sys.getrefcount(body)
        run(pipeline, steps)
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()
