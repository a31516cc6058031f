"""What all models of a worker share: memory, allowances, threads, time of the event loop."""

from concurrent.futures import ThreadPoolExecutor

from service.image import budget
from service.image.budget import Budget, Budgets
from service.schedule.allowance import RESOURCES, Allowances, Rates
from service.schedule.loop_time import LoopTime
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers import host
from service.workers.shared_state import SharedState
from service.workers.shared_times import SharedTimes


class Resources:
    """The resources of one worker; `shared_state` and `shared_times` are those of all workers, if
    there are several.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        shared_state: SharedState | None = None,
        shared_times: SharedTimes | None = None,
    ) -> None:
        self.shared_state = shared_state or SharedState()
        self.budgets = _budgets(settings, metrics)
        self.allowances = Allowances(
            Rates(settings.passes_per_second, settings.megapixels_per_second),
            shared_times or SharedTimes(),
            {resource: metrics.allowance_rejected.labels(resource) for resource in RESOURCES},
        )
        self.loop_time = LoopTime()
        self.threads = ThreadPoolExecutor(
            max_workers=min(4, host.cores()), thread_name_prefix="images"
        )
        # Large images have a thread of their own, so that small ones never wait behind them.
        self.large_thread = ThreadPoolExecutor(1, thread_name_prefix="large images")

    def close(self) -> None:
        """Finishes what the threads do."""
        self.threads.shutdown()
        self.large_thread.shutdown()


def _budgets(settings: Settings, metrics: Metrics) -> Budgets:
    workers = settings.worker_count
    return Budgets(
        Budget(
            budget.IMAGES,
            budget.images_bytes(settings.decode_memory, workers),
            _budget_metrics(metrics, budget.IMAGES),
        ),
        Budget(
            budget.BODIES,
            budget.bodies_bytes(settings.body_memory, settings.max_body_bytes, workers),
            _budget_metrics(metrics, budget.BODIES),
        ),
    )


def _budget_metrics(metrics: Metrics, name: str) -> budget.BudgetMetrics:
    return budget.BudgetMetrics(
        metrics.budget_used.labels(name),
        metrics.budget_limit.labels(name),
        {
            reason: metrics.budget_rejected.labels(name, reason)
            for reason in (budget.TOO_LARGE, budget.FULL, budget.LATE)
        },
    )
