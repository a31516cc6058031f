"""Types of values from JSON, by annotations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from service.bundle import types


@dataclass
class Inner:
    count: int
    share: float | None = None


@dataclass
class Outer:
    name: str
    inner: Mapping[str, Inner]
    pair: tuple[int, float] = (0, 0.5)
    many: tuple[float, ...] = ()
    kind: Literal["a", "b"] = "a"
    anything: Mapping[str, Any] | None = None


@pytest.mark.parametrize(
    "value",
    [
        Outer("x", {}),
        Outer("x", {"y": Inner(1), "z": Inner(2, 0.5)}, (1, 2), (1, 2.5), "b", {"p": [object()]}),
    ],
)
def test_values_of_the_annotated_types_pass(value):
    types.check(value, Outer, "it")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Outer(5, {}), "it.name is int, not str"),
        (Outer("x", []), "it.inner is list, not .*Mapping"),
        (Outer("x", {1: Inner(1)}), r"it.inner \(a key\) is int, not str"),
        (Outer("x", {"y": Inner(True)}), "it.inner.y.count is bool, not int"),
        (Outer("x", {"y": Inner(1, float("inf"))}), "it.inner.y.share is float, not a finite num"),
        (Outer("x", {"y": 3}), "it.inner.y is int, not Inner"),
        (Outer("x", {}, (1,)), "has 2 parts, and 1 are given"),
        (Outer("x", {}, (1, True)), r"it.pair\[1\] is bool, not a finite number"),
        (Outer("x", {}, many=(1, "2")), r"it.many\[1\] is str, not a finite number"),
        (Outer("x", {}, kind="c"), "it.kind is str, not one of a, b"),
        (Outer("x", {}, anything=5), "it.anything is int, not"),
    ],
)
def test_others_are_named_with_their_place(value, message):
    with pytest.raises(TypeError, match=message):
        types.check(value, Outer, "it")
