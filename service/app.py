"""The BentoML service: it wires the parts, and has two APIs, `predict` and `explain`.

BentoML gives the processes, the probes (/livez, /readyz) and the packaging. HTTP requests are
answered by the application of `service.api.app`, which stands before BentoML's
(`service.api.bento.service`).
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.exceptions import BentoMLException

from service.api.bento import configuration
from service.api.bento.arguments import ExplainArguments, PredictArguments
from service.api.bento.service import FrontedService
from service.bundle import delivery
from service.errors import BundleError, HomeError, PrecisionError, RequestError, SettingsError
from service.settings import PREFIX, Settings
from service.telemetry import logs
from service.workers import memory

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from service.api.models.endpoints import Answers
    from service.api.models.opening import Opener
    from service.repository.reload import Reload
    from service.repository.rollout import Rollouts
    from service.repository.shelf import Shelf
    from service.telemetry.metrics import Metrics
    from service.telemetry.tracing import TracingMiddleware
    from service.workers.connections import Connections
    from service.workers.shared_state import SharedState
    from service.workers.shared_times import SharedTimes

try:
    # In the supervisor, which comes first: its workers find a folder.
    FETCHED = delivery.deliver()
    SETTINGS = Settings.from_environment()
except (BundleError, SettingsError) as error:
    # Of BentoML's errors `bentoml serve` shows the sentence alone.
    raise BentoMLException(str(error)) from None
DEVICES = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
log = logging.getLogger("candor")
logs.configure(SETTINGS.log_format)
if FETCHED:
    log.info("%s", FETCHED)
try:
    configuration.lock_home()
except (HomeError, OSError) as error:
    raise BentoMLException(str(error)) from None


@bentoml.service(
    name="candor",
    service_class=FrontedService,
    workers=SETTINGS.worker_count,
    # Candor has its own of these three, at a fraction of their cost.
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
    # BentoML's client in a dependent service closes its session after so many calls or seconds,
    # with the calls in flight.
    runner_connection={"max_requests": 2**31, "max_age": 1e9},
)
class Candor:
    """Calibrated predictions of images, and attribution maps that explain them, by the bundle in
    CANDOR_BUNDLE.
    """

    def __init__(self) -> None:
        """Loads and verifies the bundle, and warms the engine: the service is ready when it
        returns.
        """
        # BentoML's supervisor imports this module and never makes an instance: it is spared what
        # takes memory.
        from service.api.app import build  # noqa: PLC0415
        from service.workers.drain import Drain  # noqa: PLC0415

        metrics = _metrics()
        self._connections = _connections(metrics)
        self._drain = Drain(
            SETTINGS.drain_seconds,
            metrics.requests_in_flight,
            metrics.ready,
            self._connections,
        )
        self._shared_state, shared_times = _open_shared()
        self._opener, self._shelf = _open_models(metrics, self._shared_state, shared_times)
        self._reload, self._rollouts = _changes(self._shelf, metrics)
        self._api = build(self._shelf, self._reload, self._rollouts, metrics, SETTINGS, self._drain)
        engine = self._shelf.default.answers.pipeline.engine
        metrics.device.labels(engine.provider, engine.precision, SETTINGS.wanted_device).set(1)
        self._tracing = self._start_tracing()
        self.guard = self._api.guard
        self.app: "ASGIApp" = self._tracing or self._api.app
        manifest = self._shelf.default.answers.manifest
        self._description = f"{manifest.name} {manifest.version}, {DEVICES[engine.device]}"

    @bentoml.api(input_spec=PredictArguments)  # type: ignore[untyped-decorator]
    async def predict(self, image: Any, mask: Any = None, **parameters: Any) -> dict[str, Any]:
        """Predicts the class of an image, with the parameters of POST /predict by name: `top_k=5`.

        `image` is a file's bytes, a pathlib.Path or an image of Pillow, or a list of these; `mask`
        is one, too. The result is the JSON document of POST /predict.

        Raises:
            BentoMLException: the call cannot be answered; `error_code` is the HTTP status.
        """
        with _bentoml_errors(), self._shelf.default.used() as answers:
            return await answers.calls.predict(image, mask, parameters)

    @bentoml.api(input_spec=ExplainArguments)  # type: ignore[untyped-decorator]
    async def explain(self, image: Any, mask: Any = None, **parameters: Any) -> dict[str, Any]:
        """Predicts, and shows which pixels speak for the class, with the parameters of POST
        /explain: `method="saliency"`.

        Arguments and errors are those of `predict`; the result is the JSON document of POST
        /explain.
        """
        with _bentoml_errors(), self._shelf.default.used() as answers:
            return await answers.calls.explain(image, mask, parameters)

    @property
    def connection_state(self) -> dict[str, Any]:
        """The state of each connection of the server."""
        from service.workers import protocol  # noqa: PLC0415

        return {
            protocol.REJECTION: self._api.rejection,
            protocol.CONNECTIONS: self._connections,
        }

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Checks BentoML's configuration, tries the bundle, and chooses what computes: in the
        supervisor, before any worker starts.
        """
        configuration.check(Candor)
        try:
            # Imported if needed alone: the engine and NumPy take 57 MB, and a third of a second.
            for name in ("admin_port", "grpc_port"):
                if port := getattr(SETTINGS, name):
                    from service.workers import listener  # noqa: PLC0415

                    listener.check_free(SETTINGS.host, port, PREFIX + name.upper())
            if SETTINGS.knows_bundle and not SETTINGS.compares:
                return
            from service.repository import catalogue  # noqa: PLC0415
            from service.runtime import decision, trial  # noqa: PLC0415

            served = replace(SETTINGS, bundle=catalogue.current_of(SETTINGS.bundle))
            if not served.knows_bundle:
                trial.check(served.bundle, served.precision)
            if SETTINGS.compares:
                decision.decide(served).pass_on()
        except (BundleError, PrecisionError, SettingsError) as error:
            raise BentoMLException(str(error)) from None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def listen(self) -> None:
        """Prepares to accept connections, until a signal comes."""
        from service.workers import listener  # noqa: PLC0415

        listener.share(
            asyncio.get_running_loop(),
            self._shared_state,
            self._announce,
            SETTINGS.admin_port,
            self._serve_grpc if SETTINGS.grpc_port else None,
        )
        memory.settle()
        self._trimming = asyncio.create_task(memory.keep_trimming())
        self._watching = asyncio.create_task(
            self._opener.health.watch(self._self_test, self._drain.set_able)
        )
        self._following = [
            asyncio.create_task(each.keep_following()) for each in (self._reload, self._rollouts)
        ]
        self._sweeping = asyncio.create_task(self._connections.keep_sweeping())
        self._drain.listen()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finishes what waits."""
        for loaded in self._shelf:
            loaded.answers.pipeline.close()
        if self._tracing is not None:
            self._tracing.close()

    async def __is_ready__(self) -> bool:
        """True while requests are accepted: BentoML's GET /readyz is a 503 otherwise."""
        return self._drain.ready

    def _self_test(self) -> None:
        """Tests the device with the model that is the default one now."""
        self._shelf.default.answers.pipeline.engine.self_test()

    def _announce(self, address: str) -> None:
        """Logs the one line of the start, in the worker that is ready last."""
        if self._shared_state.start(SETTINGS.worker_count):
            workers = (
                "1 worker" if SETTINGS.worker_count == 1 else f"{SETTINGS.worker_count} workers"
            )
            log.info("Candor: %s (%s, %s)", address, self._description, workers)

    async def _serve_grpc(self, host: str) -> None:
        from service.api.grpc.server import Server  # noqa: PLC0415 - it takes memory

        api = self._api
        self._grpc = Server(
            self._shelf, api.models, api.guard, api.observation, self._drain, SETTINGS
        )
        await self._grpc.start(host)

    def _start_tracing(self) -> "TracingMiddleware | None":
        if not SETTINGS.otlp_endpoint:
            return None
        from service.telemetry.tracing import TracingMiddleware  # noqa: PLC0415 - an extra

        tracing = TracingMiddleware(self._api.app, SETTINGS.otlp_endpoint)
        self._api.observation.tracing = tracing
        return tracing


