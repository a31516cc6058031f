"""KServe's protocols in the OpenAPI document: the paths under /v1 and /v2."""

from typing import Any

from service.api.kserve import outputs as model_outputs
from service.api.kserve import views
from service.api.kserve.arrays import DTYPES
from service.api.kserve.outputs import ATTRIBUTION
from service.api.kserve.tensors import BOOL, BYTES, HEADER
from service.api.openapi.schemas import (
    BASE64,
    FLAG,
    IMAGE,
    OBJECT,
    TEXT,
    WHOLE,
    Schema,
    any_of,
    array_of,
    errors,
    record,
    ref,
)
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable

_JSON, _BINARY = "application/json", "application/octet-stream"


def paths(manifest: Manifest) -> dict[str, Any]:
    """The paths of both protocols, with their operations."""
    name = _path_parameter("name", *views.names(manifest))
    only = _path_parameter("name", manifest.name)
    version = _path_parameter("version", manifest.version)
    model = record("", name=TEXT, ready=FLAG)
    documents: dict[str, Any] = {
        "/v2": {"get": _get("The server", [], _server())},
        "/v2/health/live": {"get": _get("Liveness of the server", [], record("", live=FLAG))},
        "/v2/health/ready": {"get": _get("Readiness of the server", [], record("", ready=FLAG))},
        "/v1/models": {
            "get": _get("The names of the models", [], record("", models=array_of(TEXT)))
        },
        **_v1_paths("/v1/models/{name}", [only]),
        **_v1_paths("/v1/models/{name}/versions/{version}", [only, version]),
        "/v2/repository/index": {"post": _index()},
        "/v2/models/stats": {"get": _get("What was inferred", [], _statistics())},
    }
    for path, parameters in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        documents[path] = {"get": _get("The tensors of the model", parameters, _metadata())}
        documents[f"{path}/ready"] = {"get": _get("Readiness of the model", parameters, model)}
        documents[f"{path}/config"] = {
            "get": _get("The configuration of the model (Triton's extension)", parameters, OBJECT)
        }
        documents[f"{path}/stats"] = {"get": _get("What was inferred", parameters, _statistics())}
        documents[f"{path}/infer"] = {"post": _infer(parameters, manifest)}
    return documents


def _v1_paths(model: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    predictions = record("", predictions=array_of(OBJECT))
    explanations = record("", predictions=array_of(OBJECT), explanations=array_of(OBJECT))
    classes = record("", results=array_of(array_of({"type": "array", "items": {}})))
    status = record("", name=TEXT, ready=FLAG, model_version_status=array_of(OBJECT))
    signatures = record("", model_spec=OBJECT, metadata=OBJECT)
    described = "The signature of the model (TensorFlow Serving's form)"
    return {
        model: {"get": _get("Readiness of the model", parameters, status)},
        f"{model}/metadata": {"get": _get(described, parameters, signatures)},
        f"{model}:predict": {"post": _v1("Predict", parameters, predictions)},
        f"{model}:explain": {"post": _v1("Predict and explain", parameters, explanations)},
        f"{model}:classify": {"post": _v1("Probabilities of classes", parameters, classes)},
    }


def _server() -> Schema:
    return record("", name=TEXT, version=TEXT, extensions=array_of(TEXT))


def _index() -> dict[str, Any]:
    entry = record("", name=TEXT, version=TEXT, state=TEXT, reason=TEXT)
    answer = {"description": "The models", "content": {_JSON: {"schema": array_of(entry)}}}
    return {"summary": "The models that are served", "responses": {"200": answer}}


def _statistics() -> Schema:
    return record("", model_stats=array_of(OBJECT))


def _path_parameter(name: str, *values: str) -> dict[str, Any]:
    # The values are known; the documentation page fills the first in.
    schema = {"type": "string", "enum": list(values)}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def error(description: str) -> dict[str, Any]:
    """The response of an error in the form of both protocols."""
    return {"description": description, "content": {_JSON: {"schema": ref("ProtocolError")}}}


def _get(summary: str, parameters: list[dict[str, Any]], schema: Schema) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": {_JSON: {"schema": schema}}}}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": responses | ({"404": error("No such model")} if parameters else {}),
    }


def _post(
    summary: str, parameters: list[dict[str, Any]], body: dict[str, Any], answer: dict[str, Any]
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


def _v1(summary: str, parameters: list[dict[str, Any]], answer: Schema) -> dict[str, Any]:
    encoded = record("", b64=BASE64)
    request = record(
        "Images; further fields are the parameters of the native API",
        instances=array_of(any_of(encoded, record("", image_bytes=encoded), BASE64)),
    )
    body = {"schema": request, "example": {"instances": [{"b64": IMAGE}]}}
    return _post(f"{summary} (KServe V1)", parameters, {_JSON: body}, {_JSON: {"schema": answer}})


def _infer(parameters: list[dict[str, Any]], manifest: Manifest) -> dict[str, Any]:
    scalars = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    tensor = record(
        "A tensor",
        name=TEXT,
        shape=array_of(WHOLE),
        datatype={"enum": [BYTES, BOOL, *DTYPES]},
    )
    data = {"type": "array", "items": {}}
    tensor["properties"] |= {"parameters": scalars, "data": data}
    output = record("A requested output", name={"enum": list(model_outputs.names(manifest))})
    output["properties"] |= {"parameters": scalars}
    request = record(
        "One tensor: BYTES (N,) of encoded images, or numbers (N, H, W, 3) or (N, 3, H, W)",
        inputs=array_of(tensor) | {"minItems": 1, "maxItems": 1},
    )
    request["properties"] |= {"id": TEXT, "parameters": scalars, "outputs": array_of(output)}
    answer = record("Tensors", model_name=TEXT, model_version=TEXT, outputs=array_of(tensor))
    binary = {"schema": {"type": "string", "format": "binary"}}
    return _post(
        "Predict and explain by tensors (Open Inference Protocol)",
        [*parameters, _json_length()],
        {_JSON: {"schema": request, "example": _example()}, _BINARY: binary},
        {_JSON: {"schema": answer}, _BINARY: binary},
    )


def _json_length() -> dict[str, Any]:
    return {
        "name": HEADER,
        "in": "header",
        "description": "The length of the JSON in bytes; binary tensors follow. 0: an image.",
        "schema": WHOLE,
    }


def _example() -> dict[str, Any]:
    return {
        "inputs": [{"name": "image", "shape": [1], "datatype": BYTES, "data": [IMAGE]}],
        "outputs": [{"name": "label"}, {"name": ATTRIBUTION, "parameters": {"method": "grad_cam"}}],
    }


def _metadata() -> Schema:
    tensors = array_of(record("", name=TEXT, datatype=TEXT, shape=array_of(WHOLE)))
    return record(
        "The model",
        name=TEXT,
        versions=array_of(TEXT),
        platform=TEXT,
        inputs=tensors,
        outputs=tensors,
    )
