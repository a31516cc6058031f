"""All Prometheus metrics. Labels are bounded: a route's template, never a path; no digest but on
candor_model_info.

Under BentoML prometheus_client is in multiprocess mode, and the text is made from the files of all
workers.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics import exposition as open_metrics
from prometheus_client.registry import Collector

from service.bundle.manifest import Distribution, Manifest, MapDistribution
from service.telemetry.drift import LEAST, MAPS, PREDICTIONS, WINDOW, Window, drift
from service.telemetry.exemplars import Exemplars
from service.telemetry.machine import MachineCollector
from service.telemetry.multiprocess import Exposition, bucket_line
from service.telemetry.versions import LIVE, Comparisons, ModelLoads
from service.workers import connections

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS_END = b"# EOF\n"
REQUEST_SECONDS = "candor_request_duration_seconds"
# fmt: off
SECONDS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30
)
ROWS = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
SCORES = (  # cosines up to 1, energies beyond
    0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1, 2, 5, 10, 15, 20, 30
)
COSINES = (-0.9, -0.5, 0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# fmt: on
STAGES = ("read", "decode", "queue", "infer", "explain", "render", "encode")
EVERY_CLASS = "*"  # the label of predictions that are not counted by class
SAME: Literal["livemax"] = "livemax"  # every worker sets the same number


class DriftCollector(Collector):
    """The drift of the latest predictions, and of their maps, computed at a scrape."""

    def __init__(self, served: Mapping[str, "ModelMetrics"]) -> None:
        self._served = served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Two gauges, with the model and the compared aspect as their labels."""
        models = list(self._served.values())
        yield _drift(
            "candor_drift",
            "predictions",
            ((each.name, each.window, each.held_out) for each in models),
        )
        yield _drift(
            "candor_map_drift",
            "Grad-CAMs",
            ((each.name, each.maps, each.held_out_maps) for each in models),
        )


def _drift(
    name: str,
    what: str,
    windows: Iterable[tuple[str, Window, Distribution | MapDistribution | None]],
) -> GaugeMetricFamily:
    description = (
        f"Population stability index of the latest {WINDOW} {what} against held-out images; "
        f"NaN below {LEAST}, or if the bundle has none."
    )
    gauge = GaugeMetricFamily(name, description, labels=("model", "of"))
    for model, window, held_out in windows:
        for aspect, index in drift(window.latest(), held_out, window.watched).items():
            gauge.add_metric((model, aspect), index)
    return gauge


