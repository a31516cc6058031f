"""What OpenAPI says of KServe's protocols: the paths under /v1 and /v2."""

from typing import Any

from service.api.kserve.tensors import HEADER
from service.api.kserve.v2 import ATTRIBUTION, outputs_of
from service.api.openapi.schemas import (
    BASE64,
    FLAG,
    IMAGE,
    OBJECT,
    TEXT,
    WHOLE,
    Schema,
    closed,
    either,
    errors,
    listed,
)
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable

_JSON, _BINARY = "application/json", "application/octet-stream"


def paths(manifest: Manifest) -> dict[str, Any]:
    """Path → operations."""
    name = _parameter("name", manifest.name)
    version = _parameter("version", manifest.version)
    found: dict[str, Any] = {
        "/v2": {
            "get": _get(
                "What serves", [], closed("", name=TEXT, version=TEXT, extensions=listed(TEXT))
            )
        },
        "/v2/health/live": {"get": _get("Whether the server lives", [], closed("", live=FLAG))},
        "/v2/health/ready": {"get": _get("Whether the server answers", [], closed("", ready=FLAG))},
        "/v1/models": {"get": _get("The names of the models", [], closed("", models=listed(TEXT)))},
        "/v1/models/{name}": {
            "get": _get("Whether the model answers", [name], closed("", name=TEXT, ready=FLAG))
        },
        "/v1/models/{name}:predict": {
            "post": _v1("Predict", [name], closed("", predictions=listed(OBJECT)))
        },
        "/v1/models/{name}:explain": {
            "post": _v1(
                "Predict and explain",
                [name],
                closed("", predictions=listed(OBJECT), explanations=listed(OBJECT)),
            )
        },
    }
    for path, places in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, version]),
    ):
        found[path] = {"get": _get("The tensors of the model", places, _metadata())}
        found[f"{path}/ready"] = {
            "get": _get("Whether the model answers", places, closed("", name=TEXT, ready=FLAG))
        }
        found[f"{path}/infer"] = {"post": _infer(places, manifest)}
    return found


def _parameter(name: str, value: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": [value]},
    }


def _told(description: str) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": closed("", error=TEXT)}}}


def _get(summary: str, places: list[dict[str, Any]], schema: Schema) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": {_JSON: {"schema": schema}}}}
    return {
        "summary": summary,
        "parameters": places,
        "responses": responses | ({"404": _told("No such model")} if places else {}),
    }


def _post(
    summary: str, parameters: list[dict[str, Any]], taken: dict[str, Any], answered: dict[str, Any]
) -> dict[str, Any]:
    refused = {
        str(status): _told("; ".join(leaf.title for leaf in leaves))
        for status, leaves in errors().items()
        if status != NotAcceptable.status  # there is one representation, whatever Accept says
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": taken},
        "responses": {
            "200": {"description": "The answer", "content": answered},
            "404": _told("No such model"),
            **refused,
        },
    }


def _v1(summary: str, places: list[dict[str, Any]], answer: Schema) -> dict[str, Any]:
    coded = closed("", b64=BASE64)
    request = closed(
        "Images; further fields are the parameters of the native API",
        instances=listed(either(coded, closed("", image_bytes=coded), BASE64)),
    )
    taken = {"schema": request, "example": {"instances": [{"b64": IMAGE}]}}
    return _post(f"{summary} (KServe V1)", places, {_JSON: taken}, {_JSON: {"schema": answer}})


def _infer(places: list[dict[str, Any]], manifest: Manifest) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "additionalProperties": either({"type": ["string", "number", "boolean"]}),
    }
    tensor = closed(
        "A tensor",
        name=TEXT,
        shape=listed(WHOLE),
        datatype={"enum": ["BYTES", "UINT8", "FP32", "BOOL"]},
    )
    tensor["properties"] |= {"parameters": parameters, "data": {"type": "array"}}
    output = closed("What is asked for", name={"enum": list(outputs_of(manifest))})
    output["properties"] |= {"parameters": parameters}
    request = closed(
        "One tensor: BYTES (N,) of encoded images, or UINT8 (N, H, W, 3) of pixels",
        inputs=listed(tensor),
    )
    request["properties"] |= {"id": TEXT, "parameters": parameters, "outputs": listed(output)}
    answer = closed("Tensors", model_name=TEXT, model_version=TEXT, outputs=listed(tensor))
    example = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [IMAGE]}],
        "outputs": [{"name": "label"}, {"name": ATTRIBUTION, "parameters": {"method": "grad_cam"}}],
    }
    header = {
        "name": HEADER,
        "in": "header",
        "description": "How many bytes of the body are JSON; binary tensors follow.",
        "schema": WHOLE,
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    return _post(
        "Predict and explain by tensors (Open Inference Protocol)",
        [*places, header],
        {_JSON: {"schema": request, "example": example}, _BINARY: binary},
        {_JSON: {"schema": answer}, _BINARY: binary},
    )


def _metadata() -> Schema:
    tensors = listed(closed("", name=TEXT, datatype=TEXT, shape=listed(WHOLE)))
    return closed(
        "The model",
        name=TEXT,
        versions=listed(TEXT),
        platform=TEXT,
        inputs=tensors,
        outputs=tensors,
    )
