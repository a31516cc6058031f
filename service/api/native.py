"""Candor's own routes: POST /predict and /explain, the documents about the model, and /metrics."""

import asyncio
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api import body as request_body
from service.api import parameters, problems, responses
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.card import HTML, MARKDOWN, Card
from service.api.negotiation import ANY, preferred, takes_gzip
from service.api.parameters import Options
from service.api.payload import Payload, SentImage
from service.api.tasks import cancel_on_disconnect, gather_rows, timing_of
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.bundle.reference import Reference
from service.errors import InvalidParameter, NotFound, RequestError
from service.explain import Attribution
from service.explain.legend import legend_of
from service.image.budget import ANSWER_COPIES, Lease
from service.image.header import LARGE_BYTES
from service.predictions import Prediction
from service.schedule.pipeline import Pipeline, Sent
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import CONTENT_TYPE

JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"
WARNINGS = "Candor-Warnings"  # the header of answers that are not JSON
# Reference images belong to the bundle: they cannot change while it is served.
REFERENCE_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    "X-Content-Type-Options": "nosniff",
}


class ImageResult(NamedTuple):
    """Everything that the pipeline computed for one image; `overlay` is a PNG file."""

    sent: Sent
    prediction: Prediction
    attribution: Attribution | None
    overlay: bytes | None
    timing: Timing


