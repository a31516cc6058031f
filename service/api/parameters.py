"""The parameters of a request, checked before any image is looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, short
from service.explain import METHODS, Question, ask, check_masked
from service.predictions import (
    COVERAGE,
    TOP_K,
    PredictionOptions,
    check_coverage,
    check_nearest,
    check_top_k,
)
from service.schedule.timing import DEADLINE_MS

DEFAULT_METHOD = "grad_cam"

MOST_MS = 60_000

Map = Literal["overlay", "array", "both"]
OF_PREDICTIONS = ("top_k", "coverage", "by_class", "nearest", "deadline_ms")
OF_PREDICT = (*OF_PREDICTIONS, "explain")
OF_EXPLAIN = (*OF_PREDICTIONS, "method")
OF_EXPLANATIONS = ("target", "map", "quality", "legend")
OF_METHODS = tuple(
    sorted({parameter.name for method in METHODS.values() for parameter in method.parameters})
)
OF_INFER = ("deadline_ms",)
OF_SETS = ("coverage", "by_class")
OF_ATTRIBUTIONS = ("method", "target", "quality", *OF_METHODS)


@dataclass(frozen=True)
class Options:
    """What is `asked` of the prediction, and the answer to `question` if there is one, as overlay, array or both.

    `mask` is the file of the segments that the question is of, if one was sent; `legend` goes below the overlay. `deadline_ms` is the
    caller's time, from the first byte.
    """

    asked: PredictionOptions
    question: Question | None
    map: Map = "both"
    mask: bytes | None = None
    legend: bool = False
    deadline_ms: int = DEADLINE_MS


def of_predict(manifest: Manifest, given: Mapping[str, Any], mask: bytes | None = None) -> Options:
    """The options of POST /predict; `explain=METHOD` asks for an explanation alongside.

    Raises:
        InvalidParameter: a parameter is unknown or out of its range, or there is a mask that nothing asks for.
        MethodUnavailable: the model cannot be explained that way.
    """
    method = given.get("explain")
    known = (*OF_PREDICT, *OF_EXPLANATIONS, *OF_METHODS) if method is not None else OF_PREDICT
    if mask is not None and method is None:
        raise InvalidParameter(
            "a mask was sent, and no explanation is asked for: add explain=METHOD"
        )
    return _options(manifest, given, method, known, mask)


def of_explain(manifest: Manifest, given: Mapping[str, Any], mask: bytes | None = None) -> Options:
    """The options of POST /explain.

    Raises:
        InvalidParameter: a parameter is unknown or out of its range, or there is a mask that the method has no use for.
        MethodUnavailable: the model cannot be explained that way.
    """
    return _options(
        manifest,
        given,
        given.get("method", DEFAULT_METHOD),
        (*OF_EXPLAIN, *OF_EXPLANATIONS, *OF_METHODS),
        mask,
    )


def of_infer(
    manifest: Manifest, given: Mapping[str, Any], *, explained: bool, sets: bool
) -> Options:
    """The options of an inference by tensors, which is `explained` or not, and gives prediction `sets` or not.

    Raises:
        InvalidParameter: a parameter is unknown or out of its range.
        MethodUnavailable: the model cannot be explained that way.
    """
    known = (*OF_INFER, *(OF_SETS if sets else ()), *(OF_ATTRIBUTIONS if explained else ()))
    return _options(
        manifest, given, given.get("method", DEFAULT_METHOD) if explained else None, known, None
    )


def _options(
    manifest: Manifest,
    given: Mapping[str, Any],
    method: Any,
    known: tuple[str, ...],
    mask: bytes | None,
) -> Options:
    for name in given:
        if name not in known:
            raise InvalidParameter(
                f"there is no parameter {short(name)} here; there are {', '.join(known)}"
            )
    asked = _asked(manifest, given)
    deadline_ms = _deadline(_whole("deadline_ms", given.get("deadline_ms", DEADLINE_MS)))
    if method is None:
        return Options(asked, None, deadline_ms=deadline_ms)
    shape = given.get("map", "both")
    if shape not in get_args(Map):
        raise InvalidParameter(f"map is {short(shape)}; it is one of {', '.join(get_args(Map))}")
    legend = _truth("legend", given.get("legend", False))
    if legend and shape == "array":
        raise InvalidParameter(
            "legend is true and map is array, and a legend goes below an overlay: ask for both, or for overlay"
        )
    target = given.get("target")
    rest = {name: value for name, value in given.items() if name in OF_METHODS}
    question = ask(
        manifest,
        str(method),
        None if target is None else str(target),
        rest,
        given.get("quality", "basic"),
    )
    if mask is not None:
        check_masked(str(method), rest)
    return Options(asked, question, shape, mask, legend, deadline_ms)


def _asked(manifest: Manifest, given: Mapping[str, Any]) -> PredictionOptions:
    top_k = check_top_k(
        _whole("top_k", given.get("top_k", min(TOP_K, len(manifest.labels)))), manifest
    )
    coverage = check_coverage(str(given["coverage"]), manifest) if "coverage" in given else COVERAGE
    by_class = _truth("by_class", given.get("by_class", False))
    if by_class and manifest.prediction_sets is None:
        raise InvalidParameter(
            "by_class is true, and this model has no prediction sets: leave it out"
        )
    return PredictionOptions(
        top_k,
        coverage,
        by_class,
        check_nearest(_whole("nearest", given.get("nearest", 0)), manifest),
    )


def _deadline(milliseconds: int) -> int:
    if not 1 <= milliseconds <= MOST_MS:
        raise InvalidParameter(f"deadline_ms is {milliseconds}; give 1 to {MOST_MS:,} milliseconds")
    return milliseconds


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidParameter(f"{name} is {short(value)}; give true or false")
    return bool(value == "true")


def _whole(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20:  # noqa: PLR2004
        return int(value)
    raise InvalidParameter(f"{name} is {short(value)}; give a whole number")
