"""V1, the protocol of KServe, TorchServe and TensorFlow Serving, over the native endpoints.

POST /v1/models/NAME:predict, :explain and :classify take images as `service.api.kserve.instances`
reads them; parameters are further fields, or part of the query. Rows are answered as
{"predictions": […]}, columns as {"outputs": {name: […]}}, :classify as {"results": […]}. One bad
image fails the request: the protocol has no error for one.

Sources: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol;
https://www.tensorflow.org/tfx/serving/api_rest.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api import body as request_body
from service.api import large, parameters, wire
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.kserve import instances
from service.api.native import JSON, Native
from service.api.parameters import Options
from service.api.payload import with_query
from service.api.tasks import cancel_on_disconnect, timing_of
from service.bundle.manifest import Manifest
from service.errors import NotFound, short
from service.predictions import most_top_k
from service.schedule.pipeline import Pipeline

PREFIX = "/v1"
# The version of TensorFlow Serving is a number, and its clients read one.
VERSION, AVAILABLE = "1", {"error_code": "OK", "error_message": ""}
# Fields of a prediction, as a signature of TensorFlow describes outputs.
OUTPUTS = {"label": "DT_STRING", "index": "DT_INT64", "probability": "DT_DOUBLE"}

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
        models = (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}")
        return [route for model in models for route in self._routes_of(model)]

    def _routes_of(self, model: str) -> list[GuardedRoute]:
        return [
            GuardedRoute(f"{model}:predict", guard.PREDICT, self.predict, ["POST"]),
            GuardedRoute(f"{model}:explain", guard.EXPLAIN, self.explain, ["POST"]),
            GuardedRoute(f"{model}:classify", guard.PREDICT, self.classify, ["POST"]),
            GuardedRoute(f"{model}/metadata", guard.DOCUMENTS, self.metadata),
            GuardedRoute(model, guard.DOCUMENTS, self.model),
        ]

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME: KServe's form, and TensorFlow Serving's."""
        self._check_model(request)
        status = {"version": VERSION, "state": "AVAILABLE", "status": AVAILABLE}
        return _json({"name": self._manifest.name, "ready": True, "model_version_status": [status]})

    async def metadata(self, request: Request) -> Response:
        """GET /v1/models/NAME/metadata, in TensorFlow Serving's form."""
        self._check_model(request)
        return _json(signatures(self._manifest))

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/NAME:predict."""
        return await self._answer(request, parameters.of_predict, _predictions)

    async def explain(self, request: Request) -> Response:
        """POST /v1/models/NAME:explain."""
        return await self._answer(request, parameters.of_explain, _explanations)

    async def classify(self, request: Request) -> Response:
        """POST /v1/models/NAME:classify: all classes with their probabilities, or `top_k`."""
        every = {"top_k": most_top_k(self._manifest)}
        return await self._answer(
            request,
            lambda manifest, given, **more: parameters.of_predict(manifest, every | given, **more),
            _classes,
        )

    async def _answer(
        self,
        request: Request,
        options_of: Callable[..., Options],
        body_of: Callable[..., Mapping[str, Any]],
    ) -> Response:
        self._check_model(request)
        timing = timing_of(request, self._pipeline)
        with timing.of("read"):
            body = await request_body.body_of(request, self._limits)
            query = request_body.query_of(request)
            payload, in_columns = await large.parse(
                body,
                lambda: instances.read(body, self._manifest.input, self._pipeline.max_pixels),
            )
        given = with_query(payload, query).parameters
        options = options_of(self._manifest, given, defaults=self._pipeline.defaults)
        if options.question is not None:
            guard.require(request, guard.EXPLAIN)

        async def work() -> Response:
            documents = await self._native.documents("instance", payload.images, options, timing)
            warned = {"warnings": list(options.warnings)} if options.warnings else {}
            return _json({**body_of(documents, in_columns=in_columns), **warned})

        return await cancel_on_disconnect(request, work())

    def _check_model(self, request: Request) -> None:
        name, served = request.path_params["name"], self._manifest.version
        version = request.path_params.get("version", served)
        if name != self._manifest.name or version not in (served, VERSION):
            raise NotFound(
                f"there is no model {short(name)} of version {short(version)}; "
                f"{self._manifest.name!r} of version {served!r}, or {VERSION}, is served"
            )


def signatures(manifest: Manifest) -> dict[str, Any]:
    """The input and the outputs of a prediction, as a signature of TensorFlow."""
    signature = {
        "inputs": {"image": _tensor("image", "DT_STRING")},
        "outputs": {name: _tensor(name, dtype) for name, dtype in OUTPUTS.items()},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": manifest.name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


def _tensor(name: str, dtype: str) -> dict[str, Any]:
    rows = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    return {"dtype": dtype, "tensor_shape": rows, "name": f"{name}:0"}


def _predictions(documents: Documents, *, in_columns: bool) -> Mapping[str, Any]:
    if not in_columns:
        return {"predictions": documents}
    rows: Sequence[Mapping[str, Any]] = documents
    # An explanation may have come along with some of them.
    names = dict.fromkeys(name for row in rows for name in row)
    return {"outputs": {name: [row.get(name) for row in rows] for name in names}}


def _explanations(documents: Documents, *, in_columns: bool) -> Mapping[str, Any]:
    explanations = [document.pop("explanation") for document in documents]
    return {**_predictions(documents, in_columns=in_columns), "explanations": explanations}


def _classes(documents: Documents, **_: object) -> Mapping[str, Any]:
    return {
        "results": [
            [[entry["label"], entry["probability"]] for entry in document["top"]]
            for document in documents
        ]
    }


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type=JSON)
