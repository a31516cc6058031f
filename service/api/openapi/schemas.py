"""JSON Schemas (2020-12) of what the native API takes and answers, the components of its OpenAPI document.

Answers may gain fields, so none of them is closed.
"""

from typing import Any

from service.bundle.manifest import Manifest
from service.errors import MethodNotAllowed, NotFound, RequestError

Schema = dict[str, Any]

TEXT, NUMBER, WHOLE, OBJECT, FLAG = (
    {"type": name} for name in ("string", "number", "integer", "object", "boolean")
)
NOTHING = {"type": "null"}
BASE64 = {"type": "string", "contentEncoding": "base64"}
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mO4Y6SBFTEMLQkAdYpNgewyRzAAAAAASUVORK5CYII="  # 8×8, red
NOT_OF_A_ROUTE = (NotFound, MethodNotAllowed)  # told where nothing is served


def components(manifest: Manifest) -> dict[str, Schema]:
    """Every schema that another names."""
    shares = dict.fromkeys(("width", "height"), WHOLE)
    return {
        "Problem": closed("RFC 9457", type=TEXT, title=TEXT, status=WHOLE, detail=TEXT, code=TEXT),
        "Class": closed(
            "A class and its calibrated probability",
            label=_label(manifest),
            index=WHOLE,
            probability=_share(),
        ),
        "Model": closed("Which model answers", name=TEXT, version=TEXT),
        "Prediction": _prediction(
            manifest, closed("The image as it was sent", **shares, format=TEXT)
        ),
        "Explanation": _explanation(manifest),
        "Answer": {
            "allOf": [ref("Prediction"), closed("An answer about one image", model=ref("Model"))]
        },
        "Answers": closed(
            "Answers in the order of the images",
            model=ref("Model"),
            results=listed(either(ref("Prediction"), _failed())),
        ),
        "Methods": closed("What explains this model", methods=listed(_method())),
        "Manifest": _manifest(),
    }


def closed(description: str, **properties: Schema) -> Schema:
    """An object all of whose named properties are there."""
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": properties,
    }


def ref(name: str) -> Schema:
    """The component called `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(items: Schema) -> Schema:
    """A list of `items`."""
    return {"type": "array", "items": items}


def either(*schemas: Schema) -> Schema:
    """One of `schemas` at least."""
    return {"anyOf": list(schemas)}


def errors() -> dict[int, list[type[RequestError]]]:
    """What a route that exists may tell, by status."""
    found: dict[int, list[type[RequestError]]] = {}
    for leaf in RequestError.__subclasses__():
        if leaf not in NOT_OF_A_ROUTE:
            found.setdefault(leaf.status, []).append(leaf)
    return dict(sorted(found.items()))


def _label(manifest: Manifest) -> Schema:
    return {"type": "string", "examples": list(manifest.labels[:3])}


def _share() -> Schema:
    return {"type": "number", "minimum": 0, "maximum": 1}


def _prediction(manifest: Manifest, image: Schema) -> Schema:
    named = {"label": _label(manifest), "index": WHOLE, "probability": _share()}
    timing = {
        "type": "object",
        "description": "Milliseconds by stage",
        "additionalProperties": NUMBER,
    }
    divisor = {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "What divided the logits of this image before softmax",
    }
    trust = {
        "temperature": divisor,
        "prediction_set": either(_set(manifest), NOTHING),
        "familiarity": either(_familiarity(), NOTHING),
    }
    schema = closed(
        "The predicted class",
        **named,
        top=listed(ref("Class")),
        **trust,
        image=image,
        timing_ms=timing,
    )
    schema["properties"] |= {
        "explanation": ref("Explanation"),
        "nearest": listed(_neighbour(manifest)),
    }
    return schema


def _set(manifest: Manifest) -> Schema:
    labels = listed(_label(manifest)) | {"minItems": 1}
    return closed(
        "Classes among which the true one is, as often as `coverage`",
        labels=labels,
        coverage=_share(),
        by_class=FLAG,
    )


def _familiarity() -> Schema:
    return closed(
        "How like the training images it is: familiar from `threshold` on",
        score=NUMBER,
        threshold=NUMBER,
        familiar=FLAG,
    )


def _neighbour(manifest: Manifest) -> Schema:
    distance = {
        "type": "number",
        "minimum": 0,
        "maximum": 2,
        "description": "1 − cosine of the features",
    }
    schema = closed(
        "A training image", index=WHOLE, label=_label(manifest), name=TEXT, distance=distance
    )
    schema["properties"]["picture"] = {"type": "string", "description": "Where it is served"}
    return schema


def _explanation(manifest: Manifest) -> Schema:
    target = closed("A class", label=_label(manifest), index=WHOLE)
    values = closed(
        "float32, little-endian, row-major; positive = speaks for the target",
        shape=listed(WHOLE),
        dtype={"const": "float32"},
        sign={"enum": ["signed", "positive"]},
        unit=TEXT,
        scale={"type": "number", "description": "The largest absolute value"},
    )
    values["properties"]["data"] = BASE64
    schema = closed(
        "Which pixels speak for the target",
        method=TEXT,
        target=target,
        against=either(target, NOTHING),
        parameters=OBJECT,
        degraded_from=either(OBJECT, NOTHING),
        map=values,
        quality={
            "type": "object",
            "description": "What the map is worth",
            "additionalProperties": NUMBER,
        },
    )
    schema["properties"]["overlay"] = {
        "type": "string",
        "description": "The map over the image, a PNG as a data URL",
    }
    return schema


def _failed() -> Schema:
    return closed("What was wrong with this image", error=ref("Problem"))


def _method() -> Schema:
    texts = dict.fromkeys(("name", "title", "says", "source", "sign", "unit"), TEXT)
    parameter = closed("What may be chosen", name=TEXT, default={}, says=TEXT)
    return closed("A method", **texts, forward_passes=WHOLE, parameters=listed(parameter))


def _manifest() -> Schema:
    return closed(
        "The public manifest",
        name=TEXT,
        version=TEXT,
        labels=listed(TEXT),
        input=OBJECT,
        methods=listed(TEXT),
        device=closed("What computes", name=TEXT, provider=TEXT),
    )
