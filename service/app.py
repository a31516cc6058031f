"""The BentoML service: wires the parts and mounts the HTTP API at /.

BentoML gives the process, the probes (/livez, /readyz) and the packaging. Its access log, tracing and metrics are off: they cost four
times the request. The supervisor imports this module too, so everything heavy is imported where the service starts.
"""

import gc
import logging

import bentoml
from starlette.types import Receive, Scope, Send

TIMEOUT_SECONDS = 60


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a request to the service that lives in this process."""
    await bentoml.get_current_service().app(scope, receive, send)


@bentoml.service(
    name="candor",
    workers=1,
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
        from service.settings import Settings  # noqa: PLC0415

        settings = Settings.from_environment()
        bundle = load(settings.bundle)
        engine = Engine(bundle, settings.device, settings.threads)
        metrics = Metrics()
        metrics.model.labels(bundle.manifest.name, bundle.manifest.version).set(1)
        metrics.device.labels(engine.provider).set(1)
        self._pipeline = Pipeline(engine, settings, metrics)
        self.app = build(self._pipeline, bundle, settings)
        logging.getLogger("candor").info("serving %s %s on %s", bundle.manifest.name, bundle.manifest.version, engine.provider)
        gc.collect()
        gc.freeze()  # what was loaded is never garbage: collections stay short
        gc.set_threshold(10_000, 20, 100)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finishes what is waiting."""
        self._pipeline.close()
