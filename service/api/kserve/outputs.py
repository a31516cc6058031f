"""The outputs of an inference of N images.

With K classes and maps of H × W they are:

    logits          FP32 (N, K)
    probabilities   FP32 (N, K)     calibrated
    label           BYTES (N,)
    likely          BOOL (N, K)     a probability of at least 0.5; of a multi-label model
    prediction_set  BOOL (N, K)     membership of each class; where the bundle has sets
    familiarity     FP32 (N,)       a score for the parameter `threshold`; where the bundle has one
    attribution     FP32 (N, H, W)  the explanation
    quality         FP32 (N, M)     M `measures` of `attribution`, NaN where a cheaper one has none

A request that names none gets all but the last two, which cost an explanation.

With the parameter `classification` k, from Triton's extension of that name, `logits` and
`probabilities` are BYTES (N, k) instead: the largest k values as "value:index:label".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.api.kserve.tensors import BOOL, BYTES, FP32, Output, OutputRequest
from service.bundle.manifest import Manifest
from service.explain import Attribution, Question
from service.predictions import LIKELY, Prediction, PredictionSet, most_probable
from service.runtime.graphs import Logits

LOGITS, PROBABILITIES, LABEL = "logits", "probabilities", "label"
LIKELY_CLASSES, SETS, FAMILIARITY = "likely", "prediction_set", "familiarity"
ATTRIBUTION, QUALITY = "attribution", "quality"
CLASSIFICATION, CLASSIFIED = "classification", (LOGITS, PROBABILITIES)


def usual_names(manifest: Manifest) -> tuple[str, ...]:
    """The names of the outputs that cost nothing: those of a request that names none."""
    optional = (
        (LIKELY_CLASSES, manifest.is_multi_label),
        (SETS, manifest.prediction_sets),
        (FAMILIARITY, manifest.familiarity),
    )
    return (LOGITS, PROBABILITIES, LABEL, *(name for name, part in optional if part))


def names(manifest: Manifest) -> tuple[str, ...]:
    """The names of all outputs of a model."""
    return (*usual_names(manifest), ATTRIBUTION, QUALITY)


def described(manifest: Manifest) -> list[dict[str, Any]]:
    """The outputs as GET /v2/models/NAME lists them."""
    classes = len(manifest.labels)
    kinds = {
        LOGITS: (FP32, [-1, classes]),
        PROBABILITIES: (FP32, [-1, classes]),
        LABEL: (BYTES, [-1]),
        LIKELY_CLASSES: (BOOL, [-1, classes]),
        SETS: (BOOL, [-1, classes]),
        FAMILIARITY: (FP32, [-1]),
        ATTRIBUTION: (FP32, [-1, *manifest.input.shape]),
        QUALITY: (FP32, [-1, -1]),
    }
    return [
        {"name": name, "datatype": kinds[name][0], "shape": kinds[name][1]}
        for name in names(manifest)
    ]


def output_of(
    request: OutputRequest,
    predictions: Sequence[Prediction],
    maps: Sequence[Attribution],
    manifest: Manifest,
) -> Output:
    """The requested output, of the rows' predictions and of their maps, if they are explained."""
    if request.name in (ATTRIBUTION, QUALITY):
        return _explanation(request, maps)
    if request.name == SETS:
        return _sets(request, [each.prediction_set for each in predictions], manifest)
    if request.name == FAMILIARITY:
        return _familiarity(request, predictions, manifest)
    if request.name == LABEL:
        return Output(request, [prediction.best.label for prediction in predictions])
    values = np.stack([prediction.logits for prediction in predictions])
    if request.name == LIKELY_CLASSES:
        return Output(request, manifest.calibration.probabilities(values) >= LIKELY)
    if request.name == PROBABILITIES:
        values = manifest.calibration.probabilities(values).astype(np.float32)
    count = request.parameters.get(CLASSIFICATION)
    return Output(request, values) if count is None else _classes(request, values, count, manifest)


def _classes(request: OutputRequest, values: Logits, count: int, manifest: Manifest) -> Output:
    texts = [
        f"{row[index]:f}:{index}:{manifest.labels[index]}"
        for row in values
        for index in most_probable(row.astype(np.float64), count).tolist()
    ]
    return Output(request, texts, columns=count)


def _familiarity(
    request: OutputRequest, predictions: Sequence[Prediction], manifest: Manifest
) -> Output:
    scores = [each.familiarity.score for each in predictions if each.familiarity]
    assert manifest.familiarity
    threshold = {"threshold": manifest.familiarity.threshold}
    return Output(request, np.array(scores, np.float32), threshold)


def _sets(
    request: OutputRequest, by_row: Sequence[PredictionSet | None], manifest: Manifest
) -> Output:
    sets = [each for each in by_row if each is not None]
    membership = np.zeros((len(sets), len(manifest.labels)), bool)
    for row, each in zip(membership, sets, strict=True):
        row[each.indices] = True
    parameters = {"coverage": sets[0].coverage, "by_class": sets[0].by_class}
    return Output(request, membership, parameters)


def _explanation(request: OutputRequest, maps: Sequence[Attribution]) -> Output:
    if request.name == ATTRIBUTION:
        values = np.stack([each.map for each in maps]).astype(np.float32)
        return Output(request, values, map_parameters(maps))
    measures, values = _quality(maps)
    # The unit of deletion and insertion is another where the target is not predicted.
    units = [f"row {row}: {each.areas_unit}" for row, each in enumerate(maps) if each.areas_unit]
    noted = {"areas_unit": "; ".join(units)} if units else {}
    return Output(request, values, {"measures": ",".join(measures)} | noted)


def _quality(
    maps: Sequence[Attribution],
) -> tuple[list[str], Float32[np.ndarray, "rows measures"]]:
    """The names of the measures, and their values; NaN where a row has none."""
    # A degraded row may have a method with other measures than the rest.
    measures = sorted({name for each in maps for name in each.quality})
    values = [[each.quality.get(name, np.nan) for name in measures] for each in maps]
    return measures, np.array(values, np.float32).reshape(len(maps), len(measures))


def map_parameters(maps: Sequence[Attribution]) -> dict[str, str | int | float]:
    """The question, the meaning of the values; the rows with a cheaper question, and with noise."""
    question = maps[0].degraded_from or maps[0].question
    parameters = {
        "method": question.method.name,
        **_scalars(question),
        "sign": question.method.sign,
        "unit": question.method.unit,
    }
    degraded = [
        f"row {row}: {_in_words(each.question)}"
        for row, each in enumerate(maps)
        if each.degraded_from
    ]
    warned = [
        f"row {row}: {'; '.join(each.warnings)}" for row, each in enumerate(maps) if each.warnings
    ]
    notes = {"degraded": degraded, "warnings": warned}
    return parameters | {name: "; ".join(rows) for name, rows in notes.items() if rows}


def _in_words(question: Question) -> str:
    parameters = (f"{name}={value}" for name, value in _scalars(question).items())
    return " ".join([question.method.name, *parameters])


def _scalars(question: Question) -> dict[str, str | int | float]:
    # The protocol has no parameter that is a list or an object.
    return {
        name: value
        for name, value in question.parameters.items()
        if isinstance(value, str | int | float)
    }
