"""The Open Inference Protocol (KServe's V2) over HTTP: health, metadata, and inference by tensors.

The model is served under several names (`service.api.kserve.views`).

Source: https://github.com/kserve/open-inference-protocol, inference_rest.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

import service
from service.api import body as request_body
from service.api import large
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import BYTES, JSON, Limits
from service.api.kserve import outputs as model_outputs
from service.api.kserve import repository, tensors, views
from service.api.kserve.inference import Inference
from service.api.kserve.tensors import InferenceRequest
from service.api.negotiation import compressed, prefers
from service.api.tasks import cancel_on_disconnect, timing_of
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.schedule.pipeline import Pipeline

PREFIX = "/v2"
PLATFORM = "onnx_onnxv1"
SERVER = {
    "name": "candor",
    "version": service.__version__,
    "extensions": list(tensors.EXTENSIONS),
}


class OpenInference:
    """The endpoints of the V2 protocol over one pipeline."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, limits: Limits) -> None:
        self._pipeline = pipeline
        self.inference = Inference(pipeline)
        self._manifest = bundle.manifest
        self._limits = limits

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        models = (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}")
        return [
            GuardedRoute(PREFIX, guard.DOCUMENTS, self.server),
            GuardedRoute(f"{PREFIX}/health/live", guard.OPEN, self.live),
            GuardedRoute(f"{PREFIX}/health/ready", guard.OPEN, self.ready),
            *(
                GuardedRoute(f"{model}/infer", guard.PREDICT, self.infer, ["POST"])
                for model in models
            ),
            *(GuardedRoute(f"{model}/ready", guard.OPEN, self.model_ready) for model in models),
            *(GuardedRoute(f"{model}/config", guard.DOCUMENTS, self.config) for model in models),
            *(GuardedRoute(f"{model}/stats", guard.DOCUMENTS, self.statistics) for model in models),
            *(GuardedRoute(model, guard.DOCUMENTS, self.model) for model in models),
        ]

    async def server(self, _request: Request) -> Response:
        """GET /v2."""
        return _json(SERVER)

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: always true, because the server listens once the model is warm."""
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        return _json(metadata(self._manifest, self._name_of(request)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        return _json({"name": self._name_of(request), "ready": True})

    async def config(self, request: Request) -> Response:
        """GET /v2/models/NAME/config."""
        described = metadata(self._manifest, self._name_of(request))
        return _json(repository.configuration(described))

    async def statistics(self, request: Request) -> Response:
        """GET /v2/models/NAME/stats."""
        self._name_of(request)
        return _json({"model_stats": [await self.inference.counted()]})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        name = self._name_of(request)
        timing = timing_of(request, self._pipeline)
        with timing.of("read"):
            inference = await self._read(request, name)
        asked = self.inference.asked(name, inference)
        if asked.options.question is not None:
            guard.require(request, guard.EXPLAIN)
        timing.allow(asked.options.deadline_ms)
        answer = await cancel_on_disconnect(
            request, self.inference.answer(asked, timing, tensors.write)
        )
        return await compressed(answer, request.headers.get("accept-encoding", ""))

    async def _read(self, request: Request, name: str) -> InferenceRequest:
        body = await request_body.body_of(request, self._limits)
        json_length = request.headers.get(tensors.HEADER)
        spec, max_pixels = self._manifest.input, self._pipeline.max_pixels
        inference = await large.parse(
            body, lambda: tensors.read(body, json_length, spec, max_pixels)
        )
        if inference.rows[0] is not body:
            return inference
        row = views.find(name, self._manifest).raw_row(body, spec)
        binary = not prefers(request.headers.get("accept", ""), JSON, BYTES)
        return replace(inference, rows=(row,), binary=binary)

    def _name_of(self, request: Request) -> str:
        """The name of the model in the path, which is served."""
        path = request.path_params
        return self.inference.served(path["name"], path.get("version", self._manifest.version))


def metadata(manifest: Manifest, name: str) -> dict[str, Any]:
    """GET /v2/models/NAME. Its input is what a request must have; others may stand in for it."""
    view = views.find(name, manifest)
    return {
        "name": name,
        "versions": [manifest.version],
        "platform": PLATFORM,
        "inputs": [view.described_input(manifest)],
        "outputs": [
            each
            for each in model_outputs.described(manifest)
            if view.output in (None, each["name"])
        ],
    }


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
