"""KServe's V1 protocol: POST /v1/models/NAME:predict and :explain, over the native endpoints.

The body is JSON: {"instances": [image, …]}, an image as {"b64": base64}, the base64 text itself, or
either of them under "image_bytes", "image" or "data". Parameters are further fields, or part of the
query.
One bad instance fails the request: the protocol has no error for one instance.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol; "b64" is
TensorFlow Serving's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api import body as request_body
from service.api import large, parameters, wire
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.native import JSON, Native
from service.api.parameters import Options
from service.api.payload import EncodedImage, Payload, check_counts, from_base64, with_query
from service.api.tasks import cancel_on_disconnect, timing_of
from service.errors import MalformedRequest, NotFound, short
from service.schedule.pipeline import Pipeline

PREFIX = "/v1"
# Of an image in an instance: TensorFlow Serving's, KServe's samples', TorchServe's.
KEYS = ("image_bytes", "image", "data")

Documents = list[wire.Prediction]


class KServeV1:
    """The endpoints of the V1 protocol."""

    def __init__(self, pipeline: Pipeline, native: Native, limits: Limits) -> None:
        self._pipeline = pipeline
        self._native = native
        self._manifest = pipeline.engine.manifest
        self._limits = limits

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        model = f"{PREFIX}/models/{{name}}"
        return [
            GuardedRoute(f"{model}:predict", guard.PREDICT, self.predict, ["POST"]),
            GuardedRoute(f"{model}:explain", guard.EXPLAIN, self.explain, ["POST"]),
            GuardedRoute(f"{PREFIX}/models", guard.DOCUMENTS, self.models),
            GuardedRoute(model, guard.DOCUMENTS, self.model),
        ]

    async def models(self, _request: Request) -> Response:
        """GET /v1/models."""
        return _json({"models": [self._manifest.name]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._check_model(request)
        return _json({"name": self._manifest.name, "ready": True})

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/NAME:predict."""
        return await self._answer(request, parameters.of_predict, _predictions)

    async def explain(self, request: Request) -> Response:
        """POST /v1/models/NAME:explain."""
        return await self._answer(request, parameters.of_explain, _explanations)

    async def _answer(
        self,
        request: Request,
        options_of: Callable[..., Options],
        body_of: Callable[[Documents], Mapping[str, Any]],
    ) -> Response:
        self._check_model(request)
        timing = timing_of(request, self._pipeline)
        with timing.of("read"):
            body = await request_body.body_of(request, self._limits)
            query = request_body.query_of(request)
            payload = with_query(await large.parse(body, lambda: read(body)), query)
        defaults = self._pipeline.defaults
        options = options_of(self._manifest, payload.parameters, defaults=defaults)
        if options.question is not None:
            guard.require(request, guard.EXPLAIN)

        async def work() -> Response:
            documents = self._native.documents("instance", payload.images, options, timing)
            warned = {"warnings": list(options.warnings)} if options.warnings else {}
            return _json({**body_of(await documents), **warned})

        return await cancel_on_disconnect(request, work())

    def _check_model(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._manifest.name:
            raise NotFound(f"there is no model {short(name)}; {self._manifest.name!r} is served")


def read(body: bytes) -> Payload:
    """Reads the instances in `body`; its other fields are parameters.

    Raises:
        MalformedRequest: not JSON, or without a list of instances.
        InvalidParameter: more than 64 instances, or `check_values` fails.
    """
    large.check_values(body)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f'the body is not JSON ({error}): send {{"instances": [{{"b64": "<base64>"}}]}}'
        ) from None
    instances = document.pop("instances", None) if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise MalformedRequest(
            '"instances" is empty, or not a list: send {"instances": [{"b64": "<base64>"}]}'
        )
    images = tuple(_image(instance) for instance in instances)
    return check_counts(Payload(images, is_list=True, parameters=document))


def _image(instance: object) -> EncodedImage:
    if isinstance(instance, dict) and "b64" not in instance:
        instance = next((instance[key] for key in KEYS if key in instance), instance)
    return from_base64("image", instance)


def _predictions(documents: Documents) -> Mapping[str, Any]:
    return {"predictions": documents}


def _explanations(documents: Documents) -> Mapping[str, Any]:
    explanations = [document.pop("explanation") for document in documents]
    return {"predictions": documents, "explanations": explanations}


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
