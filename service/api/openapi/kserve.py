"""KServe's protocols in the OpenAPI document: the paths under /v1 and /v2."""

import inspect
from typing import Any

from service.api.kserve import outputs, views
from service.api.kserve.outputs import ATTRIBUTION
from service.api.kserve.tensors import BYTES, HEADER
from service.api.kserve.v1 import VERSION
from service.api.openapi.problems import error, errors
from service.api.wire import protocols
from service.api.wire.bodies import IMAGE
from service.api.wire.schemas import Schema, ref, schemas_of
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable

_JSON, _BINARY = "application/json", "application/octet-stream"
TYPES = (
    protocols.Classified,
    protocols.Examples,
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
    protocols.ModelStatus,
    protocols.Predictions,
    protocols.ProtocolError,
    protocols.Ready,
    protocols.Server,
    protocols.Signatures,
    protocols.Statistics,
)


def schemas(manifest: Manifest) -> dict[str, Schema]:
    """The components of both protocols."""
    made = schemas_of(*TYPES)
    made["OutputName"]["properties"]["name"]["enum"] = list(outputs.names(manifest))
    return made


def paths(manifest: Manifest) -> dict[str, Any]:
    """The paths of both protocols, with their operations."""
    name = _path_parameter("name", *views.names(manifest))
    only = _path_parameter("name", manifest.name)
    version = _path_parameter("version", manifest.version)
    documents: dict[str, Any] = {
        "/v2": {"get": _get(protocols.Server)},
        "/v2/health/live": {"get": _get(protocols.Live)},
        "/v2/health/ready": {"get": _get(protocols.Ready)},
        "/v1/models": {"get": _get(protocols.ModelNames)},
        **_v1_paths("/v1/models/{name}", only),
        **_v1_paths(
            "/v1/models/{name}/versions/{version}",
            only,
            _path_parameter("version", manifest.version, VERSION),
        ),
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


def _v1_paths(model: str, *places: Schema) -> dict[str, Any]:
    explained = _v1("Predict and explain", protocols.Explanations, *places)
    examples = {"schema": ref(protocols.Examples), "example": {"examples": [{"b64": IMAGE}]}}
    classified = _post(
        "Probabilities of classes (TensorFlow Serving)",
        list(places),
        {_JSON: examples},
        {_JSON: {"schema": ref(protocols.Classified)}},
    )
    return {
        model: {"get": _get(protocols.ModelStatus, *places)},
        f"{model}/metadata": {"get": _get(protocols.Signatures, *places)},
        f"{model}:predict": {"post": _v1("Predict", protocols.Predictions, *places)},
        f"{model}:explain": {"post": explained},
        f"{model}:classify": {"post": classified},
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


def _v1(summary: str, answer: type, *places: Schema) -> dict[str, Any]:
    body = {"schema": ref(protocols.Instances), "example": {"instances": [{"b64": IMAGE}]}}
    answered = {_JSON: {"schema": ref(answer)}}
    return _post(f"{summary} (KServe V1)", list(places), {_JSON: body}, answered)


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
