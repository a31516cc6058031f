"""The parameters of POST /predict and /explain as this model has them, as schemas by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service.api.parameters import DEFAULT_METHOD, OF_EXPLAIN, OF_EXPLANATIONS, OF_PREDICT
from service.api.wire.parameters import SCHEMAS
from service.api.wire.schemas import Schema
from service.bundle.manifest import Manifest
from service.explain import NOMINAL, Defaults, Parameter, available
from service.predictions import COVERAGE, TOP_K, most_top_k

Schemas = Mapping[str, Schema]


def of_predict(manifest: Manifest, defaults: Defaults = NOMINAL) -> Schemas:
    """The parameters of POST /predict; `defaults` stand before those of the methods."""
    return _of(OF_PREDICT, manifest, defaults)


def of_explain(manifest: Manifest, defaults: Defaults = NOMINAL) -> Schemas:
    """The parameters of POST /explain; `defaults` as in `of_predict`."""
    return _of(OF_EXPLAIN, manifest, defaults)


def _of(names: tuple[str, ...], manifest: Manifest, defaults: Defaults) -> Schemas:
    here, lacking = _of_model(manifest), _lacking(manifest)
    declared = {
        name: SCHEMAS[name] | here.get(name, {})
        for name in (*names, *OF_EXPLANATIONS)
        if name not in lacking
    }
    return {**declared, **_of_methods(manifest, defaults)}


def _of_model(manifest: Manifest) -> Mapping[str, Schema]:
    """What the model adds to the parameters that are declared for all."""
    most, sets, familiarity = most_top_k(manifest), manifest.prediction_sets, manifest.familiarity
    methods = [method.name for method in available(manifest)]
    return {
        "top_k": {"minimum": 1, "maximum": most, "default": min(TOP_K, most), "examples": [1]},
        # The keys of the manifest are texts, such as 0.90.
        "coverage": {"enum": list(sets.coverages) if sets else [], "default": COVERAGE},
        "nearest": {"minimum": 0, "maximum": familiarity.neighbours if familiarity else 0},
        "target": {"examples": list(manifest.labels[:3])},
        "explain": {"enum": methods, "examples": methods[:1]},
        "method": {"enum": methods, "default": DEFAULT_METHOD, "examples": methods[:1]},
    }


def _lacking(manifest: Manifest) -> set[str]:
    """The parameters of what this bundle does not measure."""
    sets = set() if manifest.prediction_sets else {"coverage", "by_class"}
    return sets if manifest.familiarity and manifest.familiarity.neighbours else sets | {"nearest"}


Uses = list[tuple[str, Parameter]]


def _of_methods(manifest: Manifest, defaults: Defaults) -> Schemas:
    """The parameters of all methods, each as the methods have it together."""
    uses: dict[str, Uses] = {}
    for method in available(manifest):
        own = defaults.get(method.name, {})
        for parameter in method.parameters:
            here = replace(parameter, default=own.get(parameter.name, parameter.default))
            uses.setdefault(parameter.name, []).append((method.name, here))
    return {name: _schema(those) for name, those in uses.items()}


def _schema(uses: Uses) -> Schema:
    """The values that any method accepts; with a default if all methods have the same."""
    parameters = [parameter for _, parameter in uses]
    first = parameters[0]
    same = all(parameter.default == first.default for parameter in parameters)
    common = {"description": _meaning(uses), "examples": [first.default]} | (
        {"default": first.default} if same else {}
    )
    if first.choices:
        return {"type": "string", "enum": list(first.choices), **common}
    return {
        "type": "integer" if isinstance(first.default, int) else "number",
        "minimum": min(parameter.low for parameter in parameters),
        "maximum": max(parameter.high for parameter in parameters),
        **common,
    }


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
