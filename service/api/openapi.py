"""GET /openapi.json: the API as OpenAPI 3.1 describes it, with this model's labels and methods."""

from typing import Any

import service
from service.api.options import DEFAULT_METHOD, MOST_MS, OF_EXPLANATIONS
from service.bundle import Manifest
from service.explain import Parameter, available
from service.explain.segments import LEAST, MOST
from service.images import MEDIA_TYPES
from service.pipeline import DEADLINE_MS
from service.predictions import TOP_K

_OBJECT = {"type": "object"}
_MASK = (
    "Of one picture, for the methods of which GET /methods says that they take a mask: its segments as a PNG file, as large as the "
    "picture is displayed, greyscale of up to 16 bits or with a palette. Pixels of the same value are a segment; the network must "
    f"see {LEAST} to {MOST:,}."
)


def document(manifest: Manifest, max_body_bytes: int) -> dict[str, Any]:
    """The whole document, as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Candor: {manifest.name}", "version": service.__version__, "description": _description(max_body_bytes)},
        "paths": {
            "/predict": {
                "post": _post(
                    "Predict",
                    [_top_k(manifest), _deadline(), _method("explain", manifest), *_explaining(manifest)],
                    ["application/json"],
                )
            },
            "/explain": {
                "post": _post(
                    "Explain",
                    [_top_k(manifest), _deadline(), _method("method", manifest, DEFAULT_METHOD), *_explaining(manifest)],
                    ["application/json", "image/png", "application/x-npy"],
                )
            },
            "/model": {"get": _get("The public manifest of the model", "application/json")},
            "/model/card": {"get": _get("The model card", "text/markdown")},
            "/methods": {"get": _get("The methods that explain this model, with their parameters", "application/json")},
            "/metrics": {"get": _get("Prometheus metrics", "text/plain")},
            "/livez": {"get": _get("Whether the process lives", "text/plain")},
            "/readyz": {"get": _get("Whether it answers", "text/plain")},
        },
        "components": {"schemas": {"Problem": _problem(), "Submission": _submission()}},
    }


def _description(max_body_bytes: int) -> str:
    return (
        "Send a picture, get a calibrated prediction and, on request, an attribution map that says which pixels speak for it. "
        f"Parameters go in the query, in the form or in the JSON. Bodies have at most {max_body_bytes:,} bytes."
    )


def _post(summary: str, parameters: list[dict[str, Any]], answers: list[str]) -> dict[str, Any]:
    picture = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "mask": {"type": "string", "format": "binary", "description": _MASK},
        },
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(MEDIA_TYPES, picture),
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": {"$ref": "#/components/schemas/Submission"}},
            },
        },
        "responses": {
            "200": {"description": "The answer", "content": {kind: {"schema": _OBJECT} for kind in answers}},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }


def _get(summary: str, kind: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}


def _top_k(manifest: Manifest) -> dict[str, Any]:
    classes = len(manifest.labels)
    return _query(
        "top_k", "How many classes to name.", {"type": "integer", "minimum": 1, "maximum": classes, "default": min(TOP_K, classes)}
    )


def _deadline() -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": MOST_MS, "default": DEADLINE_MS}
    return _query("deadline_ms", "The time that an answer may take; what cannot be given in it is refused at once.", schema)


def _method(name: str, manifest: Manifest, default: str | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "enum": [method.name for method in available(manifest)]}
    return _query(
        name, "Explain by this method; GET /methods says what each means.", schema | ({"default": default} if default else {})
    )


def _explaining(manifest: Manifest) -> list[dict[str, Any]]:
    target, shape, quality, legend = OF_EXPLANATIONS
    found = {parameter.name: parameter for method in available(manifest) for parameter in method.parameters}
    return [
        _query(
            target,
            "A label, an index, or two of them (cat,dog: why a cat rather than a dog); the predicted class if not given.",
            {"type": "string", "examples": list(manifest.labels[:3])},
        ),
        _query(shape, "How to give the map.", {"type": "string", "enum": ["overlay", "array", "both"], "default": "both"}),
        _query(
            quality,
            "What is measured of the map; full asks the network some 170 times more.",
            {"type": "string", "enum": ["basic", "full"], "default": "basic"},
        ),
        _query(
            legend,
            "Whether a legend is drawn below the overlay; the picture keeps its place at the upper left.",
            {"type": "boolean", "default": False},
        ),
        *(
            _query(name, parameter.says[0].upper() + parameter.says[1:] + ".", _schema(parameter))
            for name, parameter in found.items()
        ),
    ]


def _schema(parameter: Parameter) -> dict[str, Any]:
    if parameter.choices:
        return {"type": "string", "enum": list(parameter.choices), "default": parameter.default}
    kind = "integer" if isinstance(parameter.default, int) else "number"
    return {"type": kind, "minimum": parameter.low, "maximum": parameter.high, "default": parameter.default}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    names = {"type": text, "title": text, "status": {"type": "integer"}, "detail": text, "code": text}
    return {"type": "object", "description": "RFC 9457", "required": list(names), "properties": names}


def _submission() -> dict[str, Any]:
    picture = {"type": "string", "contentEncoding": "base64"}
    return {
        "type": "object",
        "description": "One picture as `image` or several as `images`; the parameters may be fields, too.",
        "properties": {
            "image": picture,
            "images": {"type": "array", "items": picture},
            "mask": picture | {"description": _MASK},
        },
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
    }
