"""GET /openapi.json: the API in OpenAPI 3.1, with the labels and the methods of this model."""

import inspect
from dataclasses import replace
from typing import Any

import service
from service.api import problems
from service.api.body import BYTES
from service.api.card import HTML, MARKDOWN
from service.api.openapi import kserve
from service.api.openapi.names import TAGS, named
from service.api.openapi.schemas import (
    BASE64,
    IMAGE,
    OBJECT,
    TEXT,
    any_of,
    array_of,
    components,
    errors,
    record,
    ref,
)
from service.api.parameters import DEFAULT_METHOD, MAX_DEADLINE_MS, OF_EXPLANATIONS
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable, NotFound, RequestError, TooManyRequests, Unavailable
from service.explain import NOMINAL, Defaults, Parameter, available
from service.explain.maps.segments import LEAST, MOST
from service.image.kinds import MEDIA_TYPES
from service.predictions import COVERAGE, MOST_CLASSES, TOP_K, most_top_k
from service.schedule.timing import DEADLINE_MS

_JSON = "application/json"
_FILE = {"type": "string", "format": "binary"}
_FILES = (
    "An image; the bytes decide its format. Content-Type may be any image type, too: "
    f"{', '.join(MEDIA_TYPES)}."
)
_ROW = {
    "parameters": [
        {"name": "row", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    ]
}
_MASK = (
    "The segments of one image, for the methods that take a mask by GET /methods: a PNG file as "
    "large as the displayed image, greyscale of up to 16 bits or with a palette. Pixels of one "
    f"value are a segment; {LEAST} to {MOST:,} segments must be in the network's view."
)


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
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Candor: {manifest.name}",
            "version": service.__version__,
            "description": _description(max_body_bytes),
        },
        "servers": [{"url": "/", "description": "The server that gave this document"}],
        "tags": [{"name": name, "description": text} for name, (_, text) in TAGS.items()],
        "paths": named(
            {
                **_native_paths(manifest, defaults),
                **({"/reference/{row}": {"get": _reference()}} if shown else {}),
                **kserve.paths(manifest),
            }
        ),
        "components": {"schemas": {**components(manifest), **_submission_schemas()}},
    }


def of_predict(manifest: Manifest, defaults: Defaults = NOMINAL) -> list[dict[str, Any]]:
    """The parameters of POST /predict."""
    method = _method("explain", manifest)
    return [*_of_predictions(manifest), method, *_of_explanations(manifest, defaults)]


def of_explain(manifest: Manifest, defaults: Defaults = NOMINAL) -> list[dict[str, Any]]:
    """The parameters of POST /explain."""
    method = _method("method", manifest, DEFAULT_METHOD)
    return [*_of_predictions(manifest), method, *_of_explanations(manifest, defaults)]


def _description(max_body_bytes: int) -> str:
    return (
        "Send an image and get a calibrated prediction and, on request, an attribution map: the "
        "evidence of each pixel for a class. Parameters belong in the query, the form or the JSON. "
        f"Bodies have at most {max_body_bytes:,} bytes."
    )


def _native_paths(manifest: Manifest, defaults: Defaults) -> dict[str, Any]:
    answer = _answer(manifest)
    explanation = answer | _map_files(manifest)
    return {
        "/predict": {"post": _post("Predict", of_predict(manifest, defaults), answer)},
        "/explain": {"post": _post("Explain", of_explain(manifest, defaults), explanation)},
        "/model": {"get": _get("The public manifest of the model", _JSON, ref("Manifest"))},
        "/model/card": {"get": _card()},
        "/methods": {
            "get": _get(
                "The methods that explain this model, with their parameters", _JSON, ref("Methods")
            )
        },
        "/openapi.json": {"get": _get("This document", _JSON, OBJECT)},
        "/schema.json": {"get": _get("The schema for BentoML's client", _JSON, OBJECT)},
        "/docs.json": {"get": _get("BentoML's own OpenAPI document", _JSON, OBJECT)},
        "/metrics": {"get": _get("Prometheus metrics", "text/plain", TEXT)},
        "/livez": {"get": _get("Liveness of the process", "text/plain", TEXT)},
        "/readyz": {"get": _get("Readiness of the process", "text/plain", TEXT)},
    }


