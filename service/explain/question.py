"""A question about an image: a method, a target and parameters, checked; its cost; cheaper ones.

Costs are in forward passes: of all graphs together, or by graph.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, get_args

from service.bundle import folder
from service.bundle.manifest import LAST, Manifest
from service.errors import SHOWN, InvalidParameter, MethodUnavailable, short
from service.explain.faithfulness import FAITHFULNESS_PASSES
from service.explain.maps.segments import Segments
from service.explain.maps.target import Target, find_target
from service.explain.method import Method, Parameter
from service.explain.methods import METHODS, available
from service.explain.quality import NOISY_COPIES

Quality = Literal["basic", "full"]
Defaults = Mapping[str, Mapping[str, Any]]  # the values of parameters, by method
NOMINAL: Defaults = {}
FEWEST = 4  # steps or samples of a map that is only compared
# Cost little more than a prediction; the first that a bundle has the graph for is its cheapest.
CHEAPEST = ("grad_cam", "input_x_gradient")
COARSE_OCCLUSION = {"window": 0.375, "stride": 0.25}


@dataclass(frozen=True)
class Question:
    """A checked question: `target` None is the predicted class; `quality` selects the measures.

    `parameters` has a value for each of the method's. `segments` among them is a number, the cells
    a side of a grid, or the segments of a mask.
    """

    method: Method
    target: Target | None
    parameters: Mapping[str, Any]
    quality: Quality = "basic"

    @property
    def title(self) -> str:
        """The method's title, and the layer unless it is the last one."""
        layer = self.parameters.get("layer", LAST)
        return self.method.title + ("" if layer == LAST else f" at the {layer} layer")

    # A question is kept for all requests that ask it.
    @cached_property
    def graph(self) -> str:
        """The graph that runs for the map."""
        return self.method.graph_of(self.parameters)

    @cached_property
    def most_passes(self) -> int:
        """The forward passes of an answer at most: all steps, and every doubling of samples."""
        given = self.parameters
        if "tolerance" in given:
            return forward_passes(replace(self, parameters={**given, "tolerance": 0.0}))
        if "max_samples" not in given:
            return forward_passes(self)
        samples = given["samples"]
        while 2 * samples <= given["max_samples"]:
            samples *= 2  # the earlier ones stay
        return forward_passes(replace(self, parameters={**given, "samples": samples}))


def ask(
    manifest: Manifest,
    method: str,
    target: str | None,
    given: Mapping[str, Any],
    quality: Any = "basic",
    defaults: Defaults = NOMINAL,
) -> Question:
    """Checks and completes a question; the values in `given` are text or JSON values.

    `defaults` stand before those of the method (`fitting_defaults`).

    Raises:
        InvalidParameter: the method, the class or a parameter is unknown, or a value out of range.
        MethodUnavailable: the bundle lacks the graph of the method.
    """
    chosen = _method(method, manifest)
    known = {parameter.name for parameter in chosen.parameters}
    for name in given:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidParameter(
                f"{method} has no parameter {short(name)}; its parameters: {listed}"
            )
    own = defaults.get(method, {})
    values = {
        p.name: _value(p, given[p.name]) if p.name in given else own.get(p.name, p.default)
        for p in chosen.parameters
    }
    if "samples" in given and "max_samples" in values and "max_samples" not in given:
        values["max_samples"] = values["samples"]  # so many were asked for, and not about so many
    if quality not in get_args(Quality):
        raise InvalidParameter(
            f"quality is {short(quality)}; it is one of {', '.join(get_args(Quality))}"
        )
    return Question(
        chosen, None if target is None else find_target(target, manifest), values, quality
    )


def fitting_defaults(
    manifest: Manifest, seconds_of: Callable[[Question], float], most_seconds: float
) -> Defaults:
    """For each method of a bundle the parameters of the first rung within `most_seconds`.

    They are the method's own where these fit; of what never fits, the cheapest.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for method in available(manifest):
        question = ask(manifest, method.name, None, {})
        while seconds_of(question) > most_seconds:
            fewer = method.fewer(question.parameters)
            if fewer is None:
                break
            question = replace(question, parameters=fewer)
        found[method.name] = question.parameters
    return found


def check_masked(method: str, given: Mapping[str, Any]) -> None:
    """Checks that `method` with the parameters `given` can use a mask.

    Raises:
        InvalidParameter: the method does not use segments, or `given` says how to cut the image.
    """
    if not METHODS[method].takes_mask:
        listed = ", ".join(name for name, known in METHODS.items() if known.takes_mask)
        raise InvalidParameter(
            f"a mask was sent, and {method} does not use segments; the methods that do are {listed}"
        )
    for name in ("segments", "segmentation"):
        if name in given:
            raise InvalidParameter(
                f"{name} is {short(given[name])} and a mask was sent: give one of them"
            )


def masked(question: Question, segments: Segments) -> Question:
    """`question` about the `segments` of a mask instead of those that are made."""
    return replace(question, parameters={**question.parameters, "segments": segments})


def forward_passes(question: Question) -> int:
    """The forward passes of an answer, its measures of quality included."""
    return sum(passes_by_graph(question).values())


def passes_by_graph(question: Question) -> dict[str, int]:
    """The same for each graph that runs: a row of a graph with gradients counts three."""
    method, target = question.method, question.target
    contrasted = target is not None and target.against is not None
    own = method.passes(question.parameters)
    total = own
    if question.graph != folder.PREDICT:
        # The rival's map, or that of the class beside; methods that perturb make both from the
        # same forward passes.
        fewer = {} if contrasted else quartered(question.parameters)
        total += method.passes({**question.parameters, **fewer})
        own *= 1 + contrasted
    if question.quality == "basic":
        return {question.graph: total}
    passes = {folder.PREDICT: FAITHFULNESS_PASSES}
    passes[question.graph] = passes.get(question.graph, 0) + total + NOISY_COPIES * own
    return passes


def algebra_operations(question: Question) -> int:
    """The multiplications of an answer's algebra, its measures of quality included."""
    own = question.method.operations(question.parameters)
    return (1 + NOISY_COPIES) * own if question.quality == "full" else own


