"""The BentoML service: wires the parts and mounts the HTTP API at /.

BentoML gives the process, the probes (/livez, /readyz) and the packaging. Its access log, tracing and metrics are off: they cost four
times the request. The supervisor imports this module too, so everything heavy is imported where the service starts.
"""

import ctypes
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import Settings

if TYPE_CHECKING:
    from service.neighbours import Neighbours

TIMEOUT_SECONDS = 60
M_ARENA_MAX = -8  # of glibc's malloc.h
# libuv, under uvloop, takes every connection that waits; told so, it leaves some to the other processes
os.environ.setdefault("UV_TCP_SINGLE_ACCEPT", "1")


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a request to the service that lives in this process."""
    await bentoml.get_current_service().app(scope, receive, send)


class OwnSchema:
    """Answers GET /schema.json ourselves: BentoML's client reads there what can be called, and BentoML knows nothing of our API."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on everything else."""
        await (api if scope.get("path") == "/schema.json" else self._app)(scope, receive, send)


def _log() -> logging.Logger:
    """Our own log, on standard error beside BentoML's."""
    log = logging.getLogger("candor")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] [candor] %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


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
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _neighbours(settings: Settings) -> "Neighbours | None":
    """The other processes: BentoML numbers them from 1, and gives them a folder that is empty at every start."""
    from service.neighbours import Neighbours  # noqa: PLC0415

    folder, number = os.environ.get("PROMETHEUS_MULTIPROC_DIR"), bentoml.server_context.worker_index
    if settings.processes == 1 or folder is None or number is None:
        return None
    return Neighbours(Path(folder) / "neighbours", number - 1)


@bentoml.service(
    name="candor",
    workers=Settings.from_environment().processes,
    traffic={"timeout": TIMEOUT_SECONDS},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
)
@bentoml.asgi_app(api, path="/", name="candor")
class Candor:
    """One bundle, served."""

    def __init__(self) -> None:
        """Loads and verifies the bundle, warms the engine, opens the lanes: ready when it returns."""
        from service.api import build  # noqa: PLC0415
        from service.bundle import load  # noqa: PLC0415
        from service.engine import Engine  # noqa: PLC0415
        from service.metrics import Metrics  # noqa: PLC0415
        from service.pipeline import Pipeline  # noqa: PLC0415

        log = _log()
        _few_arenas()
        settings = Settings.from_environment()
        bundle = load(settings.bundle)
        engine = Engine(bundle, settings.device, settings.threads, settings.precision)
        metrics = Metrics(bundle.manifest.labels)
        metrics.model.labels(bundle.manifest.name, bundle.manifest.version).set(1)
        metrics.device.labels(engine.provider).set(1)
        self._pipeline = Pipeline(engine, settings, metrics, _neighbours(settings))
        self.app = build(self._pipeline, bundle, settings)
        log.info("serving %s %s on %s", bundle.manifest.name, bundle.manifest.version, engine.provider)
        _settle()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finishes what is waiting."""
        self._pipeline.close()


Candor.add_asgi_middleware(OwnSchema)  # type: ignore[attr-defined] # bentoml.service makes a Service of the class
