"""The service with metrics that count nothing, for `scripts/bench operations metrics`."""

from prometheus_client import Counter, Gauge, Histogram

from service.telemetry.drift import Window


def _nothing(*_: object) -> None:
    """Counts nothing."""


for _metric, _name in (
    (Counter, "inc"),
    (Gauge, "inc"),
    (Gauge, "dec"),
    (Gauge, "set"),
    (Histogram, "observe"),
    (Window, "add"),
):
    setattr(_metric, _name, _nothing)

from service.app import Candor  # noqa: E402 - the metrics are silenced before they are bound

__all__ = ["Candor"]
