"""The progress of an explanation: how much is done, how fast, and whether the rest fits its time.

Work is in forward passes, as `service.explain.question` counts them, each weighed by what a pass of
its graph takes here beside one of predict.onnx. Times are seconds.
"""

from collections.abc import Callable, Mapping

from service.bundle import folder
from service.explain.methods import GRADIENT_PASSES
from service.runtime.engine import Budget, Engine
from service.runtime.graphs import PATH_GRADIENT

# Of the work, or of the time, before the pace is believed: a moment may be slow, and what is given
# up begins anew.
BELIEVED_WORK, BELIEVED_TIME = 0.1, 0.15
# The rival's map follows Integrated Gradients, with a quarter of the steps.
WITH_RIVAL = 1.25
PASSES_A_ROW = {folder.GRADIENT: GRADIENT_PASSES, folder.LRP: GRADIENT_PASSES}


def weights_of(engine: Engine) -> dict[str, float]:
    """What a pass of each graph takes, beside one of predict.onnx, as measured at the start."""
    unit = engine.row_seconds(folder.PREDICT)
    return {
        graph: engine.row_seconds(graph) / (PASSES_A_ROW.get(graph, 1) * unit)
        for graph in (folder.PREDICT, *folder.DERIVED)
        if engine.has(graph)
    }


class Progress(Budget):
    """The progress of one explanation, which must end `until` a time of `clock`.

    Before that time so many weighed passes as `kept` must fit, too, at the pace so far: they are
    those of a cheaper answer.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        work: float,
        until: float,
        clock: Callable[[], float],
        elsewhere: Callable[[], float] = lambda: 0.0,
        *,
        kept: float = 0.0,
    ) -> None:
        """Begins now. `work`: the weighed passes that are expected; `elsewhere()`: the seconds
        since the start that went into other explanations.
        """
        self._weights = weights
        self._work = work
        self._until = until
        self._clock = clock
        self._elsewhere = elsewhere
        self._kept = kept
        self._started = clock()
        self._first = 0.0, 0.0  # the passes and the seconds of the first piece
        self.done = 0.0

    @property
    def seconds(self) -> float:
        """The seconds so far, rests for predictions included."""
        return self._clock() - self._started - self._elsewhere()

    @property
    def pace(self) -> float:
        """The seconds of a weighed pass so far; 0 before the first piece has ended."""
        seconds, (first, first_seconds) = self.seconds, self._first
        if not self.done:
            return 0.0
        whole = seconds / max(1.0, self.done)
        # The first piece of a shape, or after a rest, is slower than what follows.
        later = self.done - first
        return min(whole, (seconds - first_seconds) / later) if later >= 1 else whole

    @property
    def hopeless(self) -> bool:
        """True if the rest will not end in time at the pace so far."""
        much = self.done >= max(1.0, BELIEVED_WORK * self._work)
        long = self.done > 0 and self.seconds > BELIEVED_TIME * (self._until - self._started)
        return (much or long) and not self._fits(self._work - self.done)

    def has_time_for(self, graph: str, rows: int) -> bool:
        """True if so many more rows of `graph` end in time; they are then expected, too."""
        work = WITH_RIVAL * self._work_of(graph, rows)
        fits = self._fits(work)
        if fits:
            self._work = self.done + work
        return fits

    def ran(self, graph: str, rows: int) -> None:
        """Notes that so many rows of `graph` have run."""
        self.done += self._work_of(graph, rows)
        if not self._first[0]:
            self._first = self.done, self.seconds

    def _fits(self, work: float) -> bool:
        return self._clock() + (max(0.0, work) + self._kept) * self.pace <= self._until

    def _work_of(self, graph: str, rows: int) -> float:
        named = folder.GRADIENT if graph == PATH_GRADIENT else graph
        return rows * PASSES_A_ROW.get(named, 1) * self._weights.get(named, 1.0)
