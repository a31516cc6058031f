"""The fast run leaves out exactly what starts a process or imports torch, and CI skips no test."""

import subprocess

import pytest

from support import images, load, selection
from support.servers import ROOT, Server


def starts_a_server():
    with Server(ROOT):
        pass


def imports_torch():
    import torch

    return torch


def imports_torch_through_ours():
    from training.fit import loop

    return loop


def runs_a_command():
    return [subprocess.run(["true"], check=False) for _ in range(1)]


def draws():
    return images.encode(images.draw())


def parses():
    return load.parse("")


@pytest.mark.parametrize(
    "slow",
    [
        starts_a_server,
        imports_torch,
        imports_torch_through_ours,
        runs_a_command,
        lambda: starts_a_server(),  # noqa: PLW0108 - reached through another function
    ],
)
def test_processes_and_torch_are_slow(slow):
    assert selection.starts_process(slow)


@pytest.mark.parametrize("fast", [draws, parses])
def test_other_functions_of_support_are_fast(fast):
    assert not selection.starts_process(fast)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("service/runtime/engine.py", False),
        ("training/fit/loop.py", True),
        ("training/__main__.py", False),
    ],
)
def test_an_import_of_torch_is_found_through_our_modules(file, expected):
    assert selection.imports_torch(ROOT / file) is expected


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("true", "Skipped: npm is missing", "failed"),
        ("true", "Skipped: no network: dns error", "failed"),
        ("true", "Skipped: this kernel forbids namespaces: EPERM", "skipped"),
        ("true", "Skipped: CUDAExecutionProvider cannot be loaded", "skipped"),
        ("", "Skipped: npm is missing", "skipped"),
    ],
)
def test_in_ci_a_skip_for_want_of_a_tool_is_a_failure(ci, reason, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    report = pytest.TestReport("a", ("a", 1, ""), {}, "skipped", ("a", 1, reason), "setup")
    selection.fail_in_ci(report)
    assert report.outcome == outcome
