"""The metrics of versions: how they come into memory and leave it, and how they compare."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DISTANCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 2.0)
LIVE: Literal["livesum"] = "livesum"  # the sum over the workers; one that died counts no longer


class ModelLoads:
    """How versions of models came into memory and left it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loads = Counter(
            "candor_model_loads",
            "Versions of models that a worker has loaded or let go, or failed to load.",
            ("model", "outcome"),
            registry=registry,
        )
        self._in_memory = Gauge(
            "candor_models_in_memory",
            "Versions of models in memory, over all workers.",
            multiprocess_mode=LIVE,
            registry=registry,
        )

    def count(self, model: str, outcome: str) -> None:
        """Counts an outcome: loaded, replaced, evicted, unloaded or failed."""
        self._loads.labels(model, outcome).inc()
        if outcome == "loaded":
            self._in_memory.inc()
        elif outcome != "failed":
            self._in_memory.dec()


class Comparisons:
    """The comparisons of new versions with served ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("model", *labels), registry=registry)

        self._images = counter(
            "candor_comparisons", "Images computed by two versions of a model.", "version"
        )
        self._agreements = counter(
            "candor_comparison_agreements",
            "Images for which both versions give the same label, or the same prediction set.",
            *("version", "of"),
        )
        self._confidence = counter(
            "candor_comparison_confidence",
            "Sums of the probabilities of their classes, of the served and of the other version.",
            *("version", "of"),
        )
        self._ended = counter(
            "candor_rollouts_ended", "Rollouts ended by a caller, asked, or by the guard.", "by"
        )
        # Of negative values prometheus_client gives no sum.
        self._distance = Histogram(
            "candor_comparison_map_distance",
            "1 − the correlation of the Grad-CAMs of both versions for the served one's class.",
            ("model", "version"),
            buckets=DISTANCES,
            registry=registry,
        )

    def count(
        self,
        model: str,
        version: str,
        *,
        label: bool,
        same_set: bool,
        confidences: tuple[float, float],
        correlation: float | None,
    ) -> None:
        """Counts one image."""
        self._images.labels(model, version).inc()
        for of, agrees in (("label", label), ("set", same_set)):
            self._agreements.labels(model, version, of).inc(agrees)
        for of, value in zip(("served", "other"), confidences, strict=True):
            self._confidence.labels(model, version, of).inc(value)
        if correlation is not None:
            self._distance.labels(model, version).observe(1 - correlation)

    def ended(self, model: str, by: str) -> None:
        """Counts a rollout that was ended by a caller, `asked`, or by the `guard`."""
        self._ended.labels(model, by).inc()