class Native:
    """The native endpoints over one pipeline."""

    def __init__(
        self, pipeline: Pipeline, bundle: Bundle, settings: Settings, limits: Limits
    ) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._reference = Reference.of(bundle, settings.reference)
        self._manifest: Manifest = bundle.manifest
        self._model = responses.model(self._manifest)
        # Most predictions come without parameters: their options are checked once.
        self._default_options = parameters.of_predict(self._manifest, {})
        self._card = Card.of(bundle)
        self._documents = {
            "/model": orjson.dumps(responses.public_manifest(pipeline.engine)),
            "/methods": orjson.dumps(
                responses.methods(self._manifest, pipeline.defaults, pipeline.forecast)
            ),
        }

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        reference = GuardedRoute("/reference/{row:int}", guard.DOCUMENTS, self.reference)
        return [
            GuardedRoute("/predict", guard.PREDICT, self.predict, ["POST"]),
            GuardedRoute("/explain", guard.EXPLAIN, self.explain, ["POST"]),
            GuardedRoute("/model/card", guard.ADMIN, self.card),
            *([reference] if self.shows_references else []),
            GuardedRoute("/metrics", guard.METRICS, self.metrics),
            *(
                GuardedRoute(path, guard.DOCUMENTS, document(body))
                for path, body in self._documents.items()
            ),
        ]

    @property
    def shows_references(self) -> bool:
        """True if the bundle or its operator has the reference images: then they are served."""
        return self._reference.has_images

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        _accepted_type(request, (JSON,))
        timing = timing_of(request, self._pipeline)
        payload = await self._read(request, timing)
        options = self._default_options
        if payload.parameters or payload.mask is not None:
            options = parameters.of_predict(
                self._manifest, payload.parameters, payload.mask, self._pipeline.defaults
            )
            if options.question is not None:
                guard.require(request, guard.EXPLAIN)
        timing.allow(options.deadline_ms)
        # Without a backlog the prediction is about to run: cancelling it would save nothing.
        if options.question is None and not self._pipeline.backlogged:
            return await self._json(payload, options, timing)
        return await cancel_on_disconnect(request, self._json(payload, options, timing))

    async def explain(self, request: Request) -> Response:
        """POST /explain; the Accept header selects JSON, the overlay or the raw map."""
        kind = _accepted_type(request, (JSON, PNG, NPY))
        timing = timing_of(request, self._pipeline)
        payload = await self._read(request, timing)
        options = parameters.of_explain(
            self._manifest, payload.parameters, payload.mask, self._pipeline.defaults
        )
        timing.allow(options.deadline_ms)
        return await cancel_on_disconnect(request, self._explained(payload, options, kind, timing))

    async def _explained(
        self, payload: Payload, options: Options, kind: str, timing: Timing
    ) -> Response:
        if kind == JSON:
            return await self._json(payload, options, timing)
        if payload.is_list:
            raise InvalidParameter(
                f"{len(payload.images)} images were sent, but {kind} holds one: "
                f"send one, or accept {JSON}"
            )
        options = replace(options, map="overlay" if kind == PNG else "array")
        self._pipeline.charge(options.question, 1, timing)
        result = await self._result(payload.images[0], options, timing)
        assert result.attribution is not None
        content = result.overlay if kind == PNG else responses.npy(result.attribution)
        warnings = (*options.warnings, *result.attribution.warnings)
        return Response(content, headers=_warning_headers(warnings), media_type=kind)

    async def documents(
        self, name: str, images: Sequence[SentImage], options: Options, request: Timing
    ) -> list[dict[str, Any]]:
        """Answers several images of a `request` that began earlier; one failure fails all.

        Raises:
            RequestError: of the image that failed; the message calls it `name` with its number.
        """
        self._pipeline.charge(options.question, len(images), request)
        with self._limits.budget.take() as answers:
            return await gather_rows(
                name,
                (
                    self._document_for(image, each, request, answers)
                    for image, each in _shared(images, options)
                ),
            )

    async def card(self, request: Request) -> Response:
        """GET /model/card; the Accept header selects Markdown or a page."""
        kind = _accepted_type(request, (MARKDOWN, HTML))
        if self._card is None:
            raise NotFound("this model has no card")
        return await self._card.answer(request, kind)

    async def reference(self, request: Request) -> Response:
        """GET /reference/ROW: a reference image as the network sees it."""
        # Reading and decoding a file would block the event loop.
        body = await asyncio.to_thread(self._reference.image, request.path_params["row"])
        return Response(body, media_type=PNG, headers=REFERENCE_HEADERS)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics."""
        return Response(self._pipeline.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _read(self, request: Request, timing: Timing) -> Payload:
        with timing.of("read"):
            return await request_body.read(request, self._limits)

    async def answer(self, payload: Payload, options: Options, timing: Timing) -> dict[str, Any]:
        """Answers a payload with the JSON document of POST /predict or /explain."""
        self._pipeline.charge(options.question, len(payload.images), timing)
        if not payload.is_list:
            result = await self._result(payload.images[0], options, timing)
            return {"model": self._model, **self._document(result, options), **_warned(options)}
        with self._limits.budget.take() as answers:
            results = await asyncio.gather(
                *(
                    self._document_or_error(image, each, timing, answers)
                    for image, each in _shared(payload.images, options)
                )
            )
        return {"model": self._model, "results": results, **_warned(options)}

    async def _json(self, payload: Payload, options: Options, timing: Timing) -> Response:
        return self._encode(await self.answer(payload, options, timing), timing)

    async def _document_or_error(
        self, image: SentImage, options: Options, request: Timing, answers: Lease
    ) -> Mapping[str, Any]:
        try:
            return await self._document_for(image, options, request, answers)
        except RequestError as error:
            return {"error": problems.problem(error)}
        except Exception as error:  # noqa: BLE001 - the other images are answered all the same
            return {"error": problems.problem(problems.defect(error))}

    async def _document_for(
        self, image: SentImage, options: Options, request: Timing, answers: Lease
    ) -> dict[str, Any]:
        # Each image has its own stages; the deadline is that of the request.
        timing = Timing(self._pipeline.metrics, request.started, request.caller)
        timing.allow(options.deadline_ms)
        result = await self._result(image, options, timing)
        if result.overlay is not None:
            # The overlays of many images wait in memory until the last one is drawn.
            answers.grow(ANSWER_COPIES * len(result.overlay))
        return self._document(result, options)

    async def _result(self, image: SentImage, options: Options, timing: Timing) -> ImageResult:
        if isinstance(image, RequestError):
            raise image
        question = options.question
        # Only an overlay needs the image in its own size.
        drawn = question is not None and options.map != "array"
        masked = question is not None and options.mask is not None
        if isinstance(image, bytes):
            sent = await self._pipeline.receive(image, timing, keep=drawn, masked=masked)
        else:
            sent = await self._pipeline.receive_pixels(image, timing, keep=drawn)
        try:
            return await self._answered(sent, options, timing)
        finally:
            sent.release()

    async def _answered(self, sent: Sent, options: Options, timing: Timing) -> ImageResult:
        question = options.question
        if question is not None and options.mask is not None:
            question = await self._pipeline.cut(sent, options.mask, question, timing)
        prediction = await self._pipeline.predict(
            sent, options.prediction, timing, explained=question is not None
        )
        if question is None:
            return ImageResult(sent, prediction, None, None, timing)
        attribution = await self._pipeline.explain(
            sent, question, prediction, timing, options.share
        )
        overlay = await self._overlay(sent, attribution, prediction, options, timing)
        return ImageResult(sent, prediction, attribution, overlay, timing)

    async def _overlay(
        self,
        sent: Sent,
        attribution: Attribution,
        prediction: Prediction,
        options: Options,
        timing: Timing,
    ) -> bytes | None:
        if options.map == "array":
            return None
        legend = None
        if options.legend:
            legend = legend_of(attribution, self._manifest, prediction.logits)
        return await self._pipeline.overlay(sent, attribution, timing, legend)

    def _document(self, result: ImageResult, options: Options) -> dict[str, Any]:
        document = responses.prediction(result.prediction, result.sent)
        document |= responses.nearest(result.prediction, self._reference)
        if result.attribution is not None:
            document["explanation"] = responses.explanation(
                result.attribution,
                self._manifest,
                result.overlay,
                array=options.map != "overlay",
            )
        return document | {"timing_ms": result.timing.milliseconds()}

    def _encode(self, document: Mapping[str, Any], timing: Timing) -> Response:
        with timing.of("encode"):
            return Response(orjson.dumps(document), media_type=JSON)


def _warned(options: Options) -> Mapping[str, Any]:
    return {"warnings": list(options.warnings)} if options.warnings else {}


def _warning_headers(warnings: Sequence[str]) -> Mapping[str, str]:
    """The warnings of an answer that has no field for them."""
    # A header is ASCII, and a warning may repeat the text of a caller.
    text = "; ".join(warnings).encode("ascii", "backslashreplace").decode()
    return {WARNINGS: text} if text else {}


def _shared(images: Sequence[SentImage], options: Options) -> Iterator[tuple[SentImage, Options]]:
    """Each image with its options: the images of a request share the time that it has."""
    for number, image in enumerate(images, start=1):
        yield image, replace(options, share=number / len(images))


def _accepted_type(request: Request, offered: tuple[str, ...]) -> str:
    return preferred(request.headers.get("accept", ANY), offered)


def document(body: bytes) -> Callable[[Request], Any]:
    """The endpoint of a JSON document that never changes; a large one is sent compressed to callers
    that accept gzip.
    """
    headers = {"Vary": "Accept-Encoding"}
    gzipped = gzip.compress(body, mtime=0) if len(body) > LARGE_BYTES else None

    async def answer(request: Request) -> Response:
        if gzipped is None:
            return Response(body, media_type=JSON)
        if takes_gzip(request.headers.get("accept-encoding", "")):
            zipped = headers | {"Content-Encoding": "gzip"}
            return Response(gzipped, headers=zipped, media_type=JSON)
        return Response(body, headers=headers, media_type=JSON)

    return answer
