"""What a bundle shows on the page: texts and samples, read from a folder and put into the bundle.

The folder holds the images and page.json, in the words of the manifest, each part optional:

    {"title": {"en": "…", "zh": "…"}, "description": {"en": "…"},
     "samples": [{"file": "cat.webp", "title": {"en": "Cat"}, "attribution": "author, licence"}]}
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.bundle import folder as contract
from service.bundle import types
from service.bundle.folder import Bundle
from service.bundle.presentation import Sample

PAGE = "page.json"
PARTS = ("title", "description", "samples")


class PageError(Exception):
    """The folder holds no such page; the message names the part."""


def present(bundle: Bundle, page: Path, folder: Path) -> Bundle:
    """Writes `bundle` to `folder` with the texts and the samples of `page`, instead of its own.

    Raises:
        PageError: page.json or an image is missing, or page.json is no such document.
    """
    parts = _read(page)
    former = {sample.file for sample in bundle.manifest.samples}
    files = {name: bundle.read(name) for name in bundle.manifest.files if name not in former}
    try:
        new = {sample.file: (page / sample.file).read_bytes() for sample in parts["samples"]}
    except OSError as error:
        raise PageError(f"{error.filename} cannot be read ({error.strerror}): add it") from None
    taken = new.keys() & files.keys()
    if taken:
        raise PageError(f"the bundle has a file {min(taken)} already: rename the sample")
    return contract.write(folder, replace(bundle.manifest, **parts), files | new)


def _read(page: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((page / PAGE).read_text(encoding="utf-8"))
        unknown = document.keys() - set(PARTS)
        if unknown:
            raise PageError(f"{page / PAGE} has {min(unknown)!r}; it may have {', '.join(PARTS)}")
        samples = tuple(Sample(**values) for values in document.get("samples", ()))
        types.check(samples, tuple[Sample, ...], "samples")
        return {"title": {}, "description": {}} | document | {"samples": samples}
    except OSError as error:
        raise PageError(f"{page} holds no {PAGE} ({error.strerror}): write one") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise PageError(
            f"{page / PAGE} is no page ({error}): see training/export/page.py"
        ) from None
