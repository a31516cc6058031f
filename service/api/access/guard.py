"""The guard before every route: Host and Origin, and the key where CANDOR_KEYS names keys.

Each route names the scopes that open it, where it is declared (`GuardedRoute`). The guard answers
401 and 403 before a body is read, and before anything else: while the worker drains and under
overload, too. A path that no route serves needs a key of any scope.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.access.keys import SCOPES, Key, Keys
from service.api.access.sites import Sites
from service.errors import (
    Forbidden,
    MalformedRequest,
    NotFound,
    RequestError,
    SettingsError,
    Unauthorized,
)
from service.settings import Settings, is_loopback

Needs = tuple[str, ...]

# The scopes of which a route needs one.
OPEN: Needs = ()  # needs no key: probes, and the files of the page
PREDICT, EXPLAIN, METRICS, ADMIN = ((scope,) for scope in SCOPES)
DOCUMENTS: Needs = ("predict", "explain", "admin")  # what callers and the page must know

KEY = "candor.key"  # of a request's scope: the Key that it came with
SINGLE = (b"host", b"authorization")  # headers that a request has at most once
BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)  # RFC 6750, 2.1


class GuardedRoute(Route):
    """A route that a key with one of the scopes `needs` opens."""

    def __init__(
        self,
        path: str,
        needs: Needs,
        endpoint: Callable[..., Any],
        methods: list[str] | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.needs = needs


class Guard:
    """Decides whether a request is answered; shared by all that answer requests.

    `needs`: the scopes of which each path, or its template, needs one.
    """

    def __init__(
        self,
        routes: Iterable[GuardedRoute],
        others: Mapping[str, Needs],
        keys: Keys | None,
        sites: Sites,
        admin_port: int = 0,
    ) -> None:
        """`others`: the needs of the paths that are served beside `routes`. With an `admin_port`,
        what needs METRICS or ADMIN is served there, and nothing else but what is OPEN.
        """
        every = tuple(routes)
        self.needs = {**others, **{route.path: route.needs for route in every}}
        self.sites = sites
        self._keys = keys
        self._admin_port = admin_port
        self._templates = tuple(route for route in every if "{" in route.path)
        self._fixed = {route.path: route for route in every if "{" not in route.path}
        self._trusts_all = False

    def trust_all(self) -> None:
        """Lets everything pass: the socket is that of a dependency, which no client reaches."""
        self._keys, self._trusts_all = None, True

    def error(self, scope: Scope) -> RequestError | None:
        """The reason against answering a request, if there is one; notes its key otherwise."""
        if self._trusts_all:
            return None
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]) and (name := _repeated(scope)):
            return MalformedRequest(f"the request has several {name} headers: send one")
        error = self.sites.error(scope, headers)
        if error is None and (self._keys is not None or self._admin_port):
            error = self._access_error(scope, headers)
        return error

    def _access_error(self, scope: Scope, headers: Mapping[bytes, bytes]) -> RequestError | None:
        route = self._fixed.get(scope["path"]) or self._template_of(scope)
        needs = self.needs.get(route.path if route is not None else scope["path"], SCOPES)
        if needs == OPEN:
            return None
        error = self._key_error(scope, headers, needs) or self._port_error(scope, needs)
        if error is not None and route is not None:
            scope["route"] = route  # as Starlette's router does: the answer is counted under it
        return error

    def _key_error(
        self, scope: Scope, headers: Mapping[bytes, bytes], needs: Needs
    ) -> RequestError | None:
        if self._keys is None:
            return None
        key = self._key_of(headers.get(b"authorization", b""))
        if key is None:
            return _unauthorized(given=b"authorization" in headers)
        scope[KEY] = key
        return _lack(key, needs, scope["query_string"])

    def key_for(self, authorization: bytes | None, needs: Needs) -> Key | None:
        """The key of a call that comes beside HTTP; None where no key is needed.

        Raises:
            Unauthorized: there is none, or an unknown one.
            Forbidden: it has none of the scopes `needs`.
        """
        if self._keys is None or needs == OPEN:
            return None
        key = self._key_of(authorization or b"")
        if key is None:
            raise _unauthorized(given=authorization is not None)
        check(key, needs)
        return key

    def _port_error(self, scope: Scope, needs: Needs) -> NotFound | None:
        server = scope.get("server")
        on_admin_port = server is not None and server[1] == self._admin_port
        if not self._admin_port or on_admin_port == (needs in (METRICS, ADMIN)):
            return None
        place = "another port than" if on_admin_port else f"port {self._admin_port}, which is"
        return NotFound(f"this is served on {place} CANDOR_ADMIN_PORT: ask there")

    def _key_of(self, authorization: bytes) -> Key | None:
        match = BEARER.fullmatch(authorization)
        return self._keys.find(match[1]) if match and self._keys else None

    def _template_of(self, scope: Scope) -> GuardedRoute | None:
        """The first route with parameters that Starlette's router would choose."""
        partial = None
        for route in self._templates:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route
            if match is Match.PARTIAL and partial is None:
                partial = route
        return partial


class GuardMiddleware:
    """Answers what `guard` has a reason against, and passes on the rest."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers or passes on."""
        if scope["type"] == "http" and (error := self._guard.error(scope)) is not None:
            await problems.respond(Request(scope), error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def allows(request: Request, needs: Needs) -> bool:
    """True without keys, or if the key of a request has one of the scopes `needs`."""
    key: Key | None = request.scope.get(KEY)
    return key is None or _lack(key, needs) is None


def require(request: Request, needs: Needs) -> None:
    """Checks the key of a request that wants more than its route.

    Raises:
        Forbidden: keys are on, and this one has none of the scopes `needs`.
    """
    check(request.scope.get(KEY), needs)


def check(key: Key | None, needs: Needs) -> None:
    """The same of a key; None where keys are off."""
    if key is not None and (error := _lack(key, needs)) is not None:
        raise error


def check_exposure(settings: Settings) -> None:
    """Checks that a service which other machines reach has keys, or is open on purpose.

    Raises:
        SettingsError: neither holds, or the file of keys cannot be used.
    """
    if settings.keys is not None:
        Keys(settings.keys)  # an unusable file is a sentence here, and a traceback in a worker
    elif not settings.open and not is_loopback(settings.host):
        raise SettingsError(
            f"the service would listen on {settings.host}, which other machines reach, and has no "
            "keys: set CANDOR_KEYS (`python -m service key NAME --scope predict` makes one), or "
            "CANDOR_OPEN=true if only trusted callers reach it"
        )


def _repeated(scope: Scope) -> str | None:
    names = [name for name, _ in scope["headers"]]
    return next((name.decode() for name in SINGLE if names.count(name) > 1), None)


def _unauthorized(*, given: bool) -> Unauthorized:
    problem = "the key is not known here" if given else "the request has no key"
    return Unauthorized(f"{problem}: send `Authorization: Bearer KEY`")


def _lack(key: Key, needs: Needs, query: bytes = b"") -> Forbidden | None:
    """The scope that `key` lacks for a route and a query, if it lacks one."""
    if not key.scopes.isdisjoint(needs):
        # Where the body asks for an explanation, `require` finds out once it is read.
        if needs != PREDICT or b"explain=" not in query or not key.scopes.isdisjoint(EXPLAIN):
            return None
        needs = EXPLAIN
    return Forbidden(
        f"the key {key.name!r} lacks the scope {' or '.join(needs)}: use a key that has it",
        scope=needs[0],
    )
