"""JSON Schemas (2020-12) of requests and answers: the components of the OpenAPI document.

Answers may gain fields in any release, so no schema forbids further properties.
"""

from typing import Any, get_args

from service.bundle.calibration import Head
from service.bundle.manifest import Manifest
from service.errors import MethodNotAllowed, NotFound, RequestError, Unauthorized
from service.explain.faithfulness import Unit
from service.predictions import LIKELY, SET_LABELS
from service.settings import Precision, Runtime

Schema = dict[str, Any]

TEXT, NUMBER, WHOLE, OBJECT, FLAG = (
    {"type": name} for name in ("string", "number", "integer", "object", "boolean")
)
NOTHING = {"type": "null"}
BASE64 = {"type": "string", "contentEncoding": "base64"}
# A red PNG of 8×8 pixels, for the examples.
IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mO4Y6SBFTEMLQkAdYpNgewyRzAAAAAA"
    "SUVORK5CYII="
)
# Where no route matches; where there are keys (`service.api.openapi.security`).
NO_ROUTE_ERRORS = (NotFound, MethodNotAllowed, Unauthorized)


def components(manifest: Manifest) -> dict[str, Schema]:
    """Every schema that another one refers to, by name."""
    image = record(
        "The image as it was sent",
        **dict.fromkeys(("width", "height"), WHOLE),
        format=TEXT,
    )
    return {
        "Problem": _problem(),
        "ProtocolError": _protocol_error(),
        "Class": record(
            "A class and its calibrated probability",
            label=_label(manifest),
            index=WHOLE,
            probability=_share(),
        ),
        "Model": record("The model that answers", name=TEXT, version=TEXT),
        "Prediction": _prediction(manifest, image),
        "Explanation": _explanation(manifest),
        "Answer": {
            "allOf": [ref("Prediction"), record("An answer about one image", model=ref("Model"))]
        },
        "Answers": record(
            "Answers in the order of the images",
            model=ref("Model"),
            results=array_of(any_of(ref("Prediction"), _failed())),
        ),
        "Methods": record("The methods that explain this model", methods=array_of(_method())),
        "Manifest": _manifest(),
    }


def record(description: str, /, **properties: Schema) -> Schema:
    """An object with all of these properties."""
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": properties,
    }


def ref(name: str) -> Schema:
    """The component called `name`."""
    return {"$ref": f"#/components/schemas/{name}"}


def array_of(items: Schema) -> Schema:
    """An array of `items`."""
    return {"type": "array", "items": items}


def any_of(*schemas: Schema) -> Schema:
    """A value of at least one of `schemas`."""
    return {"anyOf": list(schemas)}


def errors() -> dict[int, list[type[RequestError]]]:
    """The errors of existing routes on a server without keys, by status."""
    # The tree of errors is the only list of them: a new leaf appears in the document by itself.
    by_status: dict[int, list[type[RequestError]]] = {}
    for leaf in RequestError.__subclasses__():
        if leaf not in NO_ROUTE_ERRORS:
            by_status.setdefault(leaf.status, []).append(leaf)
    return dict(sorted(by_status.items()))


def _described(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}


def _protocol_error() -> Schema:
    return record("An error of KServe's protocols", error=TEXT)


def _problem() -> Schema:
    return record(
        "A problem (RFC 9457)",
        type=TEXT,
        title=TEXT,
        status=WHOLE,
        detail=_described(TEXT, "The cause, the value, the limit and the remedy"),
        code=_described(TEXT, "The stable name of this kind of error"),
    )


def _label(manifest: Manifest) -> Schema:
    return {"type": "string", "examples": list(manifest.labels[:3])}


def _share() -> Schema:
    return {"type": "number", "minimum": 0, "maximum": 1}


def _prediction(manifest: Manifest, image: Schema) -> Schema:
    temperature = {"type": "number", "exclusiveMinimum": 0}
    timing = {"type": "object", "additionalProperties": NUMBER}
    schema = record(
        "The most probable class" if manifest.is_multi_label else "The predicted class",
        label=_label(manifest),
        index=WHOLE,
        probability=_share(),
        top=array_of(ref("Class")),
        temperature=_described(temperature, "The divisor of this image's logits"),
        prediction_set=any_of(_set(manifest), NOTHING),
        familiarity=any_of(_familiarity(), NOTHING),
        image=image,
        timing_ms=_described(timing, "Milliseconds by stage"),
    )
    if manifest.is_multi_label:
        text = f"The classes with a probability of at least {LIKELY}, the most probable first"
        schema["properties"]["likely"] = _described(array_of(ref("Class")), text)
    schema["properties"] |= {
        "classes": _described(array_of(ref("Class")), "Those that the request names"),
        "explanation": ref("Explanation"),
        "nearest": array_of(_nearest(manifest)),
        "warnings": _described(array_of(TEXT), "What of the request was ignored"),
    }
    return schema


def _set(manifest: Manifest) -> Schema:
    labels = array_of(_label(manifest))
    if manifest.is_multi_label:
        text = "Classes; each is among them for a share `coverage` of the images that have it"
    else:
        text = (
            "Classes that may be the true one. Of the sets of all images a share `coverage` holds "
            "the true class, of large sets fewer; with `by_class`, of those of each class, each "
            "class for itself"
        )
        labels["minItems"] = 1
    schema = record(
        text,
        labels=_described(labels, f"The most probable {SET_LABELS} or `top_k`, if there are more"),
        indices=_described(array_of(WHOLE), "The indices of these classes"),
        size=_described(WHOLE, "The number of all classes in the set"),
        coverage=_share(),
        by_class=FLAG,
    )
    schema["properties"]["measured"] = _counted()
    return schema


