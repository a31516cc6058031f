"""The service with metrics that count nothing: what `scripts/bench operations metrics` compares the real one with."""

from prometheus_client import Counter, Gauge, Histogram

from service.telemetry.drift import Window


def _nothing(*_: object) -> None:
    """Counts nothing."""


Counter.inc = Gauge.inc = Gauge.dec = Gauge.set = Histogram.observe = Window.add = _nothing

from service.app import Candor  # noqa: E402 - silence comes first

__all__ = ["Candor"]