def check_passes(question: Question, images: int, limit: int) -> None:
    """Checks that a question about so many images needs at most `limit` forward passes.

    Raises:
        InvalidParameter: it needs more.
    """
    each = question.most_passes
    if images * each > limit:
        raise InvalidParameter(
            f"{question.method.name} with these parameters takes up to {each:,} forward passes, "
            f"and {images:,} × {each:,} = {images * each:,}; the limit is {limit:,} a request: ask "
            "for fewer steps or samples, for quality=basic, or send fewer images"
        )


def quartered(parameters: Mapping[str, Any]) -> dict[str, int | float]:
    """A quarter of the steps or samples, without doubling them, and four times the tolerance."""
    fewer: dict[str, int | float] = {
        name: min(parameters[name], max(FEWEST, parameters[name] // 4))
        for name in ("steps", "samples")
        if name in parameters
    }
    if "samples" in parameters:
        fewer["max_samples"] = fewer["samples"]  # what takes too long is not doubled
    if "tolerance" in parameters:
        fewer["tolerance"] = min(1.0, 4 * parameters["tolerance"])
    return fewer


def cheapest_method(manifest: Manifest) -> Method | None:
    """The cheapest method of a bundle; None if it has no gradients."""
    methods = {method.name: method for method in available(manifest)}
    return next((methods[name] for name in CHEAPEST if name in methods), None)


def cheaper_questions(question: Question, manifest: Manifest) -> Iterator[Question]:
    """`question`, and then cheaper ones, each cheaper than the one before.

    First without full measures, then down the rungs of its method, then by cheaper methods.
    """
    yield question
    if question.quality == "full":
        question = replace(question, quality="basic")
        yield question
    while (fewer := question.method.fewer(question.parameters)) is not None:
        question = replace(question, parameters=fewer)
        yield question
    for method, parameters in _cheaper_methods(question, manifest):
        cheaper = replace(question, method=method, parameters=parameters)
        if forward_passes(question) > forward_passes(cheaper):
            question = cheaper
            yield question


def _cheaper_methods(
    question: Question, manifest: Manifest
) -> Iterator[tuple[Method, Mapping[str, Any]]]:
    """Methods that answer nearly the same for less, and the cheapest one."""
    method = question.method
    if method.graph == folder.PREDICT:
        baseline = question.parameters["baseline"]
        yield METHODS["occlusion"], {**COARSE_OCCLUSION, "baseline": baseline}
    if folder.LRP in manifest.files and method.graph != folder.CAM:
        yield METHODS["attn_lrp"], {}  # of a transformer it says more than Grad-CAM
    cheapest = cheapest_method(manifest)
    if cheapest is not None:
        yield cheapest, {each.name: each.default for each in cheapest.parameters}


def _method(name: str, manifest: Manifest) -> Method:
    if name not in METHODS:
        like = _like(name[:SHOWN].lower())
        meant = f": did you mean {' or '.join(like)}?" if like else ";"
        raise InvalidParameter(
            f"method is {short(name)}{meant} the methods are {', '.join(METHODS)}"
        )
    methods = {method.name: method for method in available(manifest)}
    if name not in methods:
        raise MethodUnavailable(
            f"{name} needs {METHODS[name].graph}, and this model has none; "
            f"it can be explained by: {', '.join(methods) or 'none'}"
        )
    return methods[name]


def _like(name: str) -> list[str]:
    """The methods that `name` may stand for: misspelt, a part of theirs, or their initials."""
    return get_close_matches(name, METHODS, 1) or [
        method
        for method in METHODS
        if name in method.split("_") or name == "".join(part[0] for part in method.split("_"))
    ]


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
            f"{parameter.name} is {short(given)}; "
            f"give {kind} from {parameter.low:g} to {parameter.high:.10g}"
        )
    return value


def _number(given: Any, *, whole: bool) -> int | float | None:
    """Text or a JSON value as a number; None if it is none."""
    # To Python, True is a whole number; to JavaScript, 2.0 is one.
    broken = whole and isinstance(given, float) and not given.is_integer()
    if isinstance(given, bool) or not isinstance(given, int | float | str) or broken:
        return None
    try:
        return int(given) if whole else float(given)
    except (ValueError, OverflowError):
        return None
