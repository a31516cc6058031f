"""The BentoML service: wires the parts and mounts the HTTP API at /.

BentoML gives the processes, the probes (/livez, /readyz) and the packaging. Its access log, tracing and metrics are off: they cost four
times the request, and what else it puts before a mounted application is taken away (`Front`). The supervisor imports this module too, so
everything heavy is imported where the service starts.
"""

import asyncio
import ctypes
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
from bentoml import get_current_service  # to look it up in bentoml takes an import every time
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import Settings
from service.telemetry import logs

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from service.telemetry.tracing import Traced
    from service.workers.shared_state import SharedState

READY = "/readyz"
PROBES = ("/livez", READY, "/healthz")
SETTINGS = Settings.from_environment()
M_ARENA_MAX = -8  # of glibc's malloc.h
TRIM_SECONDS = 30.0  # between two times that memory is given back
log = logging.getLogger("candor")
logs.configure(SETTINGS.log_format)


class Front:
    """Stands before everything: BentoML answers its probes, our application the rest, /schema.json of BentoML's client included.

    BentoML leads a request through four layers to a mounted application: tracing, which asks for every URL whether it is excluded; a
    timeout, which makes a task and keeps a timer for a minute; a context; a router. Ours has deadlines of its own and needs none of
    them. Its middleware is a list that grows from the outside to us, so we take the others off it when the application starts. Where
    the connection is known (service/workers/protocol.py), it stands there, before the three layers that are left.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leads to the service that lives in this process."""
        if scope["type"] == "lifespan":
            _first(scope["app"])
            await self._app(scope, receive, send)
        elif scope["path"] not in PROBES:
            await get_current_service().app(scope, receive, send)
        elif scope["path"] == READY and get_current_service().drain.stopping:
            await PlainTextResponse("stopping\n", 503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _first(app: "Starlette") -> None:
    """Leaves no middleware but ours."""
    app.user_middleware = [Middleware(Front)]
    app.middleware_stack = app.build_middleware_stack()


def _few_arenas() -> None:
    """glibc gives every thread memory of its own, which then stays where it is: two such heaps do for ours."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)


def _settle() -> None:
    """What was loaded is never garbage: collections leave it alone, and what loading needed goes back to the system (40 MB)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)
    _give_back()


def _give_back() -> None:
    """Memory that is free within glibc's heaps goes back to the system."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


async def _keep_small() -> None:
    """Gives memory back from time to time: images and maps of all sizes leave holes behind (docs/benchmarks.md)."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(_give_back)


def _open_shared_state() -> "SharedState":
    """The other processes: BentoML numbers them from 1, and gives them a folder that is empty at every start."""
    from service.workers.shared_state import SharedState  # noqa: PLC0415

    folder, number = os.environ.get("PROMETHEUS_MULTIPROC_DIR"), bentoml.server_context.worker_index
    if SETTINGS.processes == 1 or folder is None or number is None:
        return SharedState()
    return SharedState(Path(folder) / "shared_state", number - 1)


@bentoml.service(
    name="candor",
    workers=SETTINGS.processes,
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
)
class Candor:
    """One bundle, served."""

    def __init__(self) -> None:
        """Loads and verifies the bundle, warms the engine, opens the lanes: ready when it returns."""
        from service.api import build  # noqa: PLC0415
        from service.bundle.folder import load  # noqa: PLC0415
        from service.runtime.engine import Engine  # noqa: PLC0415
        from service.schedule.pipeline import Pipeline  # noqa: PLC0415
        from service.telemetry.metrics import Metrics  # noqa: PLC0415
        from service.workers.drain import Drain  # noqa: PLC0415

        _few_arenas()
        bundle = load(SETTINGS.bundle)
        engine = Engine(
            bundle,
            SETTINGS.device,
            SETTINGS.threads,
            SETTINGS.precision,
            alone=SETTINGS.processes == 1,
        )
        metrics = Metrics(bundle.manifest.labels, bundle.manifest.distribution)
        metrics.model.labels(bundle.manifest.name, bundle.manifest.version).set(1)
        metrics.device.labels(engine.provider, SETTINGS.wanted).set(1)
        metrics.workers.set(SETTINGS.processes)
        self.drain = Drain(SETTINGS.drain_seconds, metrics.requests_in_flight, metrics.ready)
        self._shared_state = _open_shared_state()
        self._pipeline = Pipeline(engine, SETTINGS, metrics, self._shared_state)
        self.app, self._door = build(self._pipeline, bundle, SETTINGS, self.drain)
        self._traced = self._trace()
        log.info(
            "serving %s %s on %s", bundle.manifest.name, bundle.manifest.version, engine.provider
        )
        _settle()

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def listen(self) -> None:
        """Is ready, until a signal says to stop."""
        from service.workers import listener  # noqa: PLC0415

        listener.share(asyncio.get_running_loop(), self._shared_state, self._meet)
        self._small = asyncio.create_task(_keep_small())
        self.drain.listen()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finishes what is waiting."""
        self._pipeline.close()
        if self._traced is not None:
            self._traced.close()

    def _meet(self, protocol: asyncio.BaseProtocol) -> None:
        """A new connection gets a door, unless somebody wants a line or a trace of every request."""
        from service.workers.protocol import around  # noqa: PLC0415

        connection = around(protocol)
        if connection is None:
            return
        connection.protocol.app = Front(connection.protocol.app)
        if not (SETTINGS.access_log or SETTINGS.otlp_endpoint):
            self._door.guard(connection)

    def _trace(self) -> "Traced | None":
        """Traces every request, if somebody wants to know."""
        if not SETTINGS.otlp_endpoint:
            return None
        from service.telemetry.tracing import Traced  # noqa: PLC0415

        self.app = traced = Traced(self.app, SETTINGS.otlp_endpoint)
        return traced


Candor.add_asgi_middleware(Front)  # type: ignore[attr-defined] # bentoml.service makes a Service of the class
