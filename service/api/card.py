"""GET /model/card: what the audit wrote about the model, as Markdown or as a page, both made once, at the start.

Nothing in a card is read as markup but Markdown itself; it may link the web and show the plots that are in the bundle with it.
"""

import html
import re
from collections.abc import Collection
from dataclasses import dataclass

from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import Response

from service.api.pages import File
from service.bundle.folder import CARD, Bundle

MARKDOWN, HTML = "text/markdown", "text/html"
METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # YAML, for model hubs
PLOTS = "/model/plots/"
VARY = "Accept, Accept-Encoding"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="/web/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/web/style.css">
<script src="/web/theme.js"></script>
</head>
<body>
<header class="top"><p class="brand"><a href="/">Candor</a> <span>{title}</span></p></header>
<main><article class="sheet card-text">
{body}</article></main>
</body>
</html>
"""


@dataclass(frozen=True)
class Card:
    """The card of a bundle in its two representations."""

    markdown: File
    page: File

    @classmethod
    def of(cls, bundle: Bundle) -> "Card | None":
        """The card of `bundle`, if it has one."""
        if not bundle.has(CARD):
            return None
        content = bundle.read(CARD)
        page = page_of(content.decode(), bundle.manifest.name, bundle.manifest.files)
        return cls(
            File.of(content, f"{MARKDOWN}; charset=utf-8"),
            File.of(page.encode(), f"{HTML}; charset=utf-8"),
        )

    async def answer(self, request: Request, kind: str) -> Response:
        """The card as `kind`, MARKDOWN or HTML."""
        response = await (self.page if kind == HTML else self.markdown).answer(request)
        response.headers["Vary"] = VARY
        return response


def page_of(text: str, title: str, files: Collection[str]) -> str:
    """A Markdown text as a page; of the bundle's `files` it may show the plots."""
    body = _Markdown(files).render(METADATA.sub("", text, count=1))
    return PAGE.format(title=html.escape(title), body=body)


class _Markdown(MarkdownIt):
    """CommonMark with tables, and without HTML."""

    def __init__(self, files: Collection[str]) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable("table")
        self._plots = {name for name in files if name.endswith(".png")}

    def normalizeLink(self, url: str) -> str:  # noqa: N802 - the parser's hook
        """Where the link leads; a plot to where it is served."""
        return f"{PLOTS}{url}" if url in self._plots else super().normalizeLink(url)

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the parser's hook
        """Whether it may be a link; what may not stays text."""
        return url.startswith(("http://", "https://", PLOTS))
