"""Types of values from JSON, compared with the annotations of the dataclass that holds them."""

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check(value: Any, annotation: Any, place: str) -> None:
    """Checks that `value`, which messages call `place`, is of the annotated type, and its parts.

    An int serves as a float. Numbers are finite. A bool is no number.

    Raises:
        TypeError: it is not.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not types.NoneType]
        if value is not None or len(kinds) == len(arguments):
            check(value, next((kind for kind in kinds if _fits(value, kind)), kinds[0]), place)
    elif not _fits(value, annotation):
        raise TypeError(f"{place} is {type(value).__name__}, not {_name(annotation)}")
    else:
        for part, kind, name in _parts(value, annotation):
            check(part, kind, f"{place}{name}")


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin is Any:
        return True
    if origin is Literal:
        return value in get_args(annotation)
    if origin is float:
        return type(value) in (int, float) and math.isfinite(value)
    if origin is int:
        return type(value) is int
    return isinstance(value, origin)


def _parts(value: Any, annotation: Any) -> Iterator[tuple[Any, Any, str]]:
    """The parts of a value, with their annotations and names."""
    arguments = get_args(annotation)
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        for each in fields(annotation):
            yield getattr(value, each.name), hints[each.name], f".{each.name}"
    elif isinstance(value, Mapping) and arguments:
        for key, part in value.items():
            yield key, arguments[0], " (a key)"
            yield part, arguments[1], f".{key}"
    elif isinstance(value, tuple):
        kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(kinds) != len(value):
            raise TypeError(f"{annotation} has {len(kinds)} parts, and {len(value)} are given")
        for number, (part, kind) in enumerate(zip(value, kinds, strict=True)):
            yield part, kind, f"[{number}]"


def _name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if annotation is float:
        return "a finite number"
    return str(getattr(annotation, "__name__", annotation))
