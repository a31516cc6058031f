"""The page at / and the documentation of the API at /docs: the files of service/web, read and packed once, at the start.

The policy that goes with them lets a browser run these scripts and no others, ask this service and nothing else, and make no markup out of
text (Trusted Types): a label or a file name that looks like a script stays text.
"""

import gzip
import hashlib
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.bundle.folder import Bundle

WEB = Path(__file__).parent.parent / "web"
NAMED = {"index.html": "/", "docs.html": "/docs"}  # the rest is below /web/
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
GRAFANA = b"@GRAFANA@"
# Overlays come as data, chosen images are blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # keep it, and ask whether it is still the same
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class File:
    """A file as it is answered: `plain`, or `packed` with gzip where that is smaller."""

    plain: bytes
    packed: bytes | None
    kind: str
    tag: str

    @classmethod
    def of(cls, content: bytes, kind: str) -> "File":
        """The answer that holds `content`."""
        packed = gzip.compress(content, 9, mtime=0)
        tag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, packed if len(packed) < len(content) else None, kind, tag)

    async def answer(self, request: Request) -> Response:
        """The whole file, or that it has not changed."""
        headers = HEADERS | {"ETag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(
                self.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=self.kind
            )
        return Response(self.plain, headers=headers, media_type=self.kind)


def routes(bundle: Bundle, grafana_url: str) -> list[Route]:
    """A route for each file and each plot of `bundle`; no other path leads into a folder. The page links `grafana_url`, unless it is empty."""
    return [Route(path, _endpoint(file)) for path, file in (*_files(grafana_url), *_plots(bundle))]


def _endpoint(file: File) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return await file.answer(request)

    return answer


def _files(grafana_url: str) -> Iterator[tuple[str, File]]:
    for place in sorted(WEB.rglob("*")):
        if place.suffix in KINDS:
            name = place.relative_to(WEB).as_posix()
            content = place.read_bytes().replace(GRAFANA, html.escape(grafana_url).encode())
            yield NAMED.get(name, f"/web/{name}"), File.of(content, KINDS[place.suffix])


def _plots(bundle: Bundle) -> Iterator[tuple[str, File]]:
    """What the audit drew."""
    for name in bundle.manifest.files:
        if name.endswith(".png"):
            yield f"/model/plots/{name}", File.of(bundle.read(name), "image/png")
