"""KServe's V1 protocol: POST /v1/models/NAME:predict and :explain, which are /predict and /explain in other words.

The body is JSON: {"instances": [image, …]}, an image as {"image_bytes": {"b64": base64}}, {"b64": base64} or the base64 text itself;
parameters are further fields, or stand in the query. An instance that cannot be answered fails the request.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol; "b64" is TensorFlow Serving's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api import body as request_body
from service.api import parameters
from service.api.body import Submission
from service.api.native import JSON, Native
from service.api.parameters import Options
from service.api.tasks import cancel_on_disconnect
from service.errors import MalformedRequest, NotFound, short
from service.schedule.pipeline import Pipeline
from service.schedule.timing import Timing

PREFIX = "/v1"

Documents = list[dict[str, Any]]


class KServeV1:
    """The endpoints over those of the native API."""

    def __init__(self, pipeline: Pipeline, native: Native, max_body_bytes: int) -> None:
        self._pipeline = pipeline
        self._native = native
        self._manifest = pipeline.engine.manifest
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes that it serves."""
        model = f"{PREFIX}/models/{{name}}"
        return [
            Route(f"{model}:predict", self.predict, methods=["POST"]),
            Route(f"{model}:explain", self.explain, methods=["POST"]),
            Route(f"{PREFIX}/models", self.models),
            Route(model, self.model),
        ]

    async def models(self, _request: Request) -> Response:
        """GET /v1/models."""
        return _json({"models": [self._manifest.name]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._check(request)
        return _json({"name": self._manifest.name, "ready": True})

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/NAME:predict."""
        return await self._answer(
            request, parameters.of_predict, lambda documents: {"predictions": documents}
        )

    async def explain(self, request: Request) -> Response:
        """POST /v1/models/NAME:explain."""
        return await self._answer(request, parameters.of_explain, _apart)

    async def _answer(
        self,
        request: Request,
        choose: Callable[..., Options],
        tell: Callable[[Documents], Mapping[str, Any]],
    ) -> Response:
        self._check(request)
        timing = Timing(self._pipeline.metrics)
        with timing.of("read"):
            body = await request_body.body_of(request, self._max_body_bytes)
            submission = request_body.merged(read(body), request_body.query_of(request))
        chosen = choose(self._manifest, submission.options)

        async def work() -> Response:
            return _json(
                tell(await self._native.documents("instance", submission.bodies, chosen, timing))
            )

        return await cancel_on_disconnect(request, work())

    def _check(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._manifest.name:
            raise NotFound(f"there is no model {short(name)}; {self._manifest.name!r} is served")


def read(body: bytes) -> Submission:
    """The instances in `body`, and its other fields as options.

    Raises:
        MalformedRequest: it is no JSON, or holds no list of instances.
        InvalidParameter: more than 64 instances.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(
            f'the body is no JSON ({error}): send {{"instances": [{{"b64": "<base64>"}}]}}'
        ) from None
    instances = document.pop("instances", None) if isinstance(document, dict) else None
    if not isinstance(instances, list) or not instances:
        raise MalformedRequest(
            '"instances" is no list, or an empty one: send {"instances": [{"b64": "<base64>"}]}'
        )
    return request_body.checked(
        Submission(tuple(_image(instance) for instance in instances), many=True, options=document)
    )


def _image(instance: object) -> bytes | MalformedRequest:
    inner = instance.get("image_bytes", instance) if isinstance(instance, dict) else instance
    return request_body.from_base64("image", inner.get("b64") if isinstance(inner, dict) else inner)


def _apart(documents: Documents) -> Mapping[str, Any]:
    explanations = [document.pop("explanation") for document in documents]
    return {"predictions": documents, "explanations": explanations}


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
