"""The part of a manifest that the page shows: texts by language, and samples, images to try.

A language is a tag such as "en" or "zh"; readers of a language that is missing get "en".
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.errors import ManifestError

LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
DEFAULT_LANGUAGE = "en"
# Neither is a plot, which an audit replaces.
SAMPLE_TYPES = {".jpg": "image/jpeg", ".webp": "image/webp"}

Texts = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """An image for the page to offer: a `file` of the bundle, and its `title` by language.

    `attribution`: author, source and licence in a line of plain text.
    """

    file: str
    title: Texts
    attribution: str


def check(texts: Mapping[str, Texts], samples: Collection[Sample]) -> None:
    """Checks the languages of `texts`, by the name of their field, and those of `samples`.

    Raises:
        ManifestError: a text lacks "en", a language is no tag, or a sample is no JPEG or WebP file.
    """
    for name, text in {
        **texts,
        **{f"samples.{each.file}.title": each.title for each in samples},
    }.items():
        if text and DEFAULT_LANGUAGE not in text:
            raise ManifestError(
                f"{name} has the languages {', '.join(text)}; "
                f"{DEFAULT_LANGUAGE!r} is needed, which readers of any other language get"
            )
        for tag in text:
            if not LANGUAGE.fullmatch(tag):
                raise ManifestError(
                    f"{name} has the language {tag[:20]!r}; give a tag such as en or zh"
                )
    for sample in samples:
        if not sample.file.endswith(tuple(SAMPLE_TYPES)):
            raise ManifestError(
                f"samples names {sample.file!r}; a sample is a file {', '.join(SAMPLE_TYPES)}"
            )