@contextmanager
def _bentoml_errors() -> Iterator[None]:
    """Turns errors into those that BentoML answers with their status."""
    try:
        yield
    except RequestError as error:
        raise BentoMLException(error.detail, error_code=HTTPStatus(error.status)) from None


def _connections(metrics: "Metrics") -> "Connections":
    """The connections of this worker, within its limit of open files."""
    from service.api import problems  # noqa: PLC0415
    from service.image import budget  # noqa: PLC0415
    from service.workers import connections, host  # noqa: PLC0415

    allowed = max(1, host.raise_file_limit() - connections.SPARE_FILES)
    return connections.Connections(
        min(allowed, SETTINGS.max_connections or connections.MOST),
        SETTINGS.max_connections_per_address,
        SETTINGS.connection_seconds,
        budget.bodies_bytes(SETTINGS.body_memory, SETTINGS.max_body_bytes, SETTINGS.worker_count),
        report=metrics.connections,
        respond=problems.whole,
    )


def _metrics() -> "Metrics":
    """The metrics of this worker, with what never changes."""
    from service.telemetry.metrics import Metrics  # noqa: PLC0415

    metrics = Metrics(SETTINGS.metric_classes)
    metrics.objective.labels("availability").set(SETTINGS.availability_objective)
    metrics.objective.labels("latency").set(SETTINGS.latency_objective)
    metrics.latency_objective_seconds.set(SETTINGS.latency_objective_seconds)
    metrics.workers.set(SETTINGS.worker_count)
    return metrics


