"""KServe's protocols in the OpenAPI document: the paths under /v1 and /v2."""

import inspect
from typing import Any

from service.api.kserve import repository
from service.api.kserve.tensors import BYTES, HEADER
from service.api.kserve.v2 import ATTRIBUTION, outputs_of
from service.api.openapi.problems import error, errors
from service.api.wire import protocols
from service.api.wire.bodies import IMAGE
from service.api.wire.schemas import Schema, ref, schemas_of
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable

_JSON, _BINARY = "application/json", "application/octet-stream"
TYPES = (
    protocols.Explanations,
    protocols.IndexEntry,
    protocols.InferAnswer,
    protocols.InferRequest,
    protocols.Instances,
    protocols.Live,
    protocols.ModelConfiguration,
    protocols.ModelMetadata,
    protocols.ModelNames,
    protocols.ModelReady,
    protocols.Predictions,
    protocols.ProtocolError,
    protocols.Ready,
    protocols.Server,
    protocols.Statistics,
)


def schemas(manifest: Manifest) -> dict[str, Schema]:
    """The components of both protocols."""
    made = schemas_of(*TYPES)
    made["OutputName"]["properties"]["name"]["enum"] = list(outputs_of(manifest))
    return made


def paths(manifest: Manifest) -> dict[str, Any]:
    """The paths of both protocols, with their operations."""
    name = _path_parameter("name", *repository.names(manifest))
    version = _path_parameter("version", manifest.version)
    documents: dict[str, Any] = {
        "/v2": {"get": _get(protocols.Server)},
        "/v2/health/live": {"get": _get(protocols.Live)},
        "/v2/health/ready": {"get": _get(protocols.Ready)},
        **_v1_paths(_path_parameter("name", manifest.name)),
        "/v2/repository/index": {"post": _index()},
        "/v2/models/stats": {"get": _get(protocols.Statistics)},
    }
    for path, places in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        documents[path] = {"get": _get(protocols.ModelMetadata, *places)}
        documents[f"{path}/ready"] = {"get": _get(protocols.ModelReady, *places)}
        documents[f"{path}/config"] = {"get": _get(protocols.ModelConfiguration, *places)}
        documents[f"{path}/stats"] = {"get": _get(protocols.Statistics, *places)}
        documents[f"{path}/infer"] = {"post": _infer(*places)}
    return documents


def _v1_paths(name: Schema) -> dict[str, Any]:
    predict, explain = "Predict (KServe V1)", "Predict and explain (KServe V1)"
    return {
        "/v1/models": {"get": _get(protocols.ModelNames)},
        "/v1/models/{name}": {"get": _get(protocols.ModelReady, name)},
        "/v1/models/{name}:predict": {"post": _v1(predict, name, protocols.Predictions)},
        "/v1/models/{name}:explain": {"post": _v1(explain, name, protocols.Explanations)},
    }


def _index() -> dict[str, Any]:
    summary = "The models that are served"
    schema = {"type": "array", "items": ref(protocols.IndexEntry)}
    answer = {"description": summary, "content": {_JSON: {"schema": schema}}}
    return {"summary": summary, "responses": {"200": answer}}


def _path_parameter(name: str, *values: str) -> Schema:
    # The values are known; the documentation page fills the first in.
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"The {name} of the model.",
        "schema": {"type": "string", "enum": list(values), "examples": [values[0]]},
    }


def _get(answer: type, *places: Schema) -> dict[str, Any]:
    summary = str(inspect.getdoc(answer)).partition(".")[0]
    found = {"description": summary, "content": {_JSON: {"schema": ref(answer)}}}
    missing = {"404": error("No such model")} if places else {}
    return {
        "summary": summary,
        "parameters": list(places),
        "responses": {"200": found, **missing},
    }


def _post(
    summary: str, parameters: list[Schema], body: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    # These routes have one representation and ignore the Accept header.
    problems = {
        str(status): error("; ".join(leaf.title for leaf in leaves))
        for status, leaves in errors().items()
        if status != NotAcceptable.status
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "The answer", "content": answer},
            "404": error("No such model"),
            **problems,
        },
    }


def _v1(summary: str, name: Schema, answer: type) -> dict[str, Any]:
    body = {"schema": ref(protocols.Instances), "example": {"instances": [{"b64": IMAGE}]}}
    return _post(summary, [name], {_JSON: body}, {_JSON: {"schema": ref(answer)}})


def _infer(*places: Schema) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return _post(
        "Predict and explain by tensors (Open Inference Protocol)",
        [*places, _json_length()],
        {_JSON: {"schema": ref(protocols.InferRequest), "example": _example()}, _BINARY: binary},
        {_JSON: {"schema": ref(protocols.InferAnswer)}, _BINARY: binary},
    )


def _json_length() -> Schema:
    return {
        "name": HEADER,
        "in": "header",
        "description": "The length of the JSON in bytes; binary tensors follow. 0: an image.",
        "schema": {"type": "integer", "minimum": 0, "examples": [0]},
    }


def _example() -> dict[str, Any]:
    return {
        "inputs": [{"name": "image", "shape": [1], "datatype": BYTES, "data": [IMAGE]}],
        "outputs": [{"name": "label"}, {"name": ATTRIBUTION, "parameters": {"method": "grad_cam"}}],
    }
