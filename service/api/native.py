"""Candor's own routes: POST /predict and /explain, GET /model, /methods, /openapi.json, /schema.json and /metrics."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api import body as request_body
from service.api import parameters, problems, responses
from service.api.card import HTML, MARKDOWN, Card
from service.api.parameters import Options
from service.api.tasks import cancel_on_disconnect, gather_rows
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.bundle.reference import Reference
from service.errors import InvalidParameter, MalformedRequest, NotAcceptable, NotFound, RequestError
from service.explain import Attribution
from service.explain.legend import legend_of
from service.predictions import Prediction
from service.schedule.pipeline import Pipeline, Sent
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import CONTENT_TYPE

JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"
ANY = "*/*"


class Answered(NamedTuple):
    """One image, all the way."""

    sent: Sent
    prediction: Prediction
    attribution: Attribution | None
    overlay: bytes | None
    timing: Timing


class Native:
    """The endpoints over one pipeline."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, settings: Settings) -> None:
        """What does not depend on a request is written once, here."""
        self._pipeline = pipeline
        self._max_body_bytes = settings.max_body_bytes
        self._reference = Reference.of(bundle, settings.reference)
        self._manifest: Manifest = bundle.manifest
        self._model = responses.model(self._manifest)
        self._plain = parameters.of_predict(self._manifest, {})
        self._card = Card.of(bundle)
        self._documents = {
            "/model": orjson.dumps(responses.public_manifest(pipeline.engine)),
            "/methods": orjson.dumps(responses.methods(self._manifest)),
        }

    def routes(self) -> list[Route]:
        """The routes that it serves."""
        return [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/explain", self.explain, methods=["POST"]),
            Route("/model/card", self.card),
            *([Route("/reference/{row:int}", self.reference)] if self._reference.folder else []),
            Route("/metrics", self.metrics),
            *(Route(path, document(body)) for path, body in self._documents.items()),
        ]

    @property
    def shows_references(self) -> bool:
        """Whether /reference/{row} is served."""
        return self._reference.folder is not None

    async def predict(self, request: Request) -> Response:
        """POST /predict."""
        _accept(request, (JSON,))
        timing = Timing(self._pipeline.metrics)
        submission = await self._read(request, timing)
        chosen = self._plain
        if submission.options or submission.mask is not None:
            chosen = parameters.of_predict(self._manifest, submission.options, submission.mask)
        timing.allow(chosen.deadline_ms)
        if chosen.question is None and not self._pipeline.backlogged:
            return await self._json(submission, chosen, timing)
        return await cancel_on_disconnect(request, self._json(submission, chosen, timing))

    async def explain(self, request: Request) -> Response:
        """POST /explain; the Accept header chooses JSON, the overlay itself or the raw map."""
        kind = _accept(request, (JSON, PNG, NPY))
        timing = Timing(self._pipeline.metrics)
        submission = await self._read(request, timing)
        chosen = parameters.of_explain(self._manifest, submission.options, submission.mask)
        timing.allow(chosen.deadline_ms)
        return await cancel_on_disconnect(
            request, self._explained(submission, chosen, kind, timing)
        )

    async def _explained(
        self, submission: request_body.Submission, chosen: Options, kind: str, timing: Timing
    ) -> Response:
        if kind == JSON:
            return await self._json(submission, chosen, timing)
        if submission.many:
            raise InvalidParameter(
                f"{len(submission.bodies)} images were sent and {kind} can show one: send one, or accept {JSON}"
            )
        wanted = replace(chosen, map="overlay" if kind == PNG else "array")
        answered = await self._answer(submission.bodies[0], wanted, timing)
        assert answered.attribution is not None
        return Response(
            answered.overlay if kind == PNG else responses.npy(answered.attribution),
            media_type=kind,
        )

    async def documents(
        self,
        name: str,
        bodies: Sequence[bytes | MalformedRequest],
        chosen: Options,
        request: Timing,
    ) -> list[dict[str, Any]]:
        """What is answered to each of several images, of a `request` that began some time ago.

        Raises:
            RequestError: one cannot be answered; the message calls it `name` with its number.
        """
        return await gather_rows(
            name, (self._document_for(body, chosen, request) for body in bodies)
        )

    async def card(self, request: Request) -> Response:
        """GET /model/card; the Accept header chooses Markdown or a page."""
        kind = _accept(request, (MARKDOWN, HTML))
        if self._card is None:
            raise NotFound("this model has no card")
        return await self._card.answer(request, kind)

    async def reference(self, request: Request) -> Response:
        """GET /reference/ROW: a reference image; only where the operator supplies them."""
        body = await asyncio.to_thread(self._reference.image, request.path_params["row"])
        return Response(body, media_type=PNG, headers={"Cache-Control": "max-age=86400"})

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics."""
        return Response(self._pipeline.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _read(self, request: Request, timing: Timing) -> request_body.Submission:
        with timing.of("read"):
            return await request_body.read(request, self._max_body_bytes)

    async def answer(
        self, submission: request_body.Submission, chosen: Options, timing: Timing
    ) -> dict[str, Any]:
        """The JSON document that answers a submission."""
        if not submission.many:
            answered = await self._answer(submission.bodies[0], chosen, timing)
            return {"model": self._model, **self._document_of(answered, chosen)}
        results = await asyncio.gather(
            *(self._result(body, chosen, timing) for body in submission.bodies)
        )
        return {"model": self._model, "results": results}

    async def _json(
        self, submission: request_body.Submission, chosen: Options, timing: Timing
    ) -> Response:
        return self._encoded(await self.answer(submission, chosen, timing), timing)

    async def _result(
        self, body: bytes | MalformedRequest, chosen: Options, request: Timing
    ) -> Mapping[str, Any]:
        """One of several: its answer, or its own problem."""
        try:
            return await self._document_for(body, chosen, request)
        except RequestError as error:
            return {"error": problems.problem(error)}
        except Exception as error:  # noqa: BLE001 - its neighbours are answered all the same
            return {"error": problems.problem(problems.defect(error))}

    async def _document_for(
        self, body: bytes | MalformedRequest, chosen: Options, request: Timing
    ) -> dict[str, Any]:
        timing = Timing(self._pipeline.metrics, request.started)
        timing.allow(chosen.deadline_ms)
        return self._document_of(await self._answer(body, chosen, timing), chosen)

    async def _answer(
        self, body: bytes | MalformedRequest, chosen: Options, timing: Timing
    ) -> Answered:
        if isinstance(body, MalformedRequest):
            raise body
        question, drawn = chosen.question, chosen.question is not None and chosen.map != "array"
        sent = await self._pipeline.receive(body, timing, keep=drawn)
        if question is not None and chosen.mask is not None:
            question = await self._pipeline.cut(sent, chosen.mask, question, timing)
        prediction = await self._pipeline.predict(
            sent, chosen.asked, timing, explained=question is not None
        )
        attribution = overlay = None
        if question is not None:
            attribution = await self._pipeline.explain(sent, question, prediction, timing)
            told = (
                legend_of(attribution, self._manifest, prediction.logits) if chosen.legend else None
            )
            overlay = (
                await self._pipeline.overlay(sent, attribution, timing, told) if drawn else None
            )
        return Answered(sent, prediction, attribution, overlay, timing)

    def _document_of(self, answered: Answered, chosen: Options) -> dict[str, Any]:
        document = responses.prediction(answered.prediction, answered.sent) | responses.nearest(
            answered.prediction, self._reference
        )
        if answered.attribution is not None:
            document["explanation"] = responses.explanation(
                answered.attribution,
                self._manifest,
                answered.overlay,
                array=chosen.map != "overlay",
            )
        return document | {"timing_ms": answered.timing.milliseconds()}

    def _encoded(self, document: Mapping[str, Any], timing: Timing) -> Response:
        with timing.of("encode"):
            return Response(orjson.dumps(document), media_type=JSON)


def _accept(request: Request, offered: tuple[str, ...]) -> str:
    """The first of `offered` that the caller takes, by the order of its Accept header.

    Raises:
        NotAcceptable: none of them.
    """
    header = request.headers.get("accept", ANY)
    if header == ANY:
        return offered[0]
    for entry in header.split(","):
        kind = entry.partition(";")[0].strip().lower()
        match = next((o for o in offered if kind in (o, o.partition("/")[0] + "/*", ANY, "")), None)
        if match:
            return match
    raise NotAcceptable(f"Accept is {header[:80]!r}; there is {', '.join(offered)}")


def document(body: bytes) -> Callable[[Request], Any]:
    """The endpoint of a JSON document that is written once."""

    async def answer(_request: Request) -> Response:
        return Response(body, media_type=JSON)

    return answer
