"""The JSON of answers, from the results of the pipeline.

A map is float32 (H, W): in JSON base64 of its little-endian bytes, row by row, or a .npy file.
"""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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
from service.explain.maps.segments import count
from service.predictions import Class, Familiarity, Prediction, PredictionSet
from service.runtime.engine import Engine
from service.schedule.pipeline import Sent


def model(manifest: Manifest) -> dict[str, str]:
    """Name and version of the model that answers."""
    return {"name": manifest.name, "version": manifest.version}


def prediction(result: Prediction, sent: Sent) -> dict[str, Any]:
    """The part of an answer that every request gets; null where the bundle measures nothing."""
    return {
        **_class(result.best),
        "top": [_class(entry) for entry in result.top],
        **_likely(result),
        **({"classes": [_class(entry) for entry in result.classes]} if result.classes else {}),
        "temperature": result.temperature,
        "prediction_set": _set(result.prediction_set),
        "familiarity": _familiarity(result.familiarity),
        "image": {"width": sent.width, "height": sent.height, "format": sent.format},
    }


def _likely(result: Prediction) -> dict[str, Any]:
    if result.likely is None:
        return {}
    return {"likely": [_class(entry) for entry in result.likely]}


def nearest(result: Prediction, reference: Reference) -> dict[str, Any]:
    """The nearest reference images; nothing unless the request names a number of them."""
    if not result.nearest:
        return {}
    return {"nearest": [reference.describe(entry) for entry in result.nearest]}


def _set(result: PredictionSet | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "labels": list(result.labels),
        "indices": result.indices[: len(result.labels)].tolist(),
        "size": len(result.indices),
        "coverage": result.coverage,
        "by_class": result.by_class,
        **({"measured": _counted(result.counted)} if result.counted else {}),
    }


def _counted(counted: Counted) -> dict[str, Any]:
    low, high = counted.interval
    return {
        "sets": counted.sets,
        "share": counted.share,
        "interval": [low, high],
        "least_size": counted.least,
        "most_size": counted.most,
        "same_label": counted.label is not None,
    }


def _familiarity(result: Familiarity | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {"score": result.score, "threshold": result.threshold, "familiar": result.familiar}


def explanation(
    attribution: Attribution, manifest: Manifest, overlay: bytes | None, *, array: bool
) -> dict[str, Any]:
    """The explanation: question, map and quality.

    `array` adds the values of the map; `overlay`, a PNG file, becomes a data URL.
    """
    question, target = attribution.question, attribution.target
    document: dict[str, Any] = {
        "method": question.method.name,
        "target": _labelled(target.index, manifest),
        "against": None if target.against is None else _labelled(target.against, manifest),
        "parameters": _parameters(question.parameters),
        "degraded_from": _degraded_from(attribution.degraded_from),
        "map": _map(attribution, array=array),
        "computed_by": dict(attribution.origin),
        "quality": dict(attribution.quality),
        "areas_unit": attribution.areas_unit,
        "warnings": list(attribution.warnings),
    }
    if overlay is not None:
        document["overlay"] = "data:image/png;base64," + base64.b64encode(overlay).decode()
    return document


def _map(attribution: Attribution, *, array: bool) -> dict[str, Any]:
    method, values = attribution.question.method, attribution.map
    document = {
        "shape": list(values.shape),
        "dtype": "float32",
        "sign": method.sign,
        "unit": method.unit,
        "scale": float(np.abs(values).max()),
        "colours": method.scale,
        "limit": attribution.limit,
        "cell": attribution.cell,
    }
    if array:
        document["data"] = base64.b64encode(values.astype("<f4").tobytes()).decode()
    return document


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
    buffer = io.BytesIO()
    np.save(buffer, attribution.map.astype("<f4"), allow_pickle=False)
    return buffer.getvalue()


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
) -> dict[str, Any]:
    """GET /methods: the methods that this bundle has the graphs for, with the `defaults` here;
    `forecast` gives the seconds of an answer.
    """
    questions = (
        ask(manifest, method.name, None, {}, defaults=defaults) for method in available(manifest)
    )
    return {"methods": [_method(question, forecast(question)) for question in questions]}


def _method(question: Question, seconds: float) -> dict[str, Any]:
    method, own = question.method, question.parameters
    return {
        "name": method.name,
        "title": method.title,
        **_description(method.description),
        "source": method.source,
        "sign": method.sign,
        "unit": method.unit,
        "forward_passes": method.passes(own),
        "seconds": float(f"{seconds:.2g}"),
        "parameters": [_parameter(each, own[each.name]) for each in method.parameters],
        "mask": method.takes_mask,
    }


def _parameter(parameter: Parameter, default: Any) -> dict[str, Any]:
    limits = (
        {"choices": list(parameter.choices)}
        if parameter.choices
        else {"minimum": parameter.low, "maximum": parameter.high}
    )
    return {
        "name": parameter.name,
        "default": default,
        **_description(parameter.description),
        **limits,
    }


def _description(text: str) -> dict[str, str]:
    # `says` is the name of release 0.1, kept for one release.
    return {"description": text, "says": text}


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    segments = parameters.get("segments")
    if not isinstance(segments, np.ndarray):
        return dict(parameters)
    # The segments of a mask are an array (H, W): the answer holds their number instead.
    made = ("segments", "segmentation")
    rest = {name: value for name, value in parameters.items() if name not in made}
    return {"mask": {"segments": count(segments)}, **rest}


def _labelled(index: int, manifest: Manifest) -> dict[str, Any]:
    return {"label": manifest.labels[index], "index": index}


def _class(entry: Class) -> dict[str, Any]:
    return {"label": entry.label, "index": entry.index, "probability": entry.probability}
