"""GET /model/card: the audit's report about the model, as Markdown or as a page.

A card is data: Markdown is the only markup in it. It may link the web and show the bundle's plots.
"""

import html
import re
from collections.abc import Collection
from dataclasses import dataclass
from string import Template

from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import Response

from service.api.pages import CARD_TEMPLATE, WEB, File
from service.bundle.folder import CARD, Bundle

MARKDOWN, HTML = "text/markdown", "text/html"
METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # YAML, for model hubs
PLOTS = "/model/plots/"
FOREIGN_IMAGE = re.compile(r'<img src="(https?:[^"]*)" alt="([^"]*)"[^>]*>')
VARY = "Accept, Accept-Encoding"


@dataclass(frozen=True)
class Card:
    """The card of a bundle in its two representations."""

    markdown: File
    page: File

    @classmethod
    def of(cls, bundle: Bundle, prefix: str = "") -> "Card | None":
        """The card of `bundle`, or None if it has none; its plots are below the path `prefix`."""
        if not bundle.has(CARD):
            return None
        content = bundle.read(CARD)
        page = page_of(content.decode(), bundle.manifest.name, bundle.manifest.files, prefix)
        return cls(
            File.of(content, f"{MARKDOWN}; charset=utf-8"),
            File.of(page.encode(), f"{HTML}; charset=utf-8"),
        )

    async def answer(self, request: Request, kind: str) -> Response:
        """The card as `kind`, MARKDOWN or HTML."""
        response = await (self.page if kind == HTML else self.markdown).answer(request)
        response.headers["Vary"] = VARY
        return response


def page_of(text: str, title: str, files: Collection[str], prefix: str = "") -> str:
    """Renders a card as a page; of the bundle's `files` it shows the plots, below `prefix`."""
    body = _Markdown(files, prefix + PLOTS).render(METADATA.sub("", text, count=1))
    # Tags come from the renderer alone, so they can be replaced as text. Loading an image from
    # another host would reveal the reader to that host: it becomes a link.
    body = FOREIGN_IMAGE.sub(r'<a href="\1">\2</a>', body)
    body = body.replace("<table>", '<div class="scroll" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")
    # The policy refuses style attributes, the renderer's way to align cells.
    body = body.replace('style="text-align:', 'class="align-')
    template = Template((WEB / CARD_TEMPLATE).read_text())
    return template.substitute(title=html.escape(title), body=body)


class _Markdown(MarkdownIt):
    """CommonMark with tables and without HTML."""

    def __init__(self, files: Collection[str], plots: str) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable("table")
        self._path = plots
        self._plots = {name for name in files if name.endswith(".png")}

    def normalizeLink(self, url: str) -> str:  # noqa: N802 - the parser's hook
        """The address of a link; plots lead to their route."""
        return f"{self._path}{url}" if url in self._plots else super().normalizeLink(url)

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the parser's hook
        """Returns whether `url` may be linked; any other link stays text."""
        return url.startswith(("http://", "https://", self._path))
