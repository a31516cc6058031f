"""The way of a picture: bytes → fitted pixels → logits → prediction → explanation → overlay, none of it on the event loop.

Pictures are decoded and overlays drawn on a few threads; inference and explanation each have a lane. Every stage is timed.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from service import images, masks
from service.bundle import Input
from service.engine import MAX_ROWS, Engine
from service.errors import RequestError
from service.explain import Attribution, Question, explain, legend, masked, render, segments
from service.explain.legend import Legend
from service.images import Pixels
from service.lanes import Lane
from service.metrics import Metrics
from service.predictions import Prediction, predict
from service.settings import Settings

PREDICT_CAPACITY, EXPLAIN_CAPACITY = 512, 64

Fitted = UInt8[np.ndarray, "size size 3"]
Logits = Float32[np.ndarray, " classes"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sent:
    """A picture as it arrived: `fitted` for the network, its own size in pixels and format; `ground` is what an overlay is drawn on."""

    fitted: Fitted
    width: int
    height: int
    format: str
    ground: Pixels | None


@dataclass
class Timing:
    """Seconds by stage, of one picture."""

    metrics: Metrics
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, seconds: float) -> None:
        """Counts `seconds` for `stage`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.metrics.stage_seconds.labels(stage).observe(seconds)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Times what is inside."""
        started = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started)

    def milliseconds(self) -> dict[str, float]:
        """By stage, and `total` since the timing began."""
        return {
            stage: round(1000 * value, 3) for stage, value in (*self.seconds.items(), ("total", time.perf_counter() - self.started))
        }


class Pipeline:
    """The stages over one engine; `close` finishes what is waiting."""

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.engine = engine
        self.metrics = metrics
        self._max_pixels = settings.max_pixels
        self._threads = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1), thread_name_prefix="pictures")
        self._predict = Lane("predict", self._infer, most_rows=MAX_ROWS, capacity=PREDICT_CAPACITY, metrics=metrics)
        self._explain = Lane("explain", self._attribute, most_rows=1, capacity=EXPLAIN_CAPACITY, metrics=metrics)

    async def receive(self, body: bytes, timing: Timing, *, keep: bool) -> Sent:
        """Decodes and fits a picture; `keep` its ground for an overlay.

        Raises:
            RequestError: it is no picture that can be taken.
        """
        with timing.of("decode"):
            try:
                return await self._off_loop(lambda: receive(body, self.engine.manifest.input, self._max_pixels, keep=keep))
            except RequestError as error:
                self.metrics.images_rejected.labels(error.code).inc()
                raise

    async def cut(self, sent: Sent, mask: bytes, question: Question, timing: Timing) -> Question:
        """`question`, asked of the segments of `mask`.

        Raises:
            InvalidParameter: it is no mask of this picture.
        """
        with timing.of("decode"):
            return await self._off_loop(lambda: cut(sent, mask, question, self.engine.manifest.input))

    async def predict(self, sent: Sent, top_k: int, timing: Timing) -> Prediction:
        """The prediction of one picture.

        Raises:
            TooManyRequests: the lane is full.
        """
        done = await self._predict.run(sent.fitted)
        timing.add("queue", done.queue_seconds)
        timing.add("infer", done.run_seconds)
        prediction = predict(done.result, self.engine.manifest, top_k)
        self.metrics.predictions.labels(prediction.best.label).inc()
        self.metrics.confidence.observe(prediction.best.probability)
        return prediction

    async def explain(self, sent: Sent, question: Question, prediction: Prediction, timing: Timing) -> Attribution:
        """The map that answers `question`.

        Raises:
            TooManyRequests: the lane is full.
        """
        name = question.method.name
        try:
            done = await self._explain.run((sent.fitted, question, prediction.logits))
        except Exception:
            self.metrics.explanations.labels(name, "refused").inc()
            raise
        timing.add("queue", done.queue_seconds)
        timing.add("explain", done.run_seconds)
        self.metrics.explanations.labels(name, "answered").inc()
        self.metrics.explanation_seconds.labels(name).observe(done.run_seconds)
        if "completeness_gap" in done.result.quality:
            self.metrics.completeness_gap.labels(name).observe(done.result.quality["completeness_gap"])
        return done.result

    async def overlay(self, sent: Sent, attribution: Attribution, timing: Timing, told: Legend | None = None) -> bytes:
        """The map over the picture, as a PNG, with the legend below it if one is `told`."""
        assert sent.ground is not None
        ground = sent.ground
        with timing.of("render"):
            return await self._off_loop(lambda: draw(self.engine, ground, sent, attribution, told))

    def close(self) -> None:
        """Finishes what is waiting, then refuses the rest."""
        self._predict.close()
        self._explain.close()
        self._threads.shutdown()

    def _infer(self, batch: list[Fitted]) -> list[Logits]:
        return list(self.engine.predict(np.stack(batch)).logits)

    def _attribute(self, batch: list[tuple[Fitted, Question, Logits]]) -> list[Attribution]:
        return [explain(self.engine, pixels, question, logits) for pixels, question, logits in batch]

    async def _off_loop(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def receive(body: bytes, spec: Input, max_pixels: int, *, keep: bool) -> Sent:
    """Decodes and fits a picture; `keep` its ground for an overlay.

    Raises:
        RequestError: it is no picture that can be taken.
    """
    picture = images.decode(body, max_pixels)
    ground = render.ground(picture.pixels) if keep else None
    return Sent(images.fit(picture.pixels, spec), picture.width, picture.height, picture.format, ground)


def cut(sent: Sent, mask: bytes, question: Question, spec: Input) -> Question:
    """`question`, asked of the segments of `mask`.

    Raises:
        InvalidParameter: it is no mask of this picture.
    """
    labels = images.fit_labels(masks.decode(mask, sent.width, sent.height), spec)
    return masked(question, segments.of_labels(labels))


def draw(engine: Engine, ground: Pixels, sent: Sent, attribution: Attribution, told: Legend | None = None) -> bytes:
    """The overlay of a map as a PNG, with the legend below it if one is `told`."""
    if told is not None:
        ground = render.ground(ground, legend.LEAST_WIDTH)
    box = images.view(sent.width, sent.height, engine.manifest.input)
    across, down = ground.shape[1] / sent.width, ground.shape[0] / sent.height
    placed = images.Box(box.left * across, box.top * down, box.right * across, box.bottom * down)
    overlay = render.overlay(ground, attribution.map, placed, attribution.question.method.scale)
    return render.png(overlay if told is None else legend.below(overlay, told))
