"""GET /openapi.json: the API in OpenAPI 3.1, with the labels and the methods of this model."""

from typing import Any

import service
from service.api.body import BYTES
from service.api.card import HTML, MARKDOWN
from service.api.openapi import kserve, parameters
from service.api.openapi import models as all_models
from service.api.openapi.names import TAGS, named
from service.api.openapi.parameters import Schemas
from service.api.openapi.problems import errors, problem
from service.api.problems import Problem
from service.api.wire import bodies, models
from service.api.wire.bodies import IMAGE
from service.api.wire.predictions import Answer, Answers
from service.api.wire.schemas import COMPONENTS, Schema, ref, schemas_of
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable, NotFound
from service.explain import NOMINAL, Defaults

_JSON = "application/json"
_FILE = {"type": "string", "format": "binary"}
_OBJECT, _TEXT = {"type": "object"}, {"type": "string"}
_ROW = {
    "name": "row",
    "in": "path",
    "required": True,
    "description": "The index of a reference image, as `nearest` of an answer names it.",
    "schema": {"type": "integer", "minimum": 0, "examples": [0]},
}


def document(
    manifest: Manifest,
    max_body_bytes: int,
    *,
    shown: bool = False,
    defaults: Defaults = NOMINAL,
) -> dict[str, Any]:
    """The whole document, as JSON values; `shown` if the service shows reference images.

    `defaults` stand before those of the methods.
    """
    asked = {
        "predict": parameters.of_predict(manifest, defaults),
        "explain": parameters.of_explain(manifest, defaults),
    }
    answer = _answer(manifest)
    paths = {
        "/predict": {"post": _post("Predict", asked, answer)},
        "/explain": {"post": _post("Explain", asked, answer | _map_files(manifest))},
        **_documents(),
        **({"/reference/{row}": {"get": _reference()}} if shown else {}),
        **all_models.paths(manifest),
        **kserve.paths(manifest),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Candor",
            "version": service.__version__,
            "description": _description(max_body_bytes),
        },
        "servers": [
            {"url": "/", "description": "The server that gave this document"},
            {
                "url": "/models/{name}",
                "description": "Another model",
                "variables": {"name": {"default": manifest.name}},
            },
        ],
        "tags": [{"name": name, "description": text} for name, (_, text) in TAGS.items()],
        "paths": named(paths),
        "components": {
            "schemas": _schemas(asked) | all_models.schemas() | kserve.schemas(manifest)
        },
    }


def _description(max_body_bytes: int) -> str:
    return (
        "Send an image and get a calibrated prediction and, on request, an attribution map: the "
        "evidence of each pixel for a class. Parameters belong in the query, the form or the JSON. "
        f"Bodies have at most {max_body_bytes:,} bytes."
    )


def _schemas(asked: dict[str, Schemas]) -> dict[str, Schema]:
    """The components: bodies with the parameters of their operation, and answers."""
    sent = schemas_of(bodies.Form, bodies.Image, bodies.Images)
    with_parameters = {
        _name(operation, kind): schema | {"properties": schema["properties"] | _optional(fields)}
        for operation, fields in asked.items()
        for kind, schema in sent.items()
    }
    answers = schemas_of(Answer, Answers, Problem, models.PublicManifest, models.Methods)
    return with_parameters | answers


def _optional(fields: Schemas) -> dict[str, Schema]:
    # TypeScript's generator takes a property with a default for one that is always there.
    return {
        name: {key: value for key, value in schema.items() if key != "default"}
        for name, schema in fields.items()
    }


def _name(operation: str, kind: str) -> str:
    return f"{operation.title()}{kind}"


def _post(title: str, asked: dict[str, Schemas], answers: dict[str, Any]) -> dict[str, Any]:
    def body(kind: type) -> Schema:
        return {"$ref": COMPONENTS + _name(title, kind.__name__)}

    content = {  # JSON first: some generators make a method of the first alone
        _JSON: {
            "schema": {"anyOf": [body(bodies.Image), body(bodies.Images)]},
            "examples": {
                "one image": {"value": {"image": IMAGE}},
                "several images and a parameter": {"value": {"images": [IMAGE] * 2, "top_k": 1}},
            },
        },
        # Any image type does, too; generators give up at types that they do not know.
        BYTES: {"schema": _FILE | {"description": bodies.FILE}},
        "multipart/form-data": {"schema": body(bodies.Form)},
    }
    return {
        "summary": title,
        "parameters": [
            {"name": name, "in": "query", "description": schema["description"], "schema": schema}
            for name, schema in asked[title.lower()].items()
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "The answer", "content": answers},
            **{str(status): problem(leaves) for status, leaves in errors().items()},
        },
    }


def _answer(manifest: Manifest) -> dict[str, Any]:
    best = {"label": manifest.labels[0], "index": 0, "probability": 0.93}
    example = {
        "model": {"name": manifest.name, "version": manifest.version},
        **best,
        "top": [best],
        "temperature": manifest.temperature,
        "prediction_set": None,
        "familiarity": None,
        "image": {"width": 8, "height": 8, "format": "PNG"},
        "timing_ms": {"read": 0.05, "decode": 0.1, "queue": 0.02, "infer": 1.1, "total": 1.4},
    }
    schema = {"anyOf": [ref(Answer), ref(Answers)]}
    return {_JSON: {"schema": schema, "examples": {"one image": {"value": example}}}}


def _map_files(manifest: Manifest) -> dict[str, Any]:
    height, width = manifest.input.shape
    array = f"The map of one image as a .npy file, float32 ({height}, {width})"
    return {
        "image/png": {"schema": _FILE | {"description": "The overlay of one image"}},
        "application/x-npy": {"schema": _FILE | {"description": array}},
    }


def _documents() -> dict[str, Any]:
    methods = "The methods that explain this model, with their parameters"
    documents = {
        "/model": _get("The public manifest of the model", _JSON, ref(models.PublicManifest)),
        "/model/card": _card(),
        "/methods": _get(methods, _JSON, ref(models.Methods)),
        "/openapi.json": _get("This document", _JSON, _OBJECT),
        "/schema.json": _get("The schema for BentoML's client", _JSON, _OBJECT),
        "/docs.json": _get("BentoML's own OpenAPI document", _JSON, _OBJECT),
        "/metrics": _get("Prometheus metrics", "text/plain", _TEXT),
        "/livez": _get("Liveness of the process", "text/plain", _TEXT),
        "/readyz": _get("Readiness of the process", "text/plain", _TEXT),
    }
    return {path: {"get": operation} for path, operation in documents.items()}


def _get(summary: str, kind: str, schema: Schema) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {"schema": schema}}}},
    }


def _card() -> dict[str, Any]:
    operation = _with_404(_get("The model card", MARKDOWN, _TEXT))
    operation["responses"]["200"]["content"][HTML] = {"schema": _TEXT}
    operation["responses"]["406"] = problem([NotAcceptable])
    return operation


def _reference() -> dict[str, Any]:
    summary = "A reference image as the network sees it"
    return _with_404(_get(summary, "image/png", _FILE)) | {"parameters": [_ROW]}


def _with_404(operation: dict[str, Any]) -> dict[str, Any]:
    operation["responses"]["404"] = problem([NotFound])
    return operation