def _open_models(
    metrics: "Metrics", state: "SharedState", times: "SharedTimes"
) -> "tuple[Opener, Shelf[Answers]]":
    """The models of this worker, with the default one in memory, and what opens them."""
    from service.api.models.opening import Opener  # noqa: PLC0415
    from service.repository.agreement import Agreement  # noqa: PLC0415
    from service.repository.catalogue import Catalogue  # noqa: PLC0415
    from service.repository.shelf import Shelf, budget_bytes  # noqa: PLC0415
    from service.schedule.resources import Resources  # noqa: PLC0415

    folder, own = _place()
    catalogue = Catalogue.of(SETTINGS)
    resources = Resources(SETTINGS, metrics, state, times)
    opener = Opener(SETTINGS, metrics, resources, catalogue.default, folder)
    workers = SETTINGS.worker_count if folder else 1
    agreement = Agreement(folder and folder / "models.json", own, workers)
    budget = budget_bytes(SETTINGS.model_memory, workers)
    shelf = Shelf(catalogue, agreement, opener, opener.prove, budget, metrics.loads)
    shelf.start()
    return opener, shelf


def _changes(
    shelf: "Shelf[Answers]", metrics: "Metrics"
) -> "tuple[Reload[Answers], Rollouts[Answers]]":
    """What changes the models of this worker."""
    from service.repository.reload import Reload  # noqa: PLC0415
    from service.repository.rollout import Rollouts  # noqa: PLC0415

    folder, own = _place()
    reload = Reload(
        shelf,
        metrics.processes,
        own=own,
        workers=SETTINGS.worker_count if folder else 1,
        every_seconds=SETTINGS.reload_seconds,
    )
    return reload, Rollouts(shelf, metrics.comparisons, metrics.text, guards=own == 0)


def _place() -> tuple[Path | None, int]:
    """The folder that the workers share, if there are several, and the number of this one from 0;
    BentoML numbers them from 1, and its folder is empty at every start.
    """
    folder, number = os.environ.get("PROMETHEUS_MULTIPROC_DIR"), bentoml.server_context.worker_index
    if SETTINGS.worker_count == 1 or folder is None or number is None:
        return None, 0
    return Path(folder), number - 1


def _open_shared() -> "tuple[SharedState, SharedTimes]":
    """The state and the times that the workers share."""
    from service.workers.shared_state import SharedState  # noqa: PLC0415
    from service.workers.shared_times import SharedTimes  # noqa: PLC0415

    folder, own = _place()
    if folder is None:
        return SharedState(), SharedTimes()
    return SharedState(folder / "shared_state", own), SharedTimes(folder / "shared_times")
