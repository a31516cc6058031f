"""The page at / and the documentation at /docs: the files of service/web, read once at the start.

The policy lets a browser run these scripts and no others, connect to this service only, and make
no markup out of text (Trusted Types): a label that looks like a script stays text.
"""

import gzip
import hashlib
import html
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from starlette.requests import Request
from starlette.responses import Response

from service.api.access.guard import ADMIN, DOCUMENTS, OPEN, GuardedRoute
from service.api.negotiation import takes_gzip
from service.bundle.folder import Bundle
from service.bundle.presentation import SAMPLE_TYPES
from service.errors import NotFound, short
from service.explain import colours

WEB = Path(__file__).parent.parent / "web"
PATHS = {"index.html": "/", "docs.html": "/docs"}  # all others are below /web/
CARD_TEMPLATE = "card.html"  # is filled and served by `service.api.card`
COLOURS = "colours.json"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
GRAFANA = b"@GRAFANA@"
# Overlays are data URLs; images that the visitor chooses are blob URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # the browser keeps a file, and asks whether it has changed
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class File:
    """A file as it is served; `gzipped` is None where gzip does not make it smaller."""

    content: bytes
    gzipped: bytes | None
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "File":
        """Compresses `content` and computes its tag."""
        # Without mtime=0 the bytes would change from start to start.
        gzipped = gzip.compress(content, 9, mtime=0)
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, gzipped if len(gzipped) < len(content) else None, media_type, etag)

    async def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has this version."""
        headers = HEADERS | {"ETag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.gzipped is not None and takes_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.gzipped, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def routes(grafana_url: str) -> list[GuardedRoute]:
    """One route a file, so that no path leads out of the folder.

    The page links `grafana_url` unless it is empty.
    """
    # Every file is in memory: a request never touches the disk.
    page = (*_files(grafana_url), (f"/web/{COLOURS}", _colours()))
    return [GuardedRoute(path, OPEN, file.answer) for path, file in page]


def bundle_routes(bundle: Bundle) -> list[GuardedRoute]:
    """The routes to the plots and the samples of a bundle."""
    return [
        GuardedRoute("/model/plots/{file}", ADMIN, _one_of(dict(_plots(bundle)))),
        GuardedRoute("/model/samples/{file}", DOCUMENTS, _one_of(dict(_samples(bundle)))),
    ]


def _one_of(files: Mapping[str, File]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of files by name."""

    async def answer(request: Request) -> Response:
        name = request.path_params["file"]
        if name not in files:
            raise NotFound(f"the bundle has no {short(name)}; it has {', '.join(files) or 'none'}")
        return await files[name].answer(request)

    return answer


def _files(grafana_url: str) -> Iterator[tuple[str, File]]:
    for file in sorted(WEB.rglob("*")):
        name = file.relative_to(WEB).as_posix()
        if file.suffix in MEDIA_TYPES and name != CARD_TEMPLATE:
            content = file.read_bytes().replace(GRAFANA, html.escape(grafana_url).encode())
            yield PATHS.get(name, f"/web/{name}"), File.of(content, MEDIA_TYPES[file.suffix])


def _colours() -> File:
    return File.of(orjson.dumps(colours.tables()), MEDIA_TYPES[".json"])


def _plots(bundle: Bundle) -> Iterator[tuple[str, File]]:
    for name in bundle.manifest.files:
        if name.endswith(".png"):
            yield name, File.of(bundle.read(name), "image/png")


def _samples(bundle: Bundle) -> Iterator[tuple[str, File]]:
    for sample in bundle.manifest.samples:
        kind = SAMPLE_TYPES[Path(sample.file).suffix]
        yield sample.file, File.of(bundle.read(sample.file), kind)
