"""Every Prometheus metric, in one place. Labels are bounded: a route's template, never a path; no digest but on candor_model_info.

Under BentoML prometheus_client keeps its values in files (multi-process mode), so the text is made from those where they are.
"""

import os
from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGES = ("read", "decode", "queue", "infer", "explain", "render", "encode")
LIVE: Literal["livesum"] = "livesum"  # a process that died counts no longer
ONE: Literal["livemax"] = "livemax"  # all processes say the same


class Metrics:
    """The metrics of one service, on a registry of their own."""

    def __init__(self, labels: Sequence[str] = ()) -> None:
        """`labels` are the classes that may be predicted."""
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("candor_requests", "Answered requests.", ("route", "code"), registry=registry)
        self.request_seconds = Histogram(
            "candor_request_duration_seconds",
            "From the first byte in to the last byte out.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        stage_seconds = Histogram(
            "candor_stage_duration_seconds", "The stages of a request.", ("stage",), buckets=SECONDS, registry=registry
        )
        self.stages = {stage: stage_seconds.labels(stage) for stage in STAGES}
        self.batch_size = Histogram("candor_batch_size", "Pictures that ran together.", ("lane",), buckets=ROWS, registry=registry)
        self.queue_depth = Gauge("candor_queue_depth", "Pictures waiting.", ("lane",), multiprocess_mode=LIVE, registry=registry)
        self.in_flight = Gauge("candor_in_flight", "Pictures running.", ("lane",), multiprocess_mode=LIVE, registry=registry)
        self.rejected = Counter("candor_rejected", "Pictures refused for load.", ("lane", "reason"), registry=registry)
        predictions = Counter("candor_predictions", "Predicted classes.", ("label",), registry=registry)
        self.predictions = [predictions.labels(label) for label in labels]
        self.confidence = Histogram(
            "candor_prediction_confidence", "Calibrated probability of the predicted class.", buckets=SHARES, registry=registry
        )
        self.unfamiliar = Counter("candor_unfamiliar", "Pictures unlike those of the training.", registry=registry)
        self.explanations = Counter("candor_explanations", "Explanations.", ("method", "outcome"), registry=registry)
        self.explanation_seconds = Histogram(
            "candor_explanation_duration_seconds", "Computing one map.", ("method",), buckets=SECONDS, registry=registry
        )
        self.completeness_gap = Histogram(
            "candor_completeness_gap",
            "How far a map is from summing to what it explains.",
            ("method",),
            buckets=GAPS,
            registry=registry,
        )
        self.images_rejected = Counter("candor_image_rejected", "Pictures that were not taken.", ("reason",), registry=registry)
        self.model = Gauge(
            "candor_model_info", "The model that is served.", ("name", "version"), multiprocess_mode=ONE, registry=registry
        )
        self.device = Gauge("candor_device_info", "What computes.", ("provider",), multiprocess_mode=ONE, registry=registry)

    def text(self) -> bytes:
        """The exposition, in Prometheus's text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return bytes(generate_latest(self._registry))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(together))
