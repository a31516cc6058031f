"""GET /openapi.json: the API as OpenAPI 3.1 describes it, with this model's labels and methods."""

from typing import Any

import service
from service.api import problems
from service.api.card import HTML, MARKDOWN
from service.api.openapi import kserve
from service.api.openapi.schemas import (
    BASE64,
    IMAGE,
    OBJECT,
    TEXT,
    components,
    either,
    errors,
    ref,
)
from service.api.parameters import DEFAULT_METHOD, MOST_MS, OF_EXPLANATIONS
from service.bundle.manifest import Manifest
from service.errors import NotAcceptable, NotFound, RequestError, TooManyRequests, Unavailable
from service.explain import Parameter, available
from service.explain.segments import LEAST, MOST
from service.image.decode import MEDIA_TYPES
from service.predictions import COVERAGE, TOP_K
from service.schedule.timing import DEADLINE_MS

_JSON = "application/json"
_FILE = {"type": "string", "format": "binary"}
_DETAILS = {
    "malformed_request": "the body is empty (0 bytes): send an image",
    "not_found": "this model has no card",
    "not_acceptable": "Accept is 'text/html'; there is application/json",
    "slow_request": "30 s have passed and the body is not all there: send it faster, or a smaller image",
    "body_too_large": "the body has 12,000,000 bytes or more; the limit is 10,485,760: send a smaller image, or fewer at once",
    "picture_too_large": "the image is 9000×9000 px (81 MP); the limit is 50 MP: send a smaller one",
    "unsupported_format": "the 43 bytes look like a GIF; JPEG, PNG and WebP are taken: convert it",
    "undecodable_picture": "the image of 1,024 bytes is damaged or cut off: send it whole",
    "invalid_parameter": "steps is '0'; give a whole number from 1 to 512",
    "method_unavailable": "grad_cam needs cam.onnx, and this model has none; it can be explained by: occlusion",
    "too_many_requests": "512 images wait in the predict lane, which is its limit: ask again later",
    "unavailable": "the service is stopping: ask another replica",
    "deadline_exceeded": "0.01 s are left of deadline_ms, and no explanation takes less: ask again later, or give more time",
    "internal_error": "the service failed at this request; its log says why: tell the operator",
}
_ROW = {
    "parameters": [
        {"name": "row", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    ]
}
_MASK = (
    "Of one image, for the methods of which GET /methods says that they take a mask: its segments as a PNG file, as large as the "
    "image is displayed, greyscale of up to 16 bits or with a palette. Pixels of the same value are a segment; the network must "
    f"see {LEAST} to {MOST:,}."
)


def document(manifest: Manifest, max_body_bytes: int, *, shown: bool = False) -> dict[str, Any]:
    """The whole document, as JSON values; `shown` if reference images are."""
    reference = {
        "/reference/{row}": {
            "get": _missing(
                _get("A training image as the network sees it", "image/png", _FILE) | _ROW
            )
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Candor: {manifest.name}",
            "version": service.__version__,
            "description": _description(max_body_bytes),
        },
        "paths": {
            "/predict": {"post": _post("Predict", of_predict(manifest), _answer(manifest))},
            "/explain": {
                "post": _post(
                    "Explain", of_explain(manifest), _answer(manifest) | _images(manifest)
                )
            },
            "/model": {"get": _get("The public manifest of the model", _JSON, ref("Manifest"))},
            "/model/card": {"get": _card()},
            **(reference if shown else {}),
            "/methods": {
                "get": _get(
                    "The methods that explain this model, with their parameters",
                    _JSON,
                    ref("Methods"),
                )
            },
            "/openapi.json": {"get": _get("This document", _JSON, OBJECT)},
            "/schema.json": {"get": _get("What BentoML's client reads", _JSON, OBJECT)},
            "/docs.json": {"get": _get("What BentoML describes as OpenAPI", _JSON, OBJECT)},
            "/metrics": {"get": _get("Prometheus metrics", "text/plain", TEXT)},
            "/livez": {"get": _get("Whether the process lives", "text/plain", TEXT)},
            "/readyz": {"get": _get("Whether it answers", "text/plain", TEXT)},
            **kserve.paths(manifest),
        },
        "components": {"schemas": {**components(manifest), "Submission": _submission()}},
    }


def of_predict(manifest: Manifest) -> list[dict[str, Any]]:
    """The parameters of POST /predict."""
    return [*_predicting(manifest), _method("explain", manifest), *_explaining(manifest)]


def of_explain(manifest: Manifest) -> list[dict[str, Any]]:
    """The parameters of POST /explain."""
    return [
        *_predicting(manifest),
        _method("method", manifest, DEFAULT_METHOD),
        *_explaining(manifest),
    ]


def _description(max_body_bytes: int) -> str:
    return (
        "Send an image, get a calibrated prediction and, on request, an attribution map that says which pixels speak for it. "
        f"Parameters go in the query, in the form or in the JSON. Bodies have at most {max_body_bytes:,} bytes."
    )


def _post(
    summary: str, parameters: list[dict[str, Any]], answers: dict[str, Any]
) -> dict[str, Any]:
    image = {"schema": _FILE}
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {
            "image": {"type": "array", "items": _FILE},
            "mask": _FILE | {"description": _MASK},
        },
    }
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(MEDIA_TYPES, image),
                "multipart/form-data": {"schema": form},
                _JSON: {"schema": ref("Submission"), "examples": _submissions()},
            },
        },
        "responses": {"200": {"description": "The answer", "content": answers}, **_problems()},
    }