class ConnectionMetrics:
    """The metrics of connections, as `service.workers.connections` reports them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        open_now = Gauge(
            "candor_connections", "Open connections.", multiprocess_mode=LIVE, registry=registry
        )
        closed = Counter(
            "candor_connections_closed",
            "Connections that the service ended.",
            ("reason",),
            registry=registry,
        )
        bad_requests = Counter(
            "candor_bad_requests", "Bytes that are no HTTP request.", registry=registry
        )
        by_reason = {reason: closed.labels(reason) for reason in connections.REASONS}
        self.opened: Callable[[int], None] = open_now.set
        self.closed: Callable[[str], None] = lambda reason: by_reason[reason].inc()
        self.bad_request: Callable[[], None] = bad_requests.inc


class ModelMetrics:
    """The metrics of one version of a model; `window` holds its latest predictions, `maps` the
    latest maps that can be compared.
    """

    def __init__(self, metrics: "Metrics", manifest: Manifest, folder: Path | None) -> None:
        name, version = manifest.name, manifest.version
        self.name, self.version = name, version
        # By the index of the class.
        classes = [manifest.name_of(index) for index in range(len(manifest.labels))]
        if len(classes) > metrics.most_classes:
            classes = [EVERY_CLASS] * len(classes)
        by_label = {label: metrics.predictions.labels(name, label) for label in classes}
        self.predictions = [by_label[label] for label in classes]
        self.confidence = metrics.confidence.labels(name)
        self.familiarity = metrics.familiarity.labels(name)
        self.unfamiliar = metrics.unfamiliar.labels(name)
        self.seconds = metrics.model_seconds.labels(name, version)
        self.answers = cache(lambda status: metrics.model_requests.labels(name, version, status))
        ring = f"{name}@{version}"
        self.window, self.maps = Window(folder, PREDICTIONS, ring), Window(folder, MAPS, ring)
        self.held_out, self.held_out_maps = manifest.distribution, manifest.map_distribution

    def count(self, status: int, seconds: float) -> None:
        """Counts an answer of this version."""
        self.answers(str(status)).inc()
        self.seconds.observe(seconds)


class Metrics:
    """The metrics of one service, on a registry of their own."""

    def __init__(self, most_classes: int = 100) -> None:
        """Classes are counted one by one in models that have at most `most_classes`."""
        self.most_classes = most_classes
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self._registry = CollectorRegistry()
        self._declare_requests(self._registry)
        self._declare_lanes(self._registry)
        self._declare_budgets(self._registry)
        self._declare_predictions(self._registry)
        self._declare_explanations(self._registry)
        self._declare_service(self._registry)
        self.connections = ConnectionMetrics(self._registry)
        self.loads = ModelLoads(self._registry)
        self.comparisons = Comparisons(self._registry)
        self._folder = Path(folder) if folder else None
        self._exposition = Exposition(self._folder) if self._folder else None
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._served: dict[str, ModelMetrics] = {}
        bounds = tuple(float(bound) for bound in SECONDS)
        self.exemplars = Exemplars(self._folder, bounds, partial(bucket_line, REQUEST_SECONDS))
        self._computed = CollectorRegistry()
        self._computed.register(MachineCollector(self._exposition, self.processes))
        self._computed.register(DriftCollector(self._served))

    def processes(self) -> set[int]:
        """The process ids of all workers and of their supervisor."""
        if self._exposition is None:
            return {os.getpid()}
        return {os.getppid(), *self._exposition.processes()}

    def of_model(self, manifest: Manifest) -> ModelMetrics:
        """The metrics of a version, made once."""
        key = manifest.name, manifest.version
        if key not in self._models:
            self._models[key] = ModelMetrics(self, manifest, self._folder)
        return self._models[key]

    def serve(self, model: ModelMetrics) -> None:
        """Notes the version of a model that answers from now on; its drift is watched."""
        before = self._served.get(model.name)
        if before is not None and before is not model:
            self.model.labels(before.name, before.version).set(0)
        self._served[model.name] = model
        self.model.labels(model.name, model.version).set(1)

    def text(self) -> bytes:
        """The metrics of all workers, in Prometheus's text format."""
        counted = (
            bytes(generate_latest(self._registry))
            if self._exposition is None
            else self._exposition.text().encode()
        )
        return counted + bytes(generate_latest(self._computed))

    def end(self, model: ModelMetrics) -> None:
        """Notes that a model is not served any more."""
        self._served.pop(model.name, None)
        self.model.labels(model.name, model.version).set(0)

    def openmetrics(self) -> bytes:
        """The same in the text format of OpenMetrics 1.0, with exemplars where there are several
        processes.
        """
        counted = (
            _opened(self._registry).removesuffix(OPENMETRICS_END)
            if self._exposition is None
            else self._exposition.openmetrics(self.exemplars.latest()).encode()
        )
        return counted + _opened(self._computed)

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "candor_requests", "Answered requests.", ("route", "code"), registry=registry
        )
        self.key_requests = Counter(
            "candor_key_requests",
            "Answered requests by the name of their key.",
            ("key", "code"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            REQUEST_SECONDS,
            "From the first byte in to the last byte out.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.slow_requests = Counter(
            "candor_requests_slow",
            "Requests that took longer than candor_latency_objective_seconds.",
            ("route",),
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "candor_requests_in_flight",
            "Requests begun and not yet answered.",
            multiprocess_mode=LIVE,
            registry=registry,
        )
        stage_seconds = Histogram(
            "candor_stage_duration_seconds",
            "The stages of a request.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.stages = {stage: stage_seconds.labels(stage) for stage in STAGES}
        self.images_rejected = Counter(
            "candor_image_rejected",
            "Images that were rejected as such.",
            ("reason",),
            registry=registry,
        )

    def _declare_lanes(self, registry: CollectorRegistry) -> None:
        self.batch_size = Histogram(
            "candor_batch_size",
            "Images that ran together.",
            ("lane",),
            buckets=ROWS,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "candor_queue_depth",
            "Images waiting.",
            ("lane",),
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.queue_limit = Gauge(
            "candor_queue_limit",
            "Images that may wait; more are rejected.",
            ("lane",),
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.in_flight = Gauge(
            "candor_in_flight",
            "Images accepted by a lane and not answered yet: waiting or running.",
            ("lane",),
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.rejected = Counter(
            "candor_rejected", "Images rejected for load.", ("lane", "reason"), registry=registry
        )

    def _declare_budgets(self, registry: CollectorRegistry) -> None:
        self.budget_used = Gauge(
            "candor_budget_used_bytes",
            "Memory that images and bodies have in use.",
            ("budget",),
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.budget_limit = Gauge(
            "candor_budget_limit_bytes",
            "Memory that images and bodies may use; what exceeds it waits or is rejected.",
            ("budget",),
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.budget_rejected = Counter(
            "candor_budget_rejected",
            "Images and bodies rejected for memory.",
            ("budget", "reason"),
            registry=registry,
        )
        self.allowance_rejected = Counter(
            "candor_allowance_rejected",
            "Requests and images rejected because their caller has used its allowance.",
            ("resource",),
            registry=registry,
        )

    def _declare_predictions(self, registry: CollectorRegistry) -> None:
        self.predictions = Counter(
            "candor_predictions",
            f"Predicted classes; {EVERY_CLASS} are those of a model of more than "
            "CANDOR_METRIC_CLASSES.",
            ("model", "label"),
            registry=registry,
        )
        self.model_requests = Counter(
            "candor_model_requests",
            "HTTP requests with images that a version of a model answered.",
            ("model", "version", "code"),
            registry=registry,
        )
        self.model_seconds = Histogram(
            "candor_model_request_duration_seconds",
            "The same from the head of the request to the answer.",
            ("model", "version"),
            buckets=SECONDS,
            registry=registry,
        )
        self.confidence = Histogram(
            "candor_prediction_confidence",
            "Calibrated probability of the predicted class.",
            ("model",),
            buckets=SHARES,
            registry=registry,
        )
        self.familiarity = Histogram(
            "candor_familiarity",
            "Familiarity score: a cosine, or an energy where the bundle has no features.",
            ("model",),
            buckets=SCORES,
            registry=registry,
        )
        self.unfamiliar = Counter(
            "candor_unfamiliar",
            "Images unlike those that the model was trained on.",
            ("model",),
            registry=registry,
        )

    def _declare_explanations(self, registry: CollectorRegistry) -> None:
        # By their labels, which prometheus_client would check again at each count.
        self.explanations = cache(
            Counter(
                "candor_explanations", "Explanations.", ("method", "outcome"), registry=registry
            ).labels
        )
        self.explained = cache(
            Counter(
                "candor_explained",
                "Predictions explained, by reason.",
                ("reason",),
                registry=registry,
            ).labels
        )
        explanation_seconds = Histogram(
            "candor_explanation_duration_seconds",
            "Computing one map.",
            ("method",),
            buckets=SECONDS,
            registry=registry,
        )
        self.explanation_seconds = cache(explanation_seconds.labels)
        self.completeness_gap = Histogram(
            "candor_completeness_gap",
            "Relative distance of a map's sum from the score it explains.",
            ("method",),
            buckets=GAPS,
            registry=registry,
        )

        self.class_cosine = Histogram(
            "candor_class_cosine",
            "Cosine of a map and the map of the most probable other class of the same image.",
            ("method",),
            buckets=COSINES,
            registry=registry,
        )

    def _declare_service(self, registry: CollectorRegistry) -> None:
        self.model = Gauge(
            "candor_model_info",
            "The versions of models that are served: 1, or 0 once another one has taken over.",
            ("name", "version"),
            multiprocess_mode=SAME,
            registry=registry,
        )
        self.objective = Gauge(
            "candor_objective",
            "The share of requests that should be answered, or of predictions in time.",
            ("of",),
            multiprocess_mode=SAME,
            registry=registry,
        )
        self.latency_objective_seconds = Gauge(
            "candor_latency_objective_seconds",
            "The time after which an answer is slow.",
            multiprocess_mode=SAME,
            registry=registry,
        )
        self.device = Gauge(
            "candor_device_info",
            "The provider that computes, the precision of predictions, and the device that should.",
            ("provider", "precision", "wanted"),
            multiprocess_mode=SAME,
            registry=registry,
        )
        self.ready = Gauge(
            "candor_ready",
            "Workers that accept requests.",
            multiprocess_mode=LIVE,
            registry=registry,
        )
        self.device_failures = Counter(
            "candor_device_failures", "Inference runs that failed.", registry=registry
        )
        self.workers = Gauge(
            "candor_workers",
            "Workers that there should be.",
            multiprocess_mode=SAME,
            registry=registry,
        )


def _opened(registry: CollectorRegistry) -> bytes:
    return bytes(open_metrics.generate_latest(registry))  # type: ignore[no-untyped-call]
