"""The parameters of a request as checked `Options`, before any image is decoded.

Nothing is refused that changes nothing: an empty value, a parameter at its default where it has no
meaning, a name that nobody here knows, as of a cache-buster or a form's token. Such a name is
ignored with a warning, unless it is close to a known one: then it is likely misspelt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from service.bundle.manifest import Manifest
from service.errors import SHOWN, InvalidParameter, short
from service.explain import METHODS, NOMINAL, Defaults, Question, ask, check_masked
from service.predictions import (
    COVERAGE,
    TOP_K,
    PredictionOptions,
    check_coverage,
    check_nearest,
    check_top_k,
    find_classes,
)
from service.schedule.timing import DEADLINE_MS

DEFAULT_METHOD = "grad_cam"
MAX_DEADLINE_MS = 60_000
MAX_DIGITS = 19  # of a whole number in text; int() takes seconds for millions of them

LIKE = 0.75  # of two names, 0…1 (difflib), from which one may be the other misspelt
MOST_WARNINGS = 5
MOST_UNKNOWN = 100  # names that are compared with the known ones, which takes 0.2 ms each

MapForm = Literal["overlay", "array", "both"]
Usual = Mapping[str, set[str]]

# Names of parameters, by what they belong to.
OF_PREDICTIONS = ("top_k", "classes", "coverage", "by_class", "nearest", "deadline_ms")
OF_PREDICT = (*OF_PREDICTIONS, "explain")
OF_EXPLAIN = (*OF_PREDICTIONS, "method")
OF_EXPLANATIONS = ("target", "map", "quality", "legend")
OF_METHODS = tuple(
    sorted({parameter.name for method in METHODS.values() for parameter in method.parameters})
)
OF_INFER = ("deadline_ms",)
TIMEOUT = "timeout"  # Triton's name of the same, in microseconds; 0 for none
OF_SETS = ("coverage", "by_class")
OF_ATTRIBUTIONS = ("method", "target", "quality", *OF_METHODS)
EVERYWHERE = frozenset((*OF_PREDICT, "method", *OF_EXPLANATIONS, *OF_METHODS))


@dataclass(frozen=True)
class Options:
    """The checked parameters of one request.

    `question` is None without an explanation; `map` and `legend` are about its form. `mask` is the
    file that `question` takes its segments from. `deadline_ms` counts from the first byte. Of an
    image beside others, the explanation should end within `share` of the time left. `warnings` name
    what was ignored.
    """

    prediction: PredictionOptions
    question: Question | None
    map: MapForm = "both"
    mask: bytes | None = None
    legend: bool = False
    deadline_ms: int = DEADLINE_MS
    share: float = 1.0
    warnings: tuple[str, ...] = ()


def of_predict(
    manifest: Manifest,
    given: Mapping[str, Any],
    mask: bytes | None = None,
    defaults: Defaults = NOMINAL,
) -> Options:
    """The options of POST /predict; `explain=METHOD` adds an explanation.

    `defaults` are the parameters of methods where none are given.

    Raises:
        InvalidParameter: unknown, out of its range, or a mask without an explanation.
        MethodUnavailable: the model cannot be explained by that method.
    """
    method = given.get("explain") or None
    known = (*OF_PREDICT, *OF_EXPLANATIONS, *OF_METHODS) if method is not None else OF_PREDICT
    if mask is not None and method is None:
        raise InvalidParameter("a mask was sent without an explanation: add explain=METHOD")
    return _options(manifest, given, method, known, mask, defaults)


def of_explain(
    manifest: Manifest,
    given: Mapping[str, Any],
    mask: bytes | None = None,
    defaults: Defaults = NOMINAL,
) -> Options:
    """The options of POST /explain; `defaults` as in `of_predict`.

    Raises:
        InvalidParameter: unknown, out of its range, or a mask that the method cannot use.
        MethodUnavailable: the model cannot be explained by that method.
    """
    known = (*OF_EXPLAIN, *OF_EXPLANATIONS, *OF_METHODS)
    return _options(manifest, given, given.get("method") or DEFAULT_METHOD, known, mask, defaults)


def of_infer(
    manifest: Manifest,
    given: Mapping[str, Any],
    *,
    explained: bool,
    sets: bool,
    defaults: Defaults = NOMINAL,
) -> Options:
    """The options of an inference by tensors, with an attribution or prediction sets among them;
    `defaults` as in `of_predict`.

    Raises:
        InvalidParameter: unknown or out of its range.
        MethodUnavailable: the model cannot be explained by that method.
    """
    known = (*OF_INFER, *(OF_SETS if sets else ()), *(OF_ATTRIBUTIONS if explained else ()))
    if TIMEOUT in given:
        rest = {name: value for name, value in given.items() if name != TIMEOUT}
        given = {**rest, **_deadline_of(given)}
    method = given.get("method") or DEFAULT_METHOD if explained else None
    return _options(manifest, given, method, known, None, defaults)


def _deadline_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The deadline that Triton's `timeout` stands for, as near as the limits let it."""
    microseconds = _whole(TIMEOUT, given[TIMEOUT])
    if microseconds <= 0 or "deadline_ms" in given:
        return {}
    return {"deadline_ms": min(max(1, microseconds // 1000), MAX_DEADLINE_MS)}


def _options(
    manifest: Manifest,
    given: Mapping[str, Any],
    method: Any,
    known: tuple[str, ...],
    mask: bytes | None,
    defaults: Defaults,
) -> Options:
    given, warnings = _meant(given, known, lambda: _usual(defaults))
    # Values are text in a query or a form, and may be numbers and booleans in JSON.
    prediction = _prediction(manifest, given)
    deadline_ms = _deadline(_whole("deadline_ms", given.get("deadline_ms", DEADLINE_MS)))
    if method is None:
        return Options(prediction, None, deadline_ms=deadline_ms, warnings=warnings)
    form, legend = _map_form(given)
    question = _question(manifest, given, str(method), defaults, masked=mask is not None)
    return Options(prediction, question, form, mask, legend, deadline_ms, warnings=warnings)


def _meant(
    given: Mapping[str, Any], known: tuple[str, ...], usual: Callable[[], Usual]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The parameters of `given` that are `known`, and warnings of others.

    Of one that is known elsewhere, its `usual` values pass.
    """
    meant = {name: value for name, value in given.items() if value not in ("", None)}
    unknown = []
    for name in [name for name in meant if name not in known]:
        text = str(meant.pop(name)).lower()
        if name in EVERYWHERE:
            if text not in usual().get(name, ()):
                raise InvalidParameter(f"{name} has no meaning here; {_listed(known)}")
        else:
            unknown.append(name)
    return meant, ignored(unknown, known)


def ignored(names: Sequence[object], known: Sequence[str]) -> tuple[str, ...]:
    """Warnings that the parameters `names` are ignored, which nobody knows.

    Raises:
        InvalidParameter: one is close to one of the `known`, and may be that one misspelt; or
            there are more than MOST_UNKNOWN.
    """
    if len(names) > MOST_UNKNOWN:
        raise InvalidParameter(
            f"{len(names):,} parameters are not known here; the limit is {MOST_UNKNOWN}: "
            f"leave them out; {_listed(known)}"
        )
    for name in names:
        if like := get_close_matches(str(name)[:SHOWN].lower(), known, 1, LIKE):
            raise InvalidParameter(
                f"unknown parameter {short(name)}: did you mean {like[0]}? {_listed(known)}"
            )
    more = len(names) - MOST_WARNINGS
    rest = [f"{more} more were ignored, too"] if more > 0 else []
    return (
        *(
            f"the parameter {short(name)} is not known here and was ignored"
            for name in names[:MOST_WARNINGS]
        ),
        *rest,
    )


def _listed(known: Sequence[str]) -> str:
    return f"the parameters here are {', '.join(known)}"


def _usual(defaults: Defaults) -> Usual:
    """The defaults of the parameters of explanations by name, as texts: a name may have several."""
    usual: dict[str, set[str]] = {
        "map": {"both"},
        "quality": {"basic"},
        "legend": {"false"},
        "method": {DEFAULT_METHOD},
    }
    for each in METHODS.values():
        for parameter in each.parameters:
            own = defaults.get(each.name, {}).get(parameter.name, parameter.default)
            usual.setdefault(parameter.name, set()).update((str(own), str(parameter.default)))
    return usual


def _prediction(manifest: Manifest, given: Mapping[str, Any]) -> PredictionOptions:
    default = min(TOP_K, len(manifest.labels))  # a model may have two classes
    top_k = check_top_k(_whole("top_k", given.get("top_k", default)), manifest)
    coverage = str(given.get("coverage", COVERAGE))
    if coverage != COVERAGE:
        coverage = check_coverage(coverage, manifest)
    by_class = _boolean("by_class", given.get("by_class", False))
    if by_class and manifest.prediction_sets is None:
        raise InvalidParameter(
            "by_class is true, but this model has no prediction sets: leave it out"
        )
    nearest = check_nearest(_whole("nearest", given.get("nearest", 0)), manifest)
    classes = find_classes(str(given["classes"]), manifest) if "classes" in given else ()
    return PredictionOptions(top_k, coverage, by_class, nearest, classes)


def _map_form(given: Mapping[str, Any]) -> tuple[MapForm, bool]:
    form = given.get("map", "both")
    if form not in get_args(MapForm):
        raise InvalidParameter(
            f"map is {short(form)}; it must be one of {', '.join(get_args(MapForm))}"
        )
    legend = _boolean("legend", given.get("legend", False))
    if legend and form == "array":
        raise InvalidParameter(
            "legend is true but map is array, and a legend goes below an overlay: "
            "set map to overlay or both"
        )
    return form, legend


def _question(
    manifest: Manifest, given: Mapping[str, Any], method: str, defaults: Defaults, *, masked: bool
) -> Question:
    target = given.get("target")
    parameters = {name: value for name, value in given.items() if name in OF_METHODS}
    own = (
        {parameter.name for parameter in METHODS[method].parameters} if method in METHODS else set()
    )
    if not own.issuperset(parameters):
        usual = _usual(defaults)
        parameters = {
            name: value
            for name, value in parameters.items()
            if name in own or str(value).lower() not in usual[name]
        }
    question = ask(
        manifest,
        method,
        None if target is None else str(target),
        parameters,
        given.get("quality", "basic"),
        defaults,
    )
    if masked:
        check_masked(method, parameters)
    return question


def _deadline(milliseconds: int) -> int:
    if not 1 <= milliseconds <= MAX_DEADLINE_MS:
        raise InvalidParameter(
            f"deadline_ms is {milliseconds}; give 1 to {MAX_DEADLINE_MS:,} milliseconds"
        )
    return milliseconds


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidParameter(f"{name} is {short(value)}; give true or false")
    return bool(value == "true")


def _whole(name: str, value: Any) -> int:
    # In Python true is an int; in JavaScript 2.0 is one.
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if (
        isinstance(value, str)
        and value.strip().removeprefix("-").isdecimal()
        and len(value) <= MAX_DIGITS
    ):
        return int(value)
    raise InvalidParameter(f"{name} is {short(value)}; give a whole number")
