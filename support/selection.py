"""Rules for which tests run: the fast ones, and in CI no skip for want of a tool.

A fast test neither starts a process nor imports torch. Its code, its fixtures and its imports
decide that; no test is marked.
"""

import ast
import inspect
import multiprocessing
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from support.servers import ROOT

SLOW_PACKAGES = {"torch", "torchvision", "captum", "lightning"}
STARTERS = (subprocess, multiprocessing)
OURS = ("service", "training", "support", "benchmarks", "drawings")
# A machine may lack these although everything is installed.
HARDWARE = re.compile(r"GPU|CUDAExecutionProvider|this CPU has|kernel forbids|affinity|needs root")


def fail_in_ci(report: pytest.TestReport) -> None:
    """Turns a skip into a failure where CI=true, unless the machine lacks hardware or a right."""
    if report.skipped and isinstance(report.longrepr, tuple) and os.environ.get("CI") == "true":
        reason = report.longrepr[2]
        if not HARDWARE.search(reason):
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: {reason}; in CI that is a failure"


@cache
def imports_torch(path: Path) -> bool:
    """True if an import of the file imports torch, directly or through our own modules."""
    waiting, seen = [path], {path}
    while waiting:
        names = _imported(waiting.pop())
        if any(name.partition(".")[0] in SLOW_PACKAGES for name in names):
            return True
        files = {file for name in names for file in _files(name)} - seen
        seen |= files
        waiting += files
    return False


@cache
def starts_process(function: Callable[..., Any]) -> bool:
    """True if a test or a fixture reaches a module that starts processes, or imports torch."""
    waiting, seen = [inspect.unwrap(function)], {inspect.unwrap(function)}
    while waiting:
        current = waiting.pop()
        names = set(_names(current.__code__))
        # `from a.b import c` leaves a.b and c in the code.
        names |= {f"{one}.{other}" for one in names if one.startswith(OURS) for other in names}
        if any(name.partition(".")[0] in SLOW_PACKAGES for name in names):
            return True
        if any(imports_torch(file) for name in names for file in _files(name)):
            return True
        values = [current.__globals__[name] for name in names if name in current.__globals__]
        if any(value is starter for value in values for starter in STARTERS):
            return True
        reached = {one for value in values for one in _functions(value, names)} - seen
        seen |= reached
        waiting += reached
    return False


@cache
def _imported(path: Path) -> frozenset[str]:
    """The modules that a file imports when it is imported itself: not those inside functions."""
    names, waiting = set[str](), list[ast.AST]([ast.parse(path.read_text())])
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return frozenset(names)


@cache
def _files(module: str) -> tuple[Path, ...]:
    """Our own files that an import of `module` runs: its packages and itself."""
    parts = module.split(".")
    if parts[0] not in OURS:
        return ()
    places = [ROOT.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    files = [*(place / "__init__.py" for place in places), places[-1].with_suffix(".py")]
    return tuple(file for file in files if file.exists())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _functions(value: object, names: set[str]) -> Iterator[Callable[..., Any]]:
    """Functions of ours behind a global: itself, a class's of the tests, or a module's `names`."""
    if isinstance(value, ModuleType):
        if _is_ours(value.__name__):
            for name in names & vars(value).keys():
                yield from _functions(vars(value)[name], set())
    elif inspect.isclass(value):
        for base in value.__mro__:
            if _is_of_tests(base.__module__ or ""):  # protobuf's messages have none
                methods = filter(inspect.isfunction, vars(base).values())
                yield from map(inspect.unwrap, methods)
    elif callable(value) and inspect.isfunction(inspect.unwrap(value)):
        function = inspect.unwrap(value)
        if _is_ours(function.__module__):
            yield function


def _is_ours(module: str) -> bool:
    return _is_of_tests(module) or module.startswith(OURS)


def _is_of_tests(module: str) -> bool:
    return module.startswith(("support", "tests", "test_"))
