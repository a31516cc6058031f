"""Versions of the embedded bundle that differ in their manifest, and broken ones."""

import json
import os
from pathlib import Path
from typing import Any

from service.bundle.manifest import MANIFEST, Manifest
from service.settings import EMBEDDED_BUNDLE


def make_version(folder: Path, source: Path = EMBEDDED_BUNDLE, **changes: Any) -> str:
    """Writes a bundle like `source` with `changes` in its manifest; returns its version.

    Its files are links to those of `source`.
    """
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != MANIFEST:
            os.link(file, folder / file.name)
    document = json.loads((source / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(document))
    return Manifest.parse((folder / MANIFEST).read_bytes()).version


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Gives a version a file of its own."""
    (folder / name).unlink()
    (folder / name).write_bytes(content)


def point(folder: Path, label: str) -> None:
    """Makes the version in `folder`/`label` current, at one moment."""
    new = folder / ".current"
    new.write_text(f"{label}\n")
    new.replace(folder / "current")
