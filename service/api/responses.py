"""The JSON of answers, from the results of the pipeline.

A map is float32 (H, W): in JSON base64 of its little-endian bytes, row by row, or a .npy file.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import pybase64

from service.api import wire
from service.bundle.manifest import Manifest
from service.bundle.prediction_sets import Counted
from service.bundle.reference import Reference
from service.explain import (
    Attribution,
    Defaults,
    Parameter,
    Question,
    ask,
    available,
)
from service.explain.encoding import MEDIA_TYPES, Encoding, Format, coded, npy_of
from service.explain.maps.segments import count
from service.predictions import Class, Familiarity, Prediction, PredictionSet
from service.runtime.engine import Engine
from service.schedule.sent import Sent


def model(manifest: Manifest) -> wire.Model:
    """Name and version of the model that answers."""
    return {"name": manifest.name, "version": manifest.version}


def prediction(result: Prediction, sent: Sent) -> wire.Seen:
    """The part of an answer that every request gets; null where the bundle measures nothing."""
    best = result.best
    seen: wire.Seen = {
        "label": best.label,
        "index": best.index,
        "probability": best.probability,
        "top": _classes(result.top),
        "temperature": result.temperature,
        "prediction_set": _set(result.prediction_set),
        "familiarity": _familiarity(result.familiarity),
        "image": {"width": sent.width, "height": sent.height, "format": sent.format},
    }
    if result.likely is not None:
        seen["likely"] = _classes(result.likely)
    if result.classes:
        seen["classes"] = _classes(result.classes)
    return seen


def nearest(result: Prediction, reference: Reference) -> list[wire.Nearest]:
    """The nearest reference images, as many as the request asks for."""
    # The bundle does not know the types of the API.
    return cast("list[wire.Nearest]", [reference.describe(entry) for entry in result.nearest])


def _set(result: PredictionSet | None) -> wire.PredictionSet | None:
    if result is None:
        return None
    found: wire.PredictionSet = {
        "labels": list(result.labels),
        "indices": result.indices[: len(result.labels)].tolist(),
        "size": len(result.indices),
        "coverage": result.coverage,
        "by_class": result.by_class,
    }
    if result.counted:
        found["measured"] = _counted(result.counted)
    return found


def _counted(counted: Counted) -> wire.Counted:
    low, high = counted.interval
    return {
        "sets": counted.sets,
        "share": counted.share,
        "interval": [low, high],
        "least_size": counted.least,
        "most_size": counted.most,
        "same_label": counted.label is not None,
    }


def _familiarity(result: Familiarity | None) -> wire.Familiarity | None:
    if result is None:
        return None
    return {"score": result.score, "threshold": result.threshold, "familiar": result.familiar}


def explanation(
    attribution: Attribution,
    manifest: Manifest,
    overlay: bytes | None = None,
    encoding: Encoding | None = None,
    form: Format = "png",
) -> wire.Explanation:
    """The explanation: question, map and quality.

    `encoding` adds the values of the map; `overlay`, a file of a `form`, becomes a data URL.
    """
    question, target = attribution.question, attribution.target
    document: wire.Explanation = {
        "method": question.method.name,
        "target": _labelled(target.index, manifest),
        "against": None if target.against is None else _labelled(target.against, manifest),
        "parameters": _parameters(question.parameters),
        "degraded_from": _degraded_from(attribution.degraded_from),
        "map": _map(attribution, encoding),
        "computed_by": cast("wire.Origin", attribution.origin),
        "quality": dict(attribution.quality),
        "areas_unit": attribution.areas_unit,
        "warnings": list(attribution.warnings),
    }
    if overlay is not None:
        text = pybase64.b64encode_as_string(overlay)
        document["overlay"] = f"data:{MEDIA_TYPES[form]};base64,{text}"
    return document


def _map(attribution: Attribution, encoding: Encoding | None) -> wire.AttributionMap:
    method, values = attribution.question.method, attribution.map
    document: wire.AttributionMap = {
        "shape": list(values.shape),
        "dtype": "float32",
        "sign": method.sign,
        "unit": method.unit,
        "scale": attribution.largest,
        "colours": method.scale,
        "limit": attribution.limit,
        "cell": attribution.cell,
    }
    if encoding is None:
        return document
    return cast("wire.AttributionMap", {**document, **coded(attribution, encoding)})


def _degraded_from(question: Question | None) -> dict[str, Any] | None:
    if question is None:
        return None
    return {
        "method": question.method.name,
        "parameters": _parameters(question.parameters),
        "quality": question.quality,
    }


def npy(attribution: Attribution) -> bytes:
    """The map as a .npy file, float32 (H, W)."""
    # "<f4" on every machine: the format is fixed, whatever the byte order of the processor.
    return npy_of(attribution.map.astype("<f4"))


def public_manifest(engine: Engine) -> dict[str, Any]:
    """GET /model: the manifest and the device, without the answers to the self-test image and the
    counts of sets by size.
    """
    manifest = engine.manifest
    document = manifest.document()
    # Its logits are for the start of the engine, and hundreds of numbers in a large model.
    for part in (document, document.get("int8", {})):
        part.pop("self_test", None)
    # An answer has the counts of its own kind of set; all of them are half of the document.
    (document.get("prediction_sets") or {}).pop("by_size", None)
    return document | {
        "version": manifest.version,
        "head": manifest.head,
        "methods": [method.name for method in available(manifest)],
        "device": {
            "name": engine.device,
            "provider": engine.provider,
            **engine.choice.document(),
        },
    }


def methods(
    manifest: Manifest, defaults: Defaults, forecast: Callable[[Question], float]
) -> wire.Methods:
    """GET /methods: the methods that this bundle has the graphs for, with the `defaults` here;
    `forecast` gives the seconds of an answer.
    """
    questions = (
        ask(manifest, method.name, None, {}, defaults=defaults) for method in available(manifest)
    )
    return {"methods": [_method(question, forecast(question)) for question in questions]}


def _method(question: Question, seconds: float) -> wire.MethodEntry:
    method, own = question.method, question.parameters
    return {
        "name": method.name,
        "title": method.title,
        "description": method.description,
        "says": method.description,
        "source": method.source,
        "sign": method.sign,
        "unit": method.unit,
        "forward_passes": method.passes(own),
        "seconds": float(f"{seconds:.2g}"),
        "parameters": [_parameter(each, own[each.name]) for each in method.parameters],
        "mask": method.takes_mask,
    }


def _parameter(parameter: Parameter, default: Any) -> wire.MethodParameter:
    described: wire.MethodParameter = {
        "name": parameter.name,
        "default": default,
        "description": parameter.description,
        "says": parameter.description,  # its name in release 0.1, kept for one release
    }
    if parameter.choices:
        described["choices"] = list(parameter.choices)
    else:
        described |= {"minimum": parameter.low, "maximum": parameter.high}
    return described


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    segments = parameters.get("segments")
    if not isinstance(segments, np.ndarray):
        return dict(parameters)
    # The segments of a mask are an array (H, W): the answer holds their number instead.
    made = ("segments", "segmentation")
    rest = {name: value for name, value in parameters.items() if name not in made}
    return {"mask": {"segments": count(segments)}, **rest}


def _labelled(index: int, manifest: Manifest) -> wire.Target:
    return {"label": manifest.labels[index], "index": index}


def _classes(entries: Iterable[Class]) -> list[wire.Class]:
    return [_class(entry) for entry in entries]


def _class(entry: Class) -> wire.Class:
    return {"label": entry.label, "index": entry.index, "probability": entry.probability}
