"""What all processes of the service take of the machine, read at a scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from service.telemetry.multiprocess import Exposition
from service.workers import host


class MachineCollector(Collector):
    """Memory and processor time of all workers, and what killed ones leave, read at a scrape."""

    def __init__(self, exposition: Exposition | None, processes: Callable[[], set[int]]) -> None:
        self._exposition = exposition
        self._processes = processes
        self._limit_bytes = host.memory_limit_bytes()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The gauges and the counter, for all workers and their supervisor."""
        pids = self._processes()
        yield GaugeMetricFamily(
            "candor_memory_bytes", "Resident memory of all processes.", host.resident_bytes(pids)
        )
        yield CounterMetricFamily(
            "candor_cpu_seconds", "Processor time of all processes.", host.cpu_seconds(pids)
        )
        if self._exposition is not None:
            yield GaugeMetricFamily(
                "candor_metrics_unreadable_files",
                "Files of workers that the metrics leave out, because they are damaged.",
                self._exposition.unreadable,
            )
            yield CounterMetricFamily(
                "candor_requests_lost",
                "Requests that killed workers had begun and not answered.",
                value=self._exposition.lost,
            )
        if self._limit_bytes is not None:
            yield GaugeMetricFamily(
                "candor_memory_limit_bytes",
                "Memory that all processes may use together.",
                self._limit_bytes,
            )
