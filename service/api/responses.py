"""Results → the JSON that design and OpenAPI describe."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.bundle.manifest import Manifest
from service.bundle.reference import Reference
from service.explain import Attribution, Method, Parameter, Question, available, render
from service.explain.segments import count
from service.predictions import Class, Familiarity, Prediction, PredictionSet
from service.runtime.engine import Engine
from service.schedule.pipeline import Sent


def model(manifest: Manifest) -> dict[str, str]:
    """Which model answers."""
    return {"name": manifest.name, "version": manifest.version}


def prediction(found: Prediction, sent: Sent) -> dict[str, Any]:
    """The part of an answer that every request gets; what the bundle cannot tell is null."""
    return {
        **_class(found.best),
        "top": [_class(entry) for entry in found.top],
        "temperature": found.temperature,
        "prediction_set": _set(found.prediction_set),
        "familiarity": _familiarity(found.familiarity),
        "image": {"width": sent.width, "height": sent.height, "format": sent.format},
    }


def nearest(found: Prediction, reference: Reference) -> dict[str, Any]:
    """The reference images, where they were asked for."""
    return (
        {"nearest": [reference.describe(neighbour) for neighbour in found.nearest]}
        if found.nearest
        else {}
    )


def _set(found: PredictionSet | None) -> dict[str, Any] | None:
    return (
        None
        if found is None
        else {"labels": list(found.labels), "coverage": found.coverage, "by_class": found.by_class}
    )


def _familiarity(found: Familiarity | None) -> dict[str, Any] | None:
    return (
        None
        if found is None
        else {"score": found.score, "threshold": found.threshold, "familiar": found.familiar}
    )


def explanation(
    attribution: Attribution, manifest: Manifest, overlay: bytes | None, *, array: bool
) -> dict[str, Any]:
    """The explanation: what was asked, the map as base64 of little-endian float32 if `array`, the overlay as a data URL if there is one."""
    question, values = attribution.question, attribution.map
    answer: dict[str, Any] = {
        "method": question.method.name,
        "target": _named(attribution.target.index, manifest),
        "against": None
        if attribution.target.against is None
        else _named(attribution.target.against, manifest),
        "parameters": _told(question.parameters),
        "degraded_from": _asked(attribution.degraded_from),
        "map": {
            "shape": list(values.shape),
            "dtype": "float32",
            "sign": question.method.sign,
            "unit": question.method.unit,
            "scale": float(np.abs(values).max()),
            "colours": question.method.scale,
            "limit": render.limit(values, question.method.scale),
        },
        "quality": dict(attribution.quality),
    }
    if array:
        answer["map"]["data"] = base64.b64encode(values.astype("<f4").tobytes()).decode()
    if overlay is not None:
        answer["overlay"] = "data:image/png;base64," + base64.b64encode(overlay).decode()
    return answer


def _asked(question: Question | None) -> dict[str, Any] | None:
    """What was asked before time made it cheaper."""
    if question is None:
        return None
    return {
        "method": question.method.name,
        "parameters": _told(question.parameters),
        "quality": question.quality,
    }


def npy(attribution: Attribution) -> bytes:
    """The map as a .npy file, float32 (S, S)."""
    buffer = io.BytesIO()
    np.save(buffer, attribution.map.astype("<f4"), allow_pickle=False)
    return buffer.getvalue()


def public_manifest(engine: Engine) -> dict[str, Any]:
    """GET /model: the manifest, and what it runs on."""
    manifest = engine.manifest
    document = manifest.document()
    for told in (document, document.get("int8", {})):
        told.pop("self_test", None)
    return document | {
        "version": manifest.version,
        "methods": [method.name for method in available(manifest)],
        "device": {
            "name": engine.device,
            "provider": engine.provider,
            "precision": engine.precision,
        },
    }


def methods(manifest: Manifest) -> dict[str, Any]:
    """GET /methods: what this model can be explained with."""
    return {"methods": [_method(method) for method in available(manifest)]}


def _method(method: Method) -> dict[str, Any]:
    defaults = {parameter.name: parameter.default for parameter in method.parameters}
    return {
        "name": method.name,
        "title": method.title,
        "says": method.description,
        "source": method.source,
        "sign": method.sign,
        "unit": method.unit,
        "forward_passes": method.passes(defaults),
        "parameters": [_parameter(parameter) for parameter in method.parameters],
        "mask": method.takes_mask,
    }


def _told(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as they were given; of a mask, how many segments the network sees."""
    cut = parameters.get("segments")
    if not isinstance(cut, np.ndarray):
        return dict(parameters)
    rest = {name: value for name, value in parameters.items() if name != "segments"}
    return {"mask": {"segments": count(cut)}, **rest}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    limits = (
        {"choices": list(parameter.choices)}
        if parameter.choices
        else {"minimum": parameter.low, "maximum": parameter.high}
    )
    return {
        "name": parameter.name,
        "default": parameter.default,
        "says": parameter.description,
        **limits,
    }


def _named(index: int, manifest: Manifest) -> dict[str, Any]:
    return {"label": manifest.labels[index], "index": index}


def _class(entry: Class) -> dict[str, Any]:
    return {"label": entry.label, "index": entry.index, "probability": entry.probability}
