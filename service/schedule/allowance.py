"""The allowance of each caller: forward passes and megapixels a second, in token buckets.

A bucket fills at its rate, up to BURST_SECONDS of it. The cost of a request is known before it
runs. A request that finds anything in the bucket runs whole, and what the bucket lacks then is
owed: the largest request is possible at any rate, and the mean holds. All workers of a service
share the buckets.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm,
ITU-T I.371).
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from prometheus_client import Counter

from service.errors import TooManyRequests
from service.workers.shared_times import SharedTimes

BURST_SECONDS = 10.0
PASSES, MEGAPIXELS = "passes", "megapixels"
RESOURCES = (PASSES, MEGAPIXELS)  # in the order of `Rates`
NOUNS = {PASSES: "forward passes", MEGAPIXELS: MEGAPIXELS}


class Rates(NamedTuple):
    """What a caller may take a second; 0 is no limit, None the service's."""

    passes: float | None = None
    megapixels: float | None = None


OF_THE_SERVICE = Rates()


class Caller(NamedTuple):
    """The caller of a request: a `name` for messages, and its own `rates`."""

    name: str = ""
    rates: Rates = OF_THE_SERVICE


class Allowances:
    """The buckets of all callers; `rates` are those of a caller without its own."""

    def __init__(
        self,
        rates: Rates,
        times: SharedTimes,
        rejected: Mapping[str, Counter] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`rejected` counts the rejections by resource."""
        self._rates = rates
        self._unlimited = not any(rates)
        self._times = times
        self._rejected = rejected or {}
        self._clock = clock

    def check(self, caller: Caller) -> None:
        """Checks that no bucket of `caller` is empty.

        Raises:
            TooManyRequests: one is.
        """
        for resource in RESOURCES:
            self.charge(caller, resource, 0.0)

    def charge(self, caller: Caller, resource: str, amount: float) -> None:
        """Takes `amount` of a resource from the bucket of `caller`.

        Raises:
            TooManyRequests: it is empty.
        """
        if self._unlimited and caller.rates is OF_THE_SERVICE:
            return
        column = RESOURCES.index(resource)
        own = caller.rates[column]
        rate = self._rates[column] if own is None else own
        if not rate:
            return
        now = self._clock()
        latest = now + BURST_SECONDS
        full_at = self._times.advance(caller.name, column, amount / rate, now, latest)
        if full_at > latest:
            if self._rejected:
                self._rejected[resource].inc()
            seconds = math.ceil(full_at - latest)
            raise TooManyRequests(
                f"{caller.name or 'this caller'} has used its {NOUNS[resource]}, {rate:g} a second "
                f"and {BURST_SECONDS * rate:g} at once: retry in {seconds} s",
                seconds,
                f"allowance_{resource}",
            )