def _counted() -> Schema:
    whole = any_of(WHOLE, NOTHING)
    return record(
        "Held-out images' sets like this one, in bundles that counted them",
        sets=_described(WHOLE, "The number of these sets"),
        share=_described(_share(), "The share of them that held the true class"),
        interval=_described(array_of(_share()), "The 95 % interval of the share"),
        least_size=WHOLE,
        most_size=_described(whole, "null: of any size from `least_size` on"),
        same_label=_described(FLAG, "True: those that held this class alone"),
    )


def _familiarity() -> Schema:
    return record(
        "Likeness to the training images: familiar from `threshold` on, which 95 % of the held-out "
        "images reach, and images of something else may",
        score=NUMBER,
        threshold=NUMBER,
        familiar=FLAG,
    )


def _nearest(manifest: Manifest) -> Schema:
    distance = {"type": "number", "minimum": 0, "maximum": 2}
    schema = record(
        "A reference image",
        index=WHOLE,
        label=_label(manifest),
        name=TEXT,
        distance=_described(distance, "1 − cosine of the features"),
    )
    schema["properties"]["picture"] = _described(TEXT, "The path of the image")
    return schema


def _explanation(manifest: Manifest) -> Schema:
    target = record("A class", label=_label(manifest), index=WHOLE)
    measures = {"type": "object", "additionalProperties": NUMBER}
    schema = record(
        "The evidence of each pixel for the target",
        method=TEXT,
        target=target,
        against=any_of(target, NOTHING),
        parameters=OBJECT,
        degraded_from=any_of(
            _described(OBJECT, "The request, if time allowed only a cheaper method"), NOTHING
        ),
        map=_map(),
        computed_by=record(
            "What computed the map", graph=TEXT, engine=_engine(), precision=_precisions("float16")
        ),
        quality=_described(measures, "Measures of the map's quality"),
        areas_unit=any_of(
            _described({"enum": list(get_args(Unit))}, "Of deletion and insertion, where measured"),
            NOTHING,
        ),
        warnings=_described(array_of(TEXT), "What makes the map unfit for use, by its measures"),
    )
    schema["properties"]["overlay"] = _described(
        TEXT, "The map over the image, a PNG file as a data URL"
    )
    return schema


def _engine() -> Schema:
    return {"enum": list(get_args(Runtime))}


def _precisions(*more: str) -> Schema:
    return {"enum": [*get_args(Precision), *more]}


def _device() -> Schema:
    numbers = {"type": "object", "additionalProperties": NUMBER}
    schema = record(
        "The device that computes",
        name=TEXT,
        provider=TEXT,
        engine=_engine(),
        precision=_precisions(),
    )
    schema["properties"] |= {
        "speed_ratio": _described(numbers, "Times as fast as ONNX Runtime in float32, if measured"),
        "cosines": _described(numbers, "With the answers of ONNX Runtime in float32, if measured"),
        "in_float32": _described(array_of(TEXT), "Graphs that bfloat16 is not proven for"),
    }
    return schema


def _map() -> Schema:
    schema = record(
        "The map: positive values are evidence for the target",
        shape=array_of(WHOLE),
        dtype={"const": "float32"},
        sign={"enum": ["signed", "positive"]},
        unit=TEXT,
        scale=_described(NUMBER, "The largest absolute value"),
        colours={"enum": ["diverging", "sequential"]},
        limit=_described(NUMBER, "The value of the strongest colour; 0 if nothing is drawn"),
        cell=_described(
            WHOLE, "The side, in pixels, of the cells whose means are drawn; 1: each pixel is drawn"
        ),
    )
    schema["properties"]["data"] = _described(BASE64, "float32, little-endian, row by row")
    return schema


def _failed() -> Schema:
    return record("The error of this image", error=ref("Problem"))


def _method() -> Schema:
    texts = dict.fromkeys(("name", "title", "description", "source", "sign", "unit"), TEXT)
    old = {"says": _deprecated("description")}
    parameter = record("A parameter", name=TEXT, default={}, description=TEXT, **old)
    return record(
        "A method",
        **texts,
        **old,
        forward_passes=WHOLE,
        seconds=_described(NUMBER, "With default parameters, on this machine while it is idle"),
        parameters=array_of(parameter),
    )


def _deprecated(name: str) -> Schema:
    text = f"The former name of `{name}`; the next release leaves it out"
    return _described(TEXT, text) | {"deprecated": True}


def _manifest() -> Schema:
    texts = {"type": "object", "additionalProperties": TEXT}
    sample = record("An image to try", file=TEXT, title=texts, attribution=TEXT)
    schema = record(
        "The public manifest",
        name=TEXT,
        version=TEXT,
        labels=array_of(TEXT),
        input=OBJECT,
        head={"enum": list(get_args(Head))},
        methods=array_of(TEXT),
        device=_device(),
    )
    schema["properties"] |= {
        "title": _described(texts, "For the page, by language"),
        "description": _described(texts, "For the page, by language"),
        "samples": array_of(sample),
    }
    return schema
