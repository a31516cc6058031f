"""The way of an image: bytes → network input → logits → prediction → explanation → overlay.

Predictions and explanations each have a lane. Every stage is timed, and every stage ends by the
deadline of the request or raises. Pixels are uint8 (height, width, 3) RGB; the network's input is
uint8 (H, W, 3).
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from service.bundle import folder
from service.errors import RequestError, TooManyRequests
from service.explain import (
    Attribution,
    Question,
    ask,
    check_passes,
    fitting_defaults,
)
from service.explain.encoding import Format, picture
from service.explain.legend import Legend
from service.explain.policy import ON_REQUEST, Policy
from service.image import budget, decode, header
from service.image.budget import Lease
from service.image.decode import Opened
from service.image.kinds import USUAL
from service.image.resize import Pixels
from service.predictions import Prediction, PredictionOptions
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from service.schedule.allowance import MEGAPIXELS, PASSES
from service.schedule.deadlines import DeadlineExplainer, ExplanationTask
from service.schedule.fairness import FairQueue
from service.schedule.inference import Asked, Fitted, Inference, Seen
from service.schedule.lanes import InterjectingLane, LoopLane, ThreadLane
from service.schedule.queue import Queue, QueueMetrics
from service.schedule.resources import Resources
from service.schedule.sent import (
    Sent,
    check_cost,
    cost_of,
    draw_overlay,
    fit_image,
    fit_opened,
    fit_pixels,
    question_on_mask,
)
from service.schedule.timing import DEADLINE_MS, Timing
from service.settings import Settings
from service.telemetry import account
from service.telemetry.account import Account
from service.telemetry.metrics import Metrics
from service.workers import host

FEWEST, MOST = 128, 512  # places in a queue; the fewest hold two of the largest requests
# Seconds of predictions that may wait; a rejection serves a caller better than a longer wait.
WAIT_SECONDS = 0.25
# Of a core, for all else of a request for a small image: HTTP, decoding, its answer.
REQUEST_SECONDS = 0.0004
# Shorter predictions run on the event loop: to wake a thread takes as long.
QUICK_SECONDS = 0.005
# Of the usual deadline, that an answer with default parameters may take: the forecast may be wrong
# by a third, and a fifth is kept in reserve.
DEFAULT_SHARE = 0.6
# Smaller images are decoded on the event loop: to hand them over takes as long.
SMALL_PIXELS = 128 * 128
SMALL_OVERLAY = 64 * 64  # the same of what is drawn over them
COMPARED_SECONDS = 2.0  # that a comparison of two versions may take
GRAD_CAM = "grad_cam"
SMALL_MAP = 256 * 256  # and of class activation maps

Result = TypeVar("Result")


class Compared(NamedTuple):
    """What a version makes of an image for a comparison; the `map` is a Grad-CAM, float32 (H, W),
    if the prediction gives one.
    """

    prediction: Prediction
    map: np.ndarray | None


PredictLane = LoopLane[Asked, Seen] | ThreadLane[Asked, Seen]


class Pipeline:
    """The stages over one engine."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        metrics: Metrics,
        resources: Resources | None = None,
    ) -> None:
        """Opens the lanes; `resources` are those of all models, if there are several."""
        self.engine = engine
        self.metrics = metrics
        self.model_metrics = metrics.of_model(engine.manifest)
        self._owns_resources = resources is None
        self._resources = resources = resources or Resources(settings, metrics)
        self.budgets, self.allowances = resources.budgets, resources.allowances
        self.max_pixels = budget.most_pixels(settings.max_pixels, self.budgets.images)
        self._max_passes = settings.max_passes
        self._shared_state, self._loop_time = resources.shared_state, resources.loop_time
        self._threads, self._large_thread = resources.threads, resources.large_thread
        self._notes_labels = settings.trace_labels
        # A call of gRPC reaches the loop in many turns, by way of a thread, and one call after the
        # other: while a batch held the loop, the next would be made of a single image.
        self._on_loop = not settings.grpc_port
        self._inference = Inference(engine, self._shared_state)
        self._predict = self._predict_lane()
        # No thread has a core of its own, and the images of a batch are wanted on the loop.
        self._decodes_quick = (
            isinstance(self._predict, LoopLane) and host.cores() <= settings.worker_count
        )
        self._explainer = self._deadline_explainer()
        self._explain = self._explain_lane()
        # As measured at the start: later a busy hour would change what a request means.
        self.defaults = fitting_defaults(
            engine.manifest, self.forecast, DEFAULT_SHARE * DEADLINE_MS / 1000
        )
        # Sees the images that are predicted for callers, if they are compared.
        self.watch: Callable[[Fitted], None] | None = None
        self._rehearse()

    def rejection(self, ahead: int = 0) -> TooManyRequests | None:
        """A counted 429 if the predict queue is full; `ahead` are admitted and not yet in it."""
        return self._predict.queue.rejection(ahead)

    def admit(self) -> None:
        """Checks for a free place in the predict queue, before anything is read.

        Raises:
            TooManyRequests: the queue is full.
        """
        self.sign(account.current.get())
        self._predict.queue.admit()

    def sign(self, noted: Account | None) -> None:
        """Notes which model answers: nothing else writes it into an account."""
        if noted is not None:
            manifest = self.engine.manifest
            noted.model, noted.version = manifest.name, manifest.version

    @property
    def backlogged(self) -> bool:
        """True if more predictions wait than run together."""
        return self._predict.queue.waiting > self.engine.batch_rows

    async def receive(
        self, body: bytes, timing: Timing, *, keep: bool, masked: bool = False
    ) -> Sent:
        """Decodes an image and fits it to the network; `keep` keeps the ground of an overlay, and
        `masked` the memory for a mask.

        Raises:
            RequestError: the image cannot be decoded, its caller's allowance is used up, or there
                is no place for it in the memory or in the predict queue.
        """
        spec = self.engine.manifest.input
        _note_image()
        with timing.of("decode"):
            try:
                with self._predict.queue.reserve():
                    if header.is_quick(body) and self._loop_time.is_left:
                        with self._loop_time.spend():
                            opened = decode.open_header(body, self.max_pixels, spec.colour)
                            self._charge_pixels(opened.pixel_count, timing)
                            if opened.pixel_count <= SMALL_PIXELS:
                                return fit_opened(opened, spec, keep=keep)
                    else:
                        opened = await self._off_loop(
                            lambda: decode.open_header(body, self.max_pixels, spec.colour)
                        )
                        self._charge_pixels(opened.pixel_count, timing)
                cost = cost_of(opened, spec, keep=keep, masked=masked)
                check_cost(opened, cost, self.budgets.images)
                lease = await self.budgets.images.hold(cost, timing.deadline)
                return await self._receive_leased(opened, lease, keep=keep, masked=masked)
            except RequestError as error:
                if not isinstance(error, TooManyRequests):
                    self.metrics.images_rejected.labels(error.code).inc()
                raise

    async def receive_pixels(self, pixels: Pixels, timing: Timing, *, keep: bool = False) -> Sent:
        """Fits an image that came as pixels to the network; `keep` keeps the ground of an overlay.

        Raises:
            TooManyRequests: the predict queue is full, or the caller's allowance used up.
        """
        height, width = pixels.shape[:2]
        spec = self.engine.manifest.input
        _note_image()
        self._charge_pixels(height * width, timing)
        with self._predict.queue.reserve(), timing.of("decode"):
            if height * width <= SMALL_PIXELS:
                return fit_pixels(pixels, spec, keep=keep)
            cost = budget.image_bytes(width, height, budget.PLAIN_BYTES, input_width=spec.shape[1])
            # The body has these pixels: it is far smaller than the budget of images.
            with await self.budgets.images.hold(
                min(cost, self.budgets.images.largest_bytes), timing.deadline
            ):
                quick = height * width <= decode.QUICK_PIXELS and self._decodes_quick
                return await self._do(partial(fit_pixels, pixels, spec, keep=keep), quick=quick)

    async def cut(self, sent: Sent, mask: bytes, question: Question, timing: Timing) -> Question:
        """`question`, about the segments of the file `mask`.

        Raises:
            InvalidParameter: the mask does not go with the image.
        """
        with timing.of("decode"):
            return await self._off_loop(
                lambda: question_on_mask(sent, mask, question, self.engine.manifest.input)
            )

    async def predict(
        self,
        sent: Sent,
        options: PredictionOptions,
        timing: Timing,
        question: Question | None = None,
        when: Policy = ON_REQUEST,
    ) -> Seen:
        """The prediction of one image, and if `when` has a reason to answer the `question`: then
        `explain` follows.

        Raises:
            TooManyRequests: the predict queue is full.
            Unavailable: the backlog does not fit before the deadline.
            DeadlineExceeded: the deadline passed in the queue.
        """
        one_pass = question is not None and self.in_one_pass(question)
        if question is None or one_pass:
            self._shared_state.predict()
        asked = Asked(sent.fitted, options, question, when, activation=one_pass)
        done = await self._predict.run(asked, timing.deadline)
        seen, mapping = done.result, done.result.seconds
        timing.add("queue", done.queue_seconds, ago=done.run_seconds, lane="predict")
        seconds = done.run_seconds - mapping
        timing.add("infer", seconds, ago=mapping, lane="predict", batch_size=done.rows)
        if question is not None and seen.attribution is not None:
            timing.add("explain", mapping, method=question.method.name)
            self._count_explanation(question, seen.attribution, mapping)
        self._count(seen.prediction)
        if self.watch is not None:
            self.watch(sent.fitted)
        return seen

    async def compared(self, fitted: Fitted, target: str | None = None) -> Compared:
        """The prediction of an image, and its Grad-CAM for the class `target`, or the predicted
        one; it is no answer to anyone, and not counted as one.

        Raises:
            RequestError: there is no time for it.
        """
        manifest = self.engine.manifest
        question = ask(manifest, GRAD_CAM, target, {}) if folder.CAM in manifest.files else None
        one_pass = question is not None and self.in_one_pass(question)
        deadline = time.perf_counter() + COMPARED_SECONDS
        asked = Asked(fitted, PredictionOptions(top_k=1), activation=one_pass)
        prediction = (await self._predict.run(asked, deadline)).result.prediction
        if question is None or prediction.activation is None:
            return Compared(prediction, None)
        found = await self._off_loop(lambda: self._inference.map_of(fitted, question, prediction))
        return Compared(prediction, found.map)

    def forecast(self, question: Question) -> float:
        """The seconds of an answer to `question` if nothing else runs."""
        return self._explainer.forecast(question)

    def charge(self, question: Question | None, images: int, timing: Timing) -> None:
        """Takes the forward passes of a request from its caller's allowance: those of `question`
        at most, if there is one, and one for the prediction, for each of so many images.

        Raises:
            InvalidParameter: there are more than a request may have.
            TooManyRequests: the allowance is used up.
        """
        each = 1
        if question is not None:
            check_passes(question, images, self._max_passes)
            each += 0 if self.in_one_pass(question) else question.most_passes
        self.allowances.charge(timing.caller, PASSES, float(images * each))

    async def explain(
        self,
        sent: Sent,
        question: Question,
        seen: Seen,
        timing: Timing,
        share: float = 1.0,
    ) -> Attribution:
        """The map that answers `question`, or a cheaper one where time is short.

        It should end within `share` of the time left: the rest belongs to later images of the
        request.

        Raises:
            TooManyRequests: the explain queue is full.
            Unavailable: not even the cheapest answer fits before the deadline.
            DeadlineExceeded: the deadline passed in the queue or on the way.
        """
        if (noted := account.current.get()) is not None:
            noted.ask(question.method.name)
        if seen.attribution is not None:
            return seen.attribution
        prediction = seen.prediction
        if prediction.activation is not None:
            return await self._explain_at_once(sent, question, prediction, timing)
        spare = (1 - share) * (timing.deadline - time.perf_counter())
        task = ExplanationTask(sent.fitted, question, prediction.logits, spare)
        try:
            done = await self._explain.run(task, timing.deadline, timing.caller.name)
        except Exception:
            self.metrics.explanations(question.method.name, "refused").inc()
            raise
        method = done.result.question.method.name
        timing.add("queue", done.queue_seconds, ago=done.run_seconds, lane="explain")
        timing.add("explain", done.run_seconds, lane="explain", method=method)
        self._count_explanation(question, done.result, done.run_seconds)
        return done.result

    def in_one_pass(self, question: Question) -> bool:
        """True if the answer to `question` is made of what the prediction computes."""
        one_pass = self.engine.one_pass and question.graph == folder.CAM
        return one_pass and question.quality == "basic"

    async def _explain_at_once(
        self, sent: Sent, question: Question, prediction: Prediction, timing: Timing
    ) -> Attribution:
        """The map of a prediction with its activation; it takes no queue and no device."""
        answer = partial(self._inference.map_of, sent.fitted, question, prediction)
        started = time.perf_counter()
        # The head of most networks is linear, and then it runs nothing.
        brief = self.engine.bias is not None and sent.fitted[:, :, 0].size <= SMALL_MAP
        if brief or isinstance(self._predict, LoopLane):
            found = answer()
        else:
            found = await self._off_loop(answer)
        seconds = time.perf_counter() - started
        timing.add("explain", seconds, method=question.method.name)
        self._count_explanation(question, found, seconds)
        return found

    async def overlay(
        self,
        sent: Sent,
        attribution: Attribution,
        timing: Timing,
        below: Legend | None = None,
        form: Format = "png",
    ) -> bytes:
        """The map over the image as a file, with the legend `below` it if there is one."""
        assert sent.ground is not None
        draw = partial(draw_overlay, self.engine, sent.ground, sent, attribution, below, form)
        with timing.of("render"):
            small = below is None and sent.width * sent.height <= SMALL_OVERLAY
            return await self._do(draw, quick=small)

    def close(self) -> None:
        """Finishes what waits; later requests are rejected."""
        self._predict.close()
        self._explain.close()
        if self._owns_resources:
            self._resources.close()

    def _predict_lane(self) -> PredictLane:
        seconds, run = self.engine.quick_seconds, self._inference.run
        queue: Queue[Asked, Seen] = Queue(
            "predict",
            capacity=min(MOST, max(FEWEST, round(WAIT_SECONDS / (seconds + REQUEST_SECONDS)))),
            most_rows=self.engine.batch_rows,
            metrics=QueueMetrics.of(self.metrics, "predict"),
        )
        if seconds < QUICK_SECONDS and self._on_loop:
            return LoopLane(queue, run, callers=lambda: self._shared_state.connections)
        return ThreadLane(queue, run, "predict")

    def _deadline_explainer(self) -> DeadlineExplainer:
        # It needs the lane, which needs it.
        return DeadlineExplainer(
            self.engine,
            self._shared_state,
            pressed=lambda ticket: self._explain.queue.presses(ticket),  # noqa: PLW0108
            rest=lambda seconds: self._explain.interject(seconds),  # noqa: PLW0108
            interjected_at=lambda: self._explain.queue.interjected_at,
        )

    def _explain_lane(self) -> InterjectingLane[ExplanationTask, Attribution]:
        explainer = self._explainer
        queue: FairQueue[ExplanationTask, Attribution] = FairQueue(
            "explain",
            expected_seconds=explainer.expected_seconds,
            least_seconds=explainer.least_seconds,
            capacity=FEWEST,
            metrics=QueueMetrics.of(self.metrics, "explain"),
        )
        return InterjectingLane(
            queue, lambda batch: [explainer(ticket) for ticket in batch], "explain"
        )

    def _rehearse(self) -> None:
        """Decodes every usual format and writes a PNG once."""
        # Pillow loads its codecs at their first use, and no request should wait for that.
        image = self_test_image(self.engine.manifest.input.size)[0]
        for kind in USUAL:
            body = decode.encode(image, kind)
            sent = fit_image(body, self.engine.manifest.input, self.max_pixels, keep=True)
        assert sent.ground is not None
        picture(sent.ground)

    def _charge_pixels(self, count: int, timing: Timing) -> None:
        self.allowances.charge(timing.caller, MEGAPIXELS, count / 1e6)

    def _count(self, prediction: Prediction) -> None:
        best, familiarity = prediction.best, prediction.familiarity
        metrics = self.model_metrics
        metrics.predictions[best.index].inc()
        if self._notes_labels and (noted := account.current.get()) is not None:
            noted.predict(best.label)
        metrics.confidence.observe(best.probability)
        score = math.nan if familiarity is None else familiarity.score
        metrics.window.add(best.probability, score, float(best.index))
        if familiarity is not None:
            metrics.familiarity.observe(familiarity.score)
            if not familiarity.familiar:
                metrics.unfamiliar.inc()

    def _count_explanation(self, question: Question, answer: Attribution, seconds: float) -> None:
        name = question.method.name
        outcome = "degraded" if answer.degraded_from else "answered"
        if answer.degraded_from and (noted := account.current.get()) is not None:
            noted.ask(answer.question.method.name, answer.degraded_from.method.name)
        self.metrics.explanations(name, outcome).inc()
        self.metrics.explanation_seconds(name).observe(seconds)
        gap = answer.quality.get("completeness_gap")
        if gap is not None:
            self.metrics.completeness_gap.labels(name).observe(gap)
        likeness = answer.quality.get("class_cosine")
        if likeness is not None:
            self.metrics.class_cosine.labels(name).observe(likeness)

    async def _receive_leased(
        self, opened: Opened, lease: Lease, *, keep: bool, masked: bool
    ) -> Sent:
        """The image, with the `lease` if it still needs that."""
        spec = self.engine.manifest.input
        large = lease.held_bytes > self.budgets.images.small_bytes
        fit = partial(fit_opened, opened, spec, keep=keep)
        try:
            with self._predict.queue.reserve():
                sent = await self._do(
                    fit,
                    quick=opened.is_quick and self._decodes_quick,
                    threads=self._large_thread if large else self._threads,
                )
        except BaseException:
            lease.release()
            raise
        if keep or masked:
            return sent._replace(lease=lease)
        lease.release()
        return sent

    async def _do(
        self,
        work: Callable[[], Result],
        *,
        quick: bool,
        threads: ThreadPoolExecutor | None = None,
    ) -> Result:
        """Does `quick` work at once while this turn of the loop has time, all other on a thread."""
        if quick and self._loop_time.is_left:
            with self._loop_time.spend():
                return work()
        return await self._off_loop(work, threads)

    async def _off_loop(
        self, work: Callable[[], Result], threads: ThreadPoolExecutor | None = None
    ) -> Result:
        job = (threads or self._threads).submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            # Its memory is in use until the thread is done.
            if not job.cancel():
                await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)
            raise
        finally:
            # Its exception holds this frame, which would hold it: a cycle with the whole image.
            del job


def _note_image() -> None:
    if (noted := account.current.get()) is not None:
        noted.images += 1