def _answer(manifest: Manifest) -> dict[str, Any]:
    best = {"label": manifest.labels[0], "index": 0, "probability": 0.93}
    one = {
        "model": {"name": manifest.name, "version": manifest.version},
        **best,
        "top": [best],
        "temperature": manifest.temperature,
        "prediction_set": None,
        "familiarity": None,
        "image": {"width": 8, "height": 8, "format": "PNG"},
        "timing_ms": {"read": 0.05, "decode": 0.1, "queue": 0.02, "infer": 1.1, "total": 1.4},
    }
    return {
        _JSON: {
            "schema": either(ref("Answer"), ref("Answers")),
            "examples": {"one image": {"value": one}},
        }
    }


def _images(manifest: Manifest) -> dict[str, Any]:
    side = manifest.input.size
    array = _FILE | {
        "description": f"The map of one image as a .npy file, float32 ({side}, {side})"
    }
    return {
        "image/png": {"schema": _FILE | {"description": "The overlay of one image"}},
        "application/x-npy": {"schema": array},
    }


def _problems() -> dict[str, Any]:
    """The responses other than 200: a status, and the codes that tell what it is about."""
    return {str(status): _problem(leaves) for status, leaves in errors().items()}


def _problem(leaves: list[type[RequestError]]) -> dict[str, Any]:
    codes = {
        "properties": {
            "status": {"const": leaves[0].status},
            "code": {"enum": [leaf.code for leaf in leaves]},
        }
    }
    examples = {
        leaf.code: {"value": problems.problem(leaf(_DETAILS.get(leaf.code, leaf.title)))}
        for leaf in leaves
    }
    response: dict[str, Any] = {
        "description": "; ".join(leaf.title for leaf in leaves),
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [ref("Problem"), codes]},
                "examples": examples,
            }
        },
    }
    if leaves[0].status in (TooManyRequests.status, Unavailable.status):
        response["headers"] = {
            "Retry-After": {
                "description": "Seconds after which to ask again",
                "schema": {"type": "integer"},
            }
        }
    return response


def _get(summary: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {"schema": schema}}}},
    }


def _card() -> dict[str, Any]:
    found = _missing(_get("The model card", MARKDOWN, TEXT))
    found["responses"]["200"]["content"][HTML] = {"schema": TEXT}
    found["responses"]["406"] = _problem([NotAcceptable])
    return found


def _missing(found: dict[str, Any]) -> dict[str, Any]:
    found["responses"]["404"] = _problem([NotFound])
    return found


def _predicting(manifest: Manifest) -> list[dict[str, Any]]:
    """What may be asked of any prediction of this model."""
    sets, known = manifest.prediction_sets, manifest.familiarity
    trust = []
    if sets is not None:
        coverages = {"type": "string", "enum": list(sets.marginal), "default": COVERAGE}
        trust.append(
            _query(
                "coverage", "How often the true class shall be in the prediction set.", coverages
            )
        )
        trust.append(
            _query(
                "by_class",
                "Whether that holds for each class.",
                {"type": "boolean", "default": False},
            )
        )
    if known is not None and known.neighbours:
        count = {"type": "integer", "minimum": 0, "maximum": known.neighbours, "default": 0}
        trust.append(_query("nearest", "How many of the nearest training images to name.", count))
    return [_top_k(manifest), *trust, _deadline()]