def _post(
    summary: str, parameters: list[dict[str, Any]], answers: dict[str, Any]
) -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": array_of(_FILE), "mask": _FILE | {"description": _MASK}},
    }
    content = {
        # Any of MEDIA_TYPES does, too; generators give up at types that they do not know.
        BYTES: {"schema": _FILE | {"description": _FILES}},
        "multipart/form-data": {"schema": form},
        _JSON: {
            "schema": any_of(ref("OneImage"), ref("SeveralImages")),
            "examples": _submissions(),
        },
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The answer", "content": answers}, **_problems()},
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
    schema = any_of(ref("Answer"), ref("Answers"))
    return {_JSON: {"schema": schema, "examples": {"one image": {"value": example}}}}


def _map_files(manifest: Manifest) -> dict[str, Any]:
    height, width = manifest.input.shape
    array = f"The map of one image as a .npy file, float32 ({height}, {width})"
    return {
        "image/png": {"schema": _FILE | {"description": "The overlay of one image"}},
        "application/x-npy": {"schema": _FILE | {"description": array}},
    }


def _problems() -> dict[str, Any]:
    return {str(status): problem(leaves) for status, leaves in errors().items()}


def problem(leaves: list[type[RequestError]]) -> dict[str, Any]:
    """The response of one status, with an example of each error and its code."""
    # A real detail has values; the docstring of the error is the sentence without them.
    examples = {
        leaf.code: {"value": problems.problem(leaf(inspect.getdoc(leaf) or leaf.title))}
        for leaf in leaves
    }
    # A schema of its own for each status would keep generators from sharing one class.
    media = {"schema": ref("Problem"), "examples": examples}
    response: dict[str, Any] = {
        "description": "; ".join(leaf.title for leaf in leaves),
        "content": {problems.MEDIA_TYPE: media},
    }
    if leaves[0].status in (TooManyRequests.status, Unavailable.status):
        seconds = {"description": "Seconds until the retry", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


def _get(summary: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {"schema": schema}}}},
    }


def _card() -> dict[str, Any]:
    operation = _with_404(_get("The model card", MARKDOWN, TEXT))
    operation["responses"]["200"]["content"][HTML] = {"schema": TEXT}
    operation["responses"]["406"] = problem([NotAcceptable])
    return operation


def _reference() -> dict[str, Any]:
    summary = "A reference image as the network sees it"
    return _with_404(_get(summary, "image/png", _FILE)) | _ROW


def _with_404(operation: dict[str, Any]) -> dict[str, Any]:
    operation["responses"]["404"] = problem([NotFound])
    return operation


def _of_predictions(manifest: Manifest) -> list[dict[str, Any]]:
    return [_top_k(manifest), _classes(), *_of_trust(manifest), _deadline()]


def _of_trust(manifest: Manifest) -> list[dict[str, Any]]:
    """The parameters of what this bundle measures: sets and nearest reference images."""
    sets, familiarity = manifest.prediction_sets, manifest.familiarity
    parameters = []
    if sets is not None:
        # The keys of the manifest are texts, such as 0.90.
        coverages = {"type": "string", "enum": list(sets.coverages), "default": COVERAGE}
        flag = {"type": "boolean", "default": False}
        parameters += [
            _query(
                "coverage",
                "The probability that the prediction set holds the true class.",
                coverages,
            ),
            _query("by_class", "Whether `coverage` shall hold within each class.", flag),
        ]
    if familiarity is not None and familiarity.neighbours:
        count = {"minimum": 0, "maximum": familiarity.neighbours, "default": 0}
        parameters.append(
            _query(
                "nearest",
                "How many of the nearest reference images to list.",
                {"type": "integer", **count},
            )
        )
    return parameters


def _top_k(manifest: Manifest) -> dict[str, Any]:
    most = most_top_k(manifest)
    limits = {"minimum": 1, "maximum": most, "default": min(TOP_K, most)}
    return _query("top_k", "How many classes to list.", {"type": "integer", **limits})


def _classes() -> dict[str, Any]:
    return _query(
        "classes",
        f"Up to {MOST_CLASSES} classes whose probabilities the answer holds as well, whatever "
        "their rank: labels or indices, with commas between them.",
        {"type": "string", "examples": ["0,1"]},
    )


