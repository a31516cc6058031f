"""What is asked of an image: a method, a target and the method's parameters, all checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, MethodUnavailable, short
from service.explain.methods import METHODS, Method, Parameter, available
from service.explain.segments import Segments
from service.explain.target import Target, find_target

Quality = Literal["basic", "full"]


@dataclass(frozen=True)
class Question:
    """`target` is None for the predicted class; `parameters` has a value for each of the method's; `quality` says what is measured.

    `segments` among the parameters is a number, the cells a side of a grid, or the segments of a mask.
    """

    method: Method
    target: Target | None
    parameters: Mapping[str, Any]
    quality: Quality = "basic"


def ask(
    manifest: Manifest,
    method: str,
    target: str | None,
    given: Mapping[str, Any],
    quality: Any = "basic",
) -> Question:
    """The question; values in `given` may be text or JSON values, and only those of the method's parameters may be there.

    Raises:
        InvalidParameter: no such method, no such class, or a parameter is unknown or out of its range.
        MethodUnavailable: the bundle lacks the graph of the method.
    """
    if method not in METHODS:
        raise InvalidParameter(f"method is {short(method)}; the methods are {', '.join(METHODS)}")
    chosen = METHODS[method]
    if chosen not in available(manifest):
        names = ", ".join(m.name for m in available(manifest)) or "none"
        raise MethodUnavailable(
            f"{method} needs {chosen.graph}, and this model has none; it can be explained by: {names}"
        )
    known = {parameter.name for parameter in chosen.parameters}
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidParameter(
                f"{method} has no parameter {short(name)}; its parameters: {listed}"
            )
    values = {
        p.name: _value(p, given[p.name]) if p.name in given else p.default
        for p in chosen.parameters
    }
    if quality not in get_args(Quality):
        raise InvalidParameter(
            f"quality is {short(quality)}; it is one of {', '.join(get_args(Quality))}"
        )
    return Question(
        chosen, None if target is None else find_target(target, manifest), values, quality
    )


def check_masked(method: str, given: Mapping[str, Any]) -> None:
    """Whether a mask may come with a question for `method` with the parameters `given`.

    Raises:
        InvalidParameter: the method does not cut the image, or the number of cells is given, too.
    """
    if not METHODS[method].takes_mask:
        listed = ", ".join(name for name, known in METHODS.items() if known.takes_mask)
        raise InvalidParameter(
            f"a mask was sent, and {method} cuts no image into segments; those that do: {listed}"
        )
    if "segments" in given:
        raise InvalidParameter(
            f"segments is {short(given['segments'])} and a mask was sent: give one of them"
        )


def masked(question: Question, segments: Segments) -> Question:
    """`question`, asked of the `segments` of a mask instead of those of a grid."""
    return replace(question, parameters={**question.parameters, "segments": segments})


def _value(parameter: Parameter, given: Any) -> int | float | str:
    if parameter.choices:
        if given not in parameter.choices:
            raise InvalidParameter(
                f"{parameter.name} is {short(given)}; it is one of {', '.join(parameter.choices)}"
            )
        return str(given)
    kind = "a whole number" if isinstance(parameter.default, int) else "a number"
    value = _number(given, whole=isinstance(parameter.default, int))
    if value is None or not parameter.low <= value <= parameter.high:
        raise InvalidParameter(
            f"{parameter.name} is {short(given)}; give {kind} from {parameter.low:g} to {parameter.high:.10g}"
        )
    return value


def _number(given: Any, *, whole: bool) -> int | float | None:
    """`given`, text or a JSON value, as a number; None if it is none."""
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float | str)
        or (whole and isinstance(given, float))
    ):
        return None
    try:
        return int(given) if whole else float(given)
    except (ValueError, OverflowError):
        return None
