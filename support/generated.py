"""Clients generated from /openapi.json in Python, TypeScript and Java.

Those of TypeScript and Java take a compiler, too: they are kept for this machine, and made again
when something changes that code is made of.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.environments import kept, npm, python_of
from support.servers import ROOT

LOCK = ROOT / "tests" / "clients" / "typescript"
TSC = ("--strict", "--module", "nodenext", "--target", "es2022", "--skipLibCheck")
JAVA = (
    *("-g", "java", "--library", "native", "--additional-properties"),
    (
        "useSingleRequestParameter=true,openApiNullable=false,hideGenerationTimestamp=true,"
        "sourceFolder=src"
    ),
    *("--global-property", "skipFormModel=false,apiTests=false,modelTests=false"),
)
# An annotation that the generator writes and the JDK of today lacks.
ANNOTATION = """package javax.annotation;
public @interface Generated { String value(); String comments(); }
"""
PROSE = ("default", "description", "example", "examples", "summary", "title")


def python(document: bytes, folder: Path) -> Path:
    """A folder to import `candor_client` from; a warning of the generator fails the test."""
    given = folder / "openapi.json"
    given.write_bytes(document)
    programs = python_of("openapi").parent
    made = folder / "generated"
    command: list[str | Path] = [
        programs / "openapi-python-client",
        "generate",
        "--path",
        given,
        "--fail-on-warning",
    ]
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    _run([*command, "--output-path", made], folder, environment=path)
    return made


def typescript(document: bytes, example: str) -> Path:
    """The `example` in JavaScript, after its types were checked against those of the document."""
    modules, script = npm(LOCK), _key(document) + example

    def make(folder: Path) -> None:
        for name in ("package.json", "node_modules"):
            (folder / name).symlink_to(modules / name)
        (folder / "openapi.json").write_bytes(document)
        (folder / "ask.ts").write_text(example)
        programs = modules / "node_modules" / ".bin"
        _run([programs / "openapi-typescript", "openapi.json", "-o", "candor.ts"], folder)
        _run([programs / "tsc", *TSC, "ask.ts"], folder)

    return kept("made-typescript", script, make) / "ask.js"


def java(document: bytes) -> str:
    """The class path of the client in Java."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK is installed: scripts/packages default-jdk-headless")
    # The generator's own archive holds Jackson, which its clients need.
    (jar,) = python_of("openapi-generator").parents[1].rglob("openapi-generator.jar")

    def make(folder: Path) -> None:
        (folder / "openapi.json").write_bytes(document)
        _run(["java", "-XX:TieredStopAtLevel=1", "-jar", jar, "generate", "-i", "openapi.json",
              "-o", "client", *JAVA], folder)  # fmt: skip
        annotation = folder / "client" / "src" / "javax" / "annotation" / "Generated.java"
        annotation.parent.mkdir(parents=True)
        annotation.write_text(ANNOTATION)
        sources = sorted((folder / "client" / "src").rglob("*.java"))
        _run(["javac", "-proc:none", "-nowarn", "-cp", jar, "-d", "classes", *sources], folder)

    return f"{jar}:{kept('made-java', _key(document) + ' '.join(JAVA), make) / 'classes'}"


def _key(document: bytes) -> str:
    """The parts of a document that code is made of; defaults depend on the speed of a machine."""
    return json.dumps(_plain(json.loads(document)), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _plain(each)
        for name, each in value.items()
        if name not in PROSE or isinstance(each, dict)
    }


def _run(
    command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