def _deadline() -> dict[str, Any]:
    limits = {"minimum": 1, "maximum": MAX_DEADLINE_MS, "default": DEADLINE_MS}
    return _query(
        "deadline_ms",
        "The time for the answer; a request that cannot be answered in time is rejected at once.",
        {"type": "integer", **limits},
    )


def _method(name: str, manifest: Manifest, default: str | None = None) -> dict[str, Any]:
    names = [method.name for method in available(manifest)]
    schema = {"type": "string", "enum": names} | ({"default": default} if default else {})
    return _query(name, "The method of the explanation; GET /methods describes each.", schema)


def _of_explanations(manifest: Manifest, defaults: Defaults) -> list[dict[str, Any]]:
    target, form, quality, legend = OF_EXPLANATIONS
    return [
        _query(
            target,
            "A label, an index, or two of them (cat,dog: why cat rather than dog); the default is "
            "the predicted class. A label of several classes is rejected: give an index.",
            {"type": "string", "examples": list(manifest.labels[:3])},
        ),
        _query(
            form,
            "The form of the map.",
            {"type": "string", "enum": ["overlay", "array", "both"], "default": "both"},
        ),
        _query(
            quality,
            "The measures of the map; full takes some 170 forward passes more.",
            {"type": "string", "enum": ["basic", "full"], "default": "basic"},
        ),
        _query(
            legend,
            "Whether to draw a legend below the overlay; the image stays at the upper left.",
            {"type": "boolean", "default": False},
        ),
        *(
            _query(name, _meaning(uses), _schema([parameter for _, parameter in uses]))
            for name, uses in _by_name(manifest, defaults).items()
        ),
    ]


Uses = list[tuple[str, Parameter]]


def _by_name(manifest: Manifest, defaults: Defaults) -> dict[str, Uses]:
    """The parameters of all methods by name, each with the name of its method."""
    uses: dict[str, Uses] = {}
    for method in available(manifest):
        own = defaults.get(method.name, {})
        for parameter in method.parameters:
            here = replace(parameter, default=own.get(parameter.name, parameter.default))
            uses.setdefault(parameter.name, []).append((method.name, here))
    return uses


def _meaning(uses: Uses) -> str:
    """The description of a parameter; its ranges by method where they differ."""
    text = "; or ".join(dict.fromkeys(parameter.description for _, parameter in uses))
    if len({_limits(parameter) for _, parameter in uses}) > 1:
        text += ". " + "; ".join(f"{method}: {_range(parameter)}" for method, parameter in uses)
    return f"{text[0].upper()}{text[1:]}."


def _range(parameter: Parameter) -> str:
    if parameter.choices:
        return f"{', '.join(parameter.choices)}, {parameter.default} by default"
    return f"{parameter.low:g} to {parameter.high:.10g}, {parameter.default:g} by default"


def _limits(parameter: Parameter) -> tuple[Any, ...]:
    return (parameter.default, parameter.low, parameter.high, parameter.choices)


def _schema(parameters: list[Parameter]) -> dict[str, Any]:
    """The values that any method accepts; with a default if all methods have the same."""
    first = parameters[0]
    same = all(parameter.default == first.default for parameter in parameters)
    default = {"default": first.default} if same else {}
    if first.choices:
        return {"type": "string", "enum": list(first.choices), **default}
    return {
        "type": "integer" if isinstance(first.default, int) else "number",
        "minimum": min(parameter.low for parameter in parameters),
        "maximum": max(parameter.high for parameter in parameters),
        **default,
    }


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _submissions() -> dict[str, Any]:
    return {
        "one image": {"value": {"image": IMAGE}},
        "several images and a parameter": {"value": {"images": [IMAGE, IMAGE], "top_k": 1}},
    }


def _submission_schemas() -> dict[str, Any]:
    """The JSON bodies; both have the parameters of the query as further fields."""
    parameters = {"additionalProperties": {"type": ["string", "number", "boolean"]}}
    one = record("An image; further fields are parameters", image=BASE64) | parameters
    one["properties"] |= {"mask": BASE64 | {"description": _MASK}}
    several = record("Images; further fields are parameters", images=array_of(BASE64)) | parameters
    return {"OneImage": one, "SeveralImages": several}
