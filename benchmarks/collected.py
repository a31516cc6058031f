"""The service whose GET /metrics is the text of prometheus_client's own collector, for
`scripts/bench operations scrapes`.
"""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.telemetry.multiprocess import Exposition


def _text(exposition: Exposition) -> str:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(exposition.folder))  # type: ignore[no-untyped-call]
    return bytes(generate_latest(registry)).decode()


Exposition.text = _text  # type: ignore[method-assign, assignment]

from service.app import Candor  # noqa: E402 - the text is replaced before it is asked for

__all__ = ["Candor"]
