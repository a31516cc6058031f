"""The way of an image: bytes → fitted pixels → logits → prediction → explanation → overlay.

Small images are decoded where they arrive, on the event loop: it takes less than handing them over. Larger ones are decoded, and
overlays drawn, on a few threads. Inference and explanation each have a lane. Every stage is timed, and all of them end by the request's
deadline or say that they cannot.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from service.errors import RequestError, TooManyRequests
from service.explain import Attribution, Question, legend, masked, render, segments
from service.explain.legend import Legend
from service.image import decode, resize
from service.image import mask as image_mask
from service.image.decode import Opened
from service.image.resize import Input, Pixels
from service.predictions import Calibrated, Prediction, PredictionOptions, calibrate, prediction_of
from service.runtime.engine import Engine, self_test_image
from service.schedule.deadlines import Explainer, Job
from service.schedule.lanes import Lane, Ticket
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers import host
from service.workers.shared_state import PREDICTING, SharedState

FEWEST, MOST = (
    128,
    512,
)  # places in a lane: two of the largest requests, or what runs in WAIT_SECONDS
WAIT_SECONDS = (
    0.25  # of predictions may wait; who comes later is refused rather than left to wait longer
)
QUICK_SECONDS = 0.005  # predictions that take less are made on the event loop
PIXELS = "pixels"  # the format of an image that came as such
SMALL_PIXELS = 128 * 128  # takes about as long to decode as to hand over to a thread

Fitted = UInt8[np.ndarray, "size size 3"]
Result = TypeVar("Result")


class Sent(NamedTuple):
    """An image as it arrived: `fitted` for the network, its own size in pixels and format; `ground` is what an overlay is drawn on."""

    fitted: Fitted
    width: int
    height: int
    format: str
    ground: Pixels | None


# The stages of the request, where somebody collects them.


class Pipeline:
    """The stages over one engine; `close` finishes what is waiting."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        metrics: Metrics,
        shared_state: SharedState | None = None,
    ) -> None:
        """`shared_state` are the other processes of the same service, if there are any."""
        self.engine = engine
        self.metrics = metrics
        self._max_pixels = settings.max_pixels
        self._shared_state = shared_state or SharedState()
        self._threads = ThreadPoolExecutor(
            max_workers=min(4, host.cores()), thread_name_prefix="images"
        )
        self._predict = Lane(
            "predict",
            self._infer,
            most_rows=engine.most_rows,
            capacity=min(MOST, max(FEWEST, round(WAIT_SECONDS / engine.quick_seconds))),
            metrics=metrics,
            on_loop=engine.quick_seconds < QUICK_SECONDS,
            callers=lambda: self._shared_state.connections,
        )
        explainer = Explainer(engine, self._shared_state)
        self._explain = Lane(
            "explain",
            lambda batch: [explainer(ticket) for ticket in batch],
            most_rows=1,
            capacity=FEWEST,
            metrics=metrics,
            cost=explainer.least_seconds,
        )
        self._rehearse()

    def refusal(self, ahead: int = 0) -> TooManyRequests | None:
        """The answer to who comes while the lane of predictions is full, before anything is read; `ahead` are let in and not there yet."""
        return self._predict.refusal(ahead)

    def admit(self) -> None:
        """Refuses before anything is read, if predictions wait in great number.

        Raises:
            TooManyRequests: the lane is full.
        """
        self._predict.admit()

    @property
    def backlogged(self) -> bool:
        """Whether more predictions wait than run together."""
        return self._predict.waiting > self.engine.most_rows

    async def receive(self, body: bytes, timing: Timing, *, keep: bool) -> Sent:
        """Decodes and fits an image; `keep` its ground for an overlay.

        Raises:
            RequestError: it is no image that can be taken, or the lane of predictions filled up while it was read.
        """
        spec = self.engine.manifest.input
        with self._predict.coming(), timing.of("decode"):
            try:
                opened = decode.open_header(body, self._max_pixels)
                if opened.pixel_count <= SMALL_PIXELS:
                    return fitted(opened, spec, keep=keep)
                return await self._off_loop(lambda: fitted(opened, spec, keep=keep))
            except RequestError as error:
                self.metrics.images_rejected.labels(error.code).inc()
                raise

    async def fit(self, pixels: Pixels, timing: Timing) -> Sent:
        """Fits an image that came as pixels.

        Raises:
            TooManyRequests: the lane of predictions filled up while they were read.
        """
        height, width = pixels.shape[:2]
        spec = self.engine.manifest.input
        with self._predict.coming(), timing.of("decode"):
            small = height * width <= SMALL_PIXELS
            fitted = (
                resize.to_input(pixels, spec)
                if small
                else await self._off_loop(lambda: resize.to_input(pixels, spec))
            )
        return Sent(fitted, width, height, PIXELS, None)

    async def cut(self, sent: Sent, mask: bytes, question: Question, timing: Timing) -> Question:
        """`question`, asked of the segments of `mask`.

        Raises:
            InvalidParameter: it is no mask of this image.
        """
        with timing.of("decode"):
            return await self._off_loop(
                lambda: cut(sent, mask, question, self.engine.manifest.input)
            )

    async def predict(
        self, sent: Sent, asked: PredictionOptions, timing: Timing, *, explained: bool = False
    ) -> Prediction:
        """The prediction of one image; `explained` if it is only the beginning of an explanation.

        Raises:
            TooManyRequests: the lane is full.
            Unavailable: it cannot be answered by the deadline.
            DeadlineExceeded: it waited too long.
        """
        if not explained:
            self._shared_state.predict()
        done = await self._predict.run(sent.fitted, timing.deadline)
        timing.add("queue", done.queue_seconds, ago=done.run_seconds)
        timing.add("infer", done.run_seconds)
        prediction = prediction_of(done.result, self.engine.manifest, asked)
        self._count(prediction)
        return prediction

    async def explain(
        self, sent: Sent, question: Question, prediction: Prediction, timing: Timing
    ) -> Attribution:
        """The map that answers `question`, or a cheaper one where time is short.

        Raises:
            TooManyRequests: the lane is full.
            Unavailable: not even the cheapest answer can be given by the deadline.
            DeadlineExceeded: it waited or took too long.
        """
        name = question.method.name
        try:
            done = await self._explain.run(
                Job(sent.fitted, question, prediction.logits), timing.deadline
            )
        except Exception:
            self.metrics.explanations.labels(name, "refused").inc()
            raise
        timing.add("queue", done.queue_seconds, ago=done.run_seconds)
        timing.add("explain", done.run_seconds)
        self.metrics.explanations.labels(
            name, "degraded" if done.result.degraded_from else "answered"
        ).inc()
        self.metrics.explanation_seconds.labels(name).observe(done.run_seconds)
        if "completeness_gap" in done.result.quality:
            self.metrics.completeness_gap.labels(name).observe(
                done.result.quality["completeness_gap"]
            )
        return done.result

    async def overlay(
        self, sent: Sent, attribution: Attribution, timing: Timing, told: Legend | None = None
    ) -> bytes:
        """The map over the image, as a PNG, with the legend below it if one is `told`."""
        assert sent.ground is not None
        ground = sent.ground
        with timing.of("render"):
            return await self._off_loop(lambda: draw(self.engine, ground, sent, attribution, told))

    def close(self) -> None:
        """Finishes what is waiting, then refuses the rest."""
        self._predict.close()
        self._explain.close()
        self._threads.shutdown()

    def _rehearse(self) -> None:
        """Decodes every format and writes a PNG once: Pillow loads what it needs for them at the first use, which no request should pay for."""
        image = self_test_image(self.engine.manifest.input.size)[0]
        for kind in decode.FORMATS:
            sent = receive(
                decode.encode(image, kind), self.engine.manifest.input, self._max_pixels, keep=True
            )
        assert sent.ground is not None
        render.png(sent.ground)

    def _count(self, prediction: Prediction) -> None:
        best, known = prediction.best, prediction.familiarity
        self.metrics.predictions[best.index].inc()
        self.metrics.confidence.observe(best.probability)
        self.metrics.window.add(
            best.probability, None if known is None else known.score, best.index
        )
        if known is not None:
            self.metrics.familiarity.observe(known.score)
            if not known.familiar:
                self.metrics.unfamiliar.inc()

    def _infer(self, batch: list[Ticket[Fitted, Calibrated]]) -> list[Calibrated]:
        """A process that computes alone has all cores; several have one each."""
        self.engine.wide = self._shared_state.idle
        with self._shared_state.computing(PREDICTING):
            images = [ticket.item for ticket in batch]
            found = self.engine.predict_quick(
                images[0][None] if len(images) == 1 else np.stack(images)
            )
        return calibrate(found.rows(), found.logits, self.engine.manifest)

    async def _off_loop(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def receive(body: bytes, spec: Input, max_pixels: int, *, keep: bool) -> Sent:
    """Decodes and fits an image; `keep` its ground for an overlay.

    Raises:
        RequestError: it is no image that can be taken.
    """
    return fitted(decode.open_header(body, max_pixels), spec, keep=keep)


def fitted(opened: Opened, spec: Input, *, keep: bool) -> Sent:
    """Unpacks and fits an image; `keep` its ground for an overlay.

    Raises:
        UndecodableImage: it is damaged.
    """
    image = opened.decode()
    ground = render.ground(image.pixels) if keep else None
    return Sent(
        resize.to_input(image.pixels, spec), image.width, image.height, image.format, ground
    )


def cut(sent: Sent, mask: bytes, question: Question, spec: Input) -> Question:
    """`question`, asked of the segments of `mask`.

    Raises:
        InvalidParameter: it is no mask of this image.
    """
    labels = resize.mask_to_input(image_mask.decode(mask, sent.width, sent.height), spec)
    return masked(question, segments.of_labels(labels))


def draw(
    engine: Engine, ground: Pixels, sent: Sent, attribution: Attribution, told: Legend | None = None
) -> bytes:
    """The overlay of a map as a PNG, with the legend below it if one is `told`."""
    if told is not None:
        ground = render.ground(ground, legend.LEAST_WIDTH)
    box = resize.visible_box(sent.width, sent.height, engine.manifest.input)
    across, down = ground.shape[1] / sent.width, ground.shape[0] / sent.height
    placed = resize.Box(box.left * across, box.top * down, box.right * across, box.bottom * down)
    overlay = render.overlay(ground, attribution.map, placed, attribution.question.method.scale)
    return render.png(overlay if told is None else legend.below(overlay, told))
