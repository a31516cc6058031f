"""The parameters of a request as checked `Options`, before any image is decoded.

Nothing is refused that changes nothing: an empty value, a parameter at its default where it has no
meaning, a name that nobody here knows, as of a cache-buster or a form's token. Such a name is
ignored with a warning, unless it is close to a known one: then it is likely misspelt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from service.api.wire import parameters as wire
from service.api.wire.parameters import MAX_DEADLINE_MS, Given, MapForm
from service.bundle.manifest import Manifest
from service.errors import SHOWN, InvalidParameter, short
from service.explain import METHODS, NOMINAL, Defaults, Question, ask, check_masked
from service.explain.encoding import Encoding, Format
from service.explain.policy import NONE, ON_REQUEST, Policy
from service.explain.question import cheapest_method
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
LIKE = 0.75  # of two names, 0…1 (difflib), from which one may be the other misspelt
MOST_WARNINGS = 5
MOST_UNKNOWN = 100  # names that are compared with the known ones, which takes 0.2 ms each

Usual = Mapping[str, set[str]]

# Names of parameters, by what they belong to.
OF_PREDICTIONS = tuple(wire.OfPredictions.__annotations__)
OF_PREDICT = (*OF_PREDICTIONS, "explain", "when")
OF_EXPLAIN = (*OF_PREDICTIONS, "method")
OF_EXPLANATIONS = tuple(wire.OfExplanations.__annotations__)
OF_METHODS = tuple(
    sorted({parameter.name for method in METHODS.values() for parameter in method.parameters})
)
OF_INFER = ("deadline_ms",)
TIMEOUT = "timeout"  # Triton's name of the same, in microseconds; 0 for none
OF_SETS = ("coverage", "by_class")
OF_ATTRIBUTIONS = ("method", "target", "quality", *OF_METHODS)
EVERYWHERE = frozenset((*OF_PREDICT, "method", *OF_EXPLANATIONS, *OF_METHODS))


@dataclass(frozen=True)
class Form:
    """How an explanation is written: a `map`, as an overlay of a format and an array in a coding.

    `legend` goes below an overlay.
    """

    map: MapForm = "both"
    overlay: Format = "png"
    encoding: Encoding = "base64"
    legend: bool = False

    @property
    def drawn(self) -> bool:
        """True if there is an overlay."""
        return self.map != "array"

    @property
    def coded(self) -> Encoding | None:
        """The coding of the array, if there is one."""
        return None if self.map == "overlay" else self.encoding


@dataclass(frozen=True)
class Options:
    """The checked parameters of one request.

    `question` is None without an explanation, `when` decides which images get one. `mask` is the
    file that `question` takes its segments from. `deadline_ms` counts from the first byte. Of an
    image beside others, the explanation should end within `share` of the time left. `warnings` name
    what was ignored.
    """

    prediction: PredictionOptions
    question: Question | None
    when: Policy = ON_REQUEST
    form: Form = Form()
    mask: bytes | None = None
    deadline_ms: int = DEADLINE_MS
    share: float = 1.0
    warnings: tuple[str, ...] = ()


def of_predict(
    manifest: Manifest,
    given: Mapping[str, Any],
    mask: bytes | None = None,
    defaults: Defaults = NOMINAL,
    policy: Policy | None = None,
) -> Options:
    """The options of POST /predict; `explain=METHOD` adds an explanation, and so does `when`.

    `defaults` are the parameters of methods where none are given; `policy` is that of the service.

    Raises:
        InvalidParameter: unknown, out of its range, or a mask without an explanation.
        MethodUnavailable: the model cannot be explained by that method.
    """
    method = given.get("explain") or None
    when = _when(given, policy if method is None else ON_REQUEST, manifest)
    if when is None or method == NONE:
        method = None
        given = {name: value for name, value in given.items() if name != "explain"}
    elif method is None and (cheapest := cheapest_method(manifest)) is not None:
        method = cheapest.name
        if not given.get("when"):
            given = {"map": "array", **given}  # nobody asked for a picture
    known = (*OF_PREDICT, *OF_EXPLANATIONS, *OF_METHODS) if method is not None else OF_PREDICT
    if mask is not None and method is None:
        raise InvalidParameter("a mask was sent without an explanation: add explain=METHOD")
    options = _options(manifest, given, method, known, mask, defaults)
    return options if method is None or when is None else replace(options, when=when)


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


def _when(given: Mapping[str, Any], policy: Policy | None, manifest: Manifest) -> Policy | None:
    """The policy that a request asks for by `when`, or else `policy`."""
    if not given.get("when"):
        return policy
    policy = Policy.parse(wire.check({"when": given["when"]})["when"])
    if policy is not None:
        policy.check(manifest)
    return policy


def _deadline_of(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The deadline that Triton's `timeout` stands for, as near as the limits let it."""
    microseconds = wire.whole(TIMEOUT, given[TIMEOUT])
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
    checked = wire.check(given)
    prediction, deadline_ms = _prediction(manifest, checked), checked["deadline_ms"]
    if method is None:
        return Options(prediction, None, deadline_ms=deadline_ms, warnings=warnings)
    question = _question(manifest, given, str(method), defaults, masked=mask is not None)
    return Options(
        prediction,
        question,
        form=_form(checked, question),
        mask=mask,
        deadline_ms=deadline_ms,
        warnings=warnings,
    )


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
    usual = {
        name: {str(schema["default"]).lower()}
        for name, schema in wire.SCHEMAS.items()
        if "default" in schema
    }
    usual["method"] = {DEFAULT_METHOD}
    for each in METHODS.values():
        for parameter in each.parameters:
            own = defaults.get(each.name, {}).get(parameter.name, parameter.default)
            usual.setdefault(parameter.name, set()).update((str(own), str(parameter.default)))
    return usual


def _prediction(manifest: Manifest, given: Given) -> PredictionOptions:
    default = min(TOP_K, len(manifest.labels))  # a model may have two classes
    top_k = check_top_k(given.get("top_k", default), manifest)
    coverage = given.get("coverage", COVERAGE)
    if coverage != COVERAGE:
        coverage = check_coverage(coverage, manifest)
    by_class = given["by_class"]
    if by_class and manifest.prediction_sets is None:
        raise InvalidParameter(
            "by_class is true, but this model has no prediction sets: leave it out"
        )
    nearest = check_nearest(given["nearest"], manifest)
    classes = find_classes(given["classes"], manifest) if "classes" in given else ()
    return PredictionOptions(top_k, coverage, by_class, nearest, classes)


def _form(given: Given, question: Question) -> Form:
    form = Form(given["map"], given["overlay_format"], given["encoding"], given["legend"])
    if form.legend and not form.drawn:
        raise InvalidParameter(
            "legend is true but map is array, and a legend goes below an overlay: "
            "set map to overlay or both"
        )
    if form.coded == "cells" and not question.method.of_cells:
        raise InvalidParameter(
            f"encoding is cells, and {question.method.name} has none, as class activation maps "
            "have: take base64, npy16 or png16"
        )
    return form


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
