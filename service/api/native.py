"""Candor's own routes: POST /predict and /explain, the documents about the model, and /metrics."""

import asyncio
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api import body as request_body
from service.api import parameters, problems, responses, wire
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.card import HTML, MARKDOWN, Card
from service.api.negotiation import ANY, compressed, preferred, prefers, takes_gzip
from service.api.parameters import Form, Options
from service.api.payload import Payload, SentImage
from service.api.tasks import cancel_on_disconnect, gather_rows, timing_of
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.bundle.reference import Reference
from service.errors import InvalidParameter, NotFound, RequestError
from service.explain import Attribution, policy
from service.explain.encoding import MEDIA_TYPES, Format
from service.explain.legend import legend_of
from service.explain.policy import Reason
from service.image.budget import ANSWER_COPIES, Lease
from service.image.header import LARGE_BYTES
from service.predictions import Prediction
from service.schedule.pipeline import Pipeline
from service.schedule.sent import Sent
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import CONTENT_TYPE, OPENMETRICS_TYPE

USUAL, SHORT = 64, 256  # options that are remembered, and the characters of their values
ASKING = frozenset(("explain", "when"))  # the parameters that ask for an explanation
JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"
WEBP, JPEG = "image/webp", "image/jpeg"
FORMATS: Mapping[str, Format] = {PNG: "png", WEBP: "webp", JPEG: "jpeg"}
WARNINGS = "Candor-Warnings"  # the header of answers that are not JSON
# Reference images belong to the bundle: they cannot change while it is served.
REFERENCE_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    "X-Content-Type-Options": "nosniff",
}


Answered = TypeVar("Answered", wire.Answer, wire.Answers)


class ImageResult(NamedTuple):
    """Everything that the pipeline computed for one image; `overlay` is a PNG file."""

    sent: Sent
    prediction: Prediction
    timing: Timing
    attribution: Attribution | None = None
    overlay: bytes | None = None
    reason: Reason | None = None


