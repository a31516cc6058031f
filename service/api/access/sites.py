"""The names under which the service may be called, and the pages that may call it.

A page on any web site can make its visitor's browser send requests to an address that only the
visitor reaches. A name that the page's owner gave that address (DNS rebinding) would even let the
page read the answers: the Host header reveals it. Sec-Fetch-Site reveals the others.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

from starlette.types import Scope

from service.api.problems import HEADERS
from service.errors import Forbidden, MalformedRequest, RequestError, short

ANY = "*"
HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[\w.~-]{1,255})(?::[0-9]{0,5})?")  # RFC 9110, 7.2
LONGEST_HOST = 264
CACHED_HOSTS = 64
UNCHECKED_VERSION = "1.0"  # needs no Host (RFC 9112, 3.2)

Header = tuple[bytes, bytes]


class Sites:
    """The checks of Host and of cross-site requests.

    `hosts`: names without a port; "*" allows all. The address that a connection has reached is
    always allowed: a name is needed to rebind one.
    """

    def __init__(self, hosts: Collection[str]) -> None:
        self._any_host = ANY in hosts
        self._hosts = frozenset(host.lower() for host in hosts)
        self._is_allowed_origin: Callable[[str], bool] = _no_origin
        self._name_of = lru_cache(CACHED_HOSTS)(_name_of)

    def allow_origins(self, is_allowed_origin: Callable[[str], bool]) -> None:
        """Lets pages of these origins send requests, as CORS lets them read the answers."""
        self._is_allowed_origin = is_allowed_origin

    def error(self, scope: Scope, headers: Mapping[bytes, bytes]) -> RequestError | None:
        """The reason against answering the request with these `headers`, if there is one."""
        host = headers.get(b"host")
        if host is None:
            if scope["http_version"] != UNCHECKED_VERSION:
                return MalformedRequest("the request has no Host header: send one")
        else:
            name = self._name_of(host) if len(host) <= LONGEST_HOST else None
            if name is None:
                return MalformedRequest("the Host header is no host and port: correct it")
            if not (self._any_host or name in self._hosts or name == _local_address(scope)):
                return MalformedRequest(
                    f"the service is not called {short(name)}: call it by an address or a name in "
                    "CANDOR_HOSTS"
                )
        if headers.get(b"sec-fetch-site") == b"cross-site" and scope["method"] == "POST":
            origin = headers.get(b"origin", b"").decode("latin-1")
            if not self._is_allowed_origin(origin):
                return Forbidden(
                    f"a page of {short(origin)} sent this, which is none of CANDOR_ALLOW_ORIGINS"
                )
        return None


def _no_origin(_origin: str) -> bool:
    return False


def _name_of(host: bytes) -> str | None:
    """The name in a Host header, in lower case; None if the header is malformed."""
    match = HOST.fullmatch(host)
    return match[1].decode().lower().removesuffix(".") if match else None


def _local_address(scope: Scope) -> str | None:
    """The address that the connection has reached, as a Host header has it."""
    server = scope.get("server")
    address = str(server[0]).removeprefix("::ffff:") if server else None
    return f"[{address}]" if address and ":" in address else address


def safe(headers: Iterable[Header]) -> list[Header]:
    """The `headers` of an answer, and those that keep it out of caches and scripts, unless it
    has its own rule of caching.
    """
    given = list(headers)
    return given if any(name == b"cache-control" for name, _ in given) else [*given, *HEADERS]