def _top_k(manifest: Manifest) -> dict[str, Any]:
    classes = len(manifest.labels)
    return _query(
        "top_k",
        "How many classes to name.",
        {"type": "integer", "minimum": 1, "maximum": classes, "default": min(TOP_K, classes)},
    )


def _deadline() -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": MOST_MS, "default": DEADLINE_MS}
    return _query(
        "deadline_ms",
        "The time that an answer may take; what cannot be given in it is refused at once.",
        schema,
    )


def _method(name: str, manifest: Manifest, default: str | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "string",
        "enum": [method.name for method in available(manifest)],
    }
    return _query(
        name,
        "Explain by this method; GET /methods says what each means.",
        schema | ({"default": default} if default else {}),
    )


def _explaining(manifest: Manifest) -> list[dict[str, Any]]:
    target, shape, quality, legend = OF_EXPLANATIONS
    return [
        _query(
            target,
            "A label, an index, or two of them (cat,dog: why a cat rather than a dog); the predicted class if not given.",
            {"type": "string", "examples": list(manifest.labels[:3])},
        ),
        _query(
            shape,
            "How to give the map.",
            {"type": "string", "enum": ["overlay", "array", "both"], "default": "both"},
        ),
        _query(
            quality,
            "What is measured of the map; full asks the network some 170 times more.",
            {"type": "string", "enum": ["basic", "full"], "default": "basic"},
        ),
        _query(
            legend,
            "Whether a legend is drawn below the overlay; the image keeps its place at the upper left.",
            {"type": "boolean", "default": False},
        ),
        *(
            _query(name, _says(same), _schema([parameter for _, parameter in same]))
            for name, same in _by_name(manifest).items()
        ),
    ]


def _by_name(manifest: Manifest) -> dict[str, list[tuple[str, Parameter]]]:
    """The parameters of the methods, each with the methods that take one of its name."""
    found: dict[str, list[tuple[str, Parameter]]] = {}
    for method in available(manifest):
        for parameter in method.parameters:
            found.setdefault(parameter.name, []).append((method.name, parameter))
    return found


def _says(same: list[tuple[str, Parameter]]) -> str:
    """What a parameter is, and where its default or range depends on the method, which."""
    meanings = dict.fromkeys(parameter.description for _, parameter in same)
    text = "; or ".join(meanings)
    if len({_limits(parameter) for _, parameter in same}) > 1:
        text += ". " + "; ".join(f"{method}: {_told(parameter)}" for method, parameter in same)
    return f"{text[0].upper()}{text[1:]}."


def _told(parameter: Parameter) -> str:
    if parameter.choices:
        return f"{', '.join(parameter.choices)}, {parameter.default} if not given"
    return f"{parameter.low:g} to {parameter.high:.10g}, {parameter.default:g} if not given"


def _limits(parameter: Parameter) -> tuple[Any, ...]:
    return (parameter.default, parameter.low, parameter.high, parameter.choices)


def _schema(same: list[Parameter]) -> dict[str, Any]:
    """What all methods take; the default where they agree."""
    first = same[0]
    default = (
        {"default": first.default}
        if all(parameter.default == first.default for parameter in same)
        else {}
    )
    if first.choices:
        return {"type": "string", "enum": list(first.choices), **default}
    low, high = min(parameter.low for parameter in same), max(parameter.high for parameter in same)
    return {
        "type": "integer" if isinstance(first.default, int) else "number",
        "minimum": low,
        "maximum": high,
        **default,
    }


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _submissions() -> dict[str, Any]:
    return {
        "one image": {"value": {"image": IMAGE}},
        "several, and a parameter": {"value": {"images": [IMAGE, IMAGE], "top_k": 1}},
    }


def _submission() -> dict[str, Any]:
    image = BASE64
    return {
        "type": "object",
        "description": "One image as `image` or several as `images`; the parameters may be fields, too.",
        "properties": {
            "image": image,
            "images": {"type": "array", "items": image},
            "mask": image | {"description": _MASK},
        },
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
    }