class Native:
    """The native endpoints over one pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        bundle: Bundle,
        settings: Settings,
        limits: Limits,
        prefix: str = "",
    ) -> None:
        """`prefix`: the path of the model, before those of its reference images and plots; only the
        default model, which has none, may show the images of CANDOR_REFERENCE.
        """
        self._pipeline = pipeline
        self._limits = limits
        self._reference = Reference.of(bundle, None if prefix else settings.reference, prefix)
        self._manifest: Manifest = bundle.manifest
        self._model = responses.model(self._manifest)
        self._policy = policy.of_setting(settings.explain, bundle.manifest)
        # Most callers send the same parameters again and again: their options are checked once.
        self._usual_options = lru_cache(USUAL)(self._check)
        self._card = Card.of(bundle, prefix)
        self._documents = {
            "/model": orjson.dumps(responses.public_manifest(pipeline.engine)),
            "/methods": orjson.dumps(
                responses.methods(self._manifest, pipeline.defaults, pipeline.forecast)
            ),
        }

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        return [
            GuardedRoute("/predict", guard.PREDICT, self.predict, ["POST"]),
            GuardedRoute("/explain", guard.EXPLAIN, self.explain, ["POST"]),
            GuardedRoute("/model/card", guard.ADMIN, self.card),
            GuardedRoute("/reference/{row:int}", guard.DOCUMENTS, self.reference),
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
        options = self._options(payload)
        if options.question is not None:
            if ASKING.isdisjoint(payload.parameters) and not guard.allows(request, guard.EXPLAIN):
                options = replace(options, question=None)  # this key lacks the scope
            else:
                guard.require(request, guard.EXPLAIN)
        timing.allow(options.deadline_ms)
        question = options.question
        # Without a backlog the prediction is about to run: cancelling it would save nothing.
        quick = question is None or (
            not options.form.drawn and self._pipeline.in_one_pass(question)
        )
        if quick and not self._pipeline.backlogged:
            return await self._json(payload, options, timing)
        return await cancel_on_disconnect(request, self._json(payload, options, timing))

    def _options(self, payload: Payload) -> Options:
        given = tuple(payload.parameters.items())
        # Texts alone: of JSON's values, true is the same key as 1.
        texts = [value for _, value in given if isinstance(value, str)]
        if payload.mask is None and len(texts) == len(given) and sum(map(len, texts)) <= SHORT:
            return self._usual_options(given)
        return self._check(given, payload.mask)

    def _check(self, given: tuple[tuple[str, Any], ...], mask: bytes | None = None) -> Options:
        defaults = self._pipeline.defaults
        return parameters.of_predict(self._manifest, dict(given), mask, defaults, self._policy)

    async def explain(self, request: Request) -> Response:
        """POST /explain; the Accept header selects JSON, the overlay or the raw map."""
        kind = _accepted_type(request, (JSON, PNG, WEBP, JPEG, NPY))
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
        options = replace(options, form=_form_of(kind, options.form))
        self._pipeline.charge(options.question, 1, timing)
        result = await self._result(payload.images[0], options, timing)
        assert result.attribution is not None
        content = responses.npy(result.attribution) if kind == NPY else result.overlay
        warnings = (*options.warnings, *result.attribution.warnings)
        return Response(content, headers=_warning_headers(warnings), media_type=kind)

    async def documents(
        self, name: str, images: Sequence[SentImage], options: Options, request: Timing
    ) -> list[wire.Prediction]:
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
        if not self.shows_references:
            raise NotFound(
                "this model shows no reference images: set CANDOR_REFERENCE to their folder"
            )
        # Reading and decoding a file would block the event loop.
        body = await asyncio.to_thread(self._reference.image, request.path_params["row"])
        return Response(body, media_type=PNG, headers=REFERENCE_HEADERS)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics; the Accept header selects OpenMetrics, and Accept-Encoding compresses."""
        counted, accept = self._pipeline.metrics, request.headers.get("accept", "")
        # A scraper that asks for neither gets Prometheus's text, as from any other server.
        opened = prefers(accept, _type_of(OPENMETRICS_TYPE), _type_of(CONTENT_TYPE))
        text, kind = (
            (counted.openmetrics(), OPENMETRICS_TYPE) if opened else (counted.text(), CONTENT_TYPE)
        )
        answer = Response(text, headers={"Content-Type": kind})
        await compressed(answer, request.headers.get("accept-encoding", ""))
        answer.headers["vary"] = "Accept, Accept-Encoding"
        return answer

    async def _read(self, request: Request, timing: Timing) -> Payload:
        with timing.of("read"):
            return await request_body.read(request, self._limits)

    async def answer(
        self, payload: Payload, options: Options, timing: Timing
    ) -> wire.Answer | wire.Answers:
        """Answers a payload with the JSON document of POST /predict or /explain."""
        self._pipeline.charge(options.question, len(payload.images), timing)
        if not payload.is_list:
            result = await self._result(payload.images[0], options, timing)
            document = self._document(result, options)
            return _warned(cast("wire.Answer", {"model": self._model, **document}), options)
        with self._limits.budget.take() as answers:
            results = await asyncio.gather(
                *(
                    self._document_or_error(image, each, timing, answers)
                    for image, each in _shared(payload.images, options)
                )
            )
        several: wire.Answers = {"model": self._model, "results": results}
        return _warned(several, options)

    async def _json(self, payload: Payload, options: Options, timing: Timing) -> Response:
        return self._encode(await self.answer(payload, options, timing), timing)

    async def _document_or_error(
        self, image: SentImage, options: Options, request: Timing, answers: Lease
    ) -> wire.Prediction | wire.Failure:
        try:
            return await self._document_for(image, options, request, answers)
        except RequestError as error:
            return {"error": problems.of_an_image(error)}
        except Exception as error:  # noqa: BLE001 - the other images are answered all the same
            return {"error": problems.of_an_image(problems.defect(error))}

    async def _document_for(
        self, image: SentImage, options: Options, request: Timing, answers: Lease
    ) -> wire.Prediction:
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
        drawn = question is not None and options.form.drawn
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
        seen = await self._pipeline.predict(
            sent, options.prediction, timing, question, options.when
        )
        prediction, reason = seen.prediction, seen.reason
        if question is None or reason is None:
            return ImageResult(sent, prediction, timing)
        attribution = await self._pipeline.explain(sent, question, seen, timing, options.share)
        self._count(attribution, reason)
        overlay = await self._overlay(sent, attribution, prediction, options, timing)
        return ImageResult(sent, prediction, timing, attribution, overlay, reason)

    def _count(self, attribution: Attribution, reason: Reason) -> None:
        metrics = self._pipeline.metrics
        metrics.explained(reason).inc()
        if reason in policy.FAIR and (aspects := attribution.aspects) is not None:
            self._pipeline.model_metrics.maps.add(*aspects)

    async def _overlay(
        self,
        sent: Sent,
        attribution: Attribution,
        prediction: Prediction,
        options: Options,
        timing: Timing,
    ) -> bytes | None:
        if not options.form.drawn:
            return None
        legend = None
        if options.form.legend:
            legend = legend_of(attribution, self._manifest, prediction.logits)
        form = options.form.overlay
        return await self._pipeline.overlay(sent, attribution, timing, legend, form)

    def _document(self, result: ImageResult, options: Options) -> wire.Prediction:
        document = responses.prediction(result.prediction, result.sent)
        if result.prediction.nearest:
            document["nearest"] = responses.nearest(result.prediction, self._reference)
        if result.attribution is not None:
            explained = responses.explanation(
                result.attribution,
                self._manifest,
                result.overlay,
                options.form.coded,
                options.form.overlay,
            )
            if result.reason is not None:
                explained["reason"] = result.reason
            document["explanation"] = explained
        return {**document, "timing_ms": result.timing.milliseconds()}

    def _encode(self, document: Mapping[str, Any], timing: Timing) -> Response:
        with timing.of("encode"):
            return Response(orjson.dumps(document), media_type=JSON)


def _form_of(kind: str, form: Form) -> Form:
    """`form` in a response of the media type `kind` alone."""
    if kind == NPY:
        return replace(form, map="array")
    if MEDIA_TYPES[form.overlay] == kind:  # PNG files are of two formats
        return replace(form, map="overlay")
    return replace(form, map="overlay", overlay=FORMATS[kind])


def _warned(answer: Answered, options: Options) -> Answered:
    if options.warnings:
        answer["warnings"] = list(options.warnings)
    return answer


def _warning_headers(warnings: Sequence[str]) -> Mapping[str, str]:
    """The warnings of an answer that has no field for them."""
    # A header is ASCII, and a warning may repeat the text of a caller.
    text = "; ".join(warnings).encode("ascii", "backslashreplace").decode()
    return {WARNINGS: text} if text else {}


def _shared(images: Sequence[SentImage], options: Options) -> Iterator[tuple[SentImage, Options]]:
    """Each image with its options: the images of a request share the time that it has."""
    for number, image in enumerate(images, start=1):
        yield image, replace(options, share=number / len(images))


def _type_of(content_type: str) -> str:
    return content_type.partition(";")[0]


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
