"""A new version beside the served one: it answers a share of requests, or none, and is compared.

In a canary the new version answers a share of the requests that name no version; in the shadow it
answers none. A share of the images is computed by both, beside the answers: whether their labels
and sets agree, how sure each is, and how alike their maps are for the class of the served version.
Where the new version is worse than the rollout allows, beyond chance, worker 0 ends it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, get_args

import numpy as np

from service.errors import (
    CandorError,
    Conflict,
    InvalidParameter,
    NotFound,
    RequestError,
    short,
)
from service.repository import background
from service.repository.agreement import Rollout
from service.repository.loaded import Answers, Loaded
from service.repository.shelf import Shelf
from service.schedule.inference import Fitted
from service.schedule.pipeline import Compared
from service.telemetry.intervals import mean_interval, wilson
from service.telemetry.logs import logged
from service.telemetry.samples import Samples
from service.telemetry.versions import DISTANCES, Comparisons

Mode = Literal["canary", "shadow"]
MODES: tuple[str, ...] = get_args(Mode)
AT_ONCE = 2  # comparisons in a worker: answers come first
FOLLOW_SECONDS, GUARD_SECONDS = 0.25, 2.0
# Of a rollout that names none: shares, a correlation, images.
SHARE, LABELS, MAPS, IMAGES = 0.1, 0.8, 0.5, 100
FIELDS = ("version", "mode", "share", "least_labels", "least_maps", "least_images")
LIMITS: Mapping[str, tuple[float, float]] = {
    "share": (0.0, 1.0),
    "least_labels": (0.0, 1.0),
    "least_maps": (-1.0, 1.0),
    "least_images": (1.0, 1e9),
}

log = logging.getLogger("candor")


@dataclass(frozen=True)
class Report:
    """The comparison of a version with the served one, over `images`.

    `labels` and `sets`: the shares in which they agree. `maps`: the mean correlation of their
    Grad-CAMs for one class. Each is a value with the ends of its 95 % interval, or None without
    images. `confidence`: the means of the served version and of the other.
    """

    images: int
    labels: tuple[float, float, float] | None
    sets: tuple[float, float, float] | None
    maps: tuple[float, float, float] | None
    confidence: tuple[float, float] | None

    @classmethod
    def of(cls, text: bytes, model: str, version: str) -> "Report":
        """The report of all workers, from the text of the metrics."""
        found = Samples(text.decode())

        def total(name: str, **labels: str) -> float:
            return found.total(f"candor_comparison{name}", model=model, version=version, **labels)

        images = int(total("s_total"))
        if not images:
            return cls(0, None, None, None, None)
        shares = [
            (hits / images, *wilson(int(hits), images))
            for hits in (total("_agreements_total", of=of) for of in ("label", "set"))
        ]
        below = [total("_map_distance_bucket", le=str(edge)) for edge in DISTANCES]
        maps = None
        if below[-1]:
            mean = total("_map_distance_sum") / below[-1]
            low, high = mean_interval(mean, DISTANCES, below)
            maps = 1 - mean, 1 - high, 1 - low
        sure = (total("_confidence_total", of=of) / images for of in ("served", "other"))
        return cls(images, shares[0], shares[1], maps, (next(sure), next(sure)))

    def fault(self, rollout: Rollout) -> str:
        """Why the rollout should end; "" if it may go on."""
        if self.images < rollout.least_images:
            return ""
        for what, found, least in (
            ("labels agree", self.labels, rollout.least_labels),
            ("maps correlate", self.maps, rollout.least_maps),
        ):
            if found is not None and found[2] < least:
                return (
                    f"{what} by {found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f}) over "
                    f"{self.images} images; the least is {least}"
                )
        return ""

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "images": self.images,
            "label_agreement": _interval(self.labels),
            "set_agreement": _interval(self.sets),
            "map_correlation": _interval(self.maps),
            "mean_confidence": self.confidence
            and {"served": self.confidence[0], "candidate": self.confidence[1]},
        }


class _Pair(NamedTuple, Generic[Answers]):
    rollout: Rollout
    served: Loaded[Answers]
    candidate: Loaded[Answers]


class Rollouts(Generic[Answers]):
    """The rollouts in one worker; worker 0 guards them."""

    def __init__(
        self,
        shelf: Shelf[Answers],
        comparisons: Comparisons,
        text: Callable[[], bytes],
        *,
        guards: bool = True,
        seed: int | None = None,
    ) -> None:
        """`text` gives the metrics of all workers."""
        self._shelf = shelf
        self._comparisons = comparisons
        self._text = text
        self._guards = guards
        self._random = random.Random(seed)  # noqa: S311 - it draws shares, no secrets
        self._running = 0
        self._present: dict[str, _Pair[Answers]] = {}

    async def keep_following(self) -> None:
        """Loads, watches and guards what the workers have agreed on, for ever."""
        guarded = time.monotonic()
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            with logged("the rollouts of the workers cannot be followed"):
                await self._follow()
                if self._guards and time.monotonic() - guarded >= GUARD_SECONDS:
                    guarded = time.monotonic()
                    for model, rollout in list(self._shelf.agreement.state.rollouts.items()):
                        await self._guard(model, rollout)

    def chosen(self, served: Loaded[Answers]) -> Loaded[Answers]:
        """What answers a request that names no version of a model."""
        if not self._present:
            return served
        pair = self._present.get(served.version.model)
        if pair is None or pair.rollout.mode != "canary":
            return served
        return pair.candidate if self._random.random() < pair.rollout.share else served

    async def report(self, model: str, version: str) -> Report:
        """The comparison of a version with the served one, by all workers."""
        # The text of all workers' metrics takes milliseconds to write and to read.
        return await asyncio.to_thread(lambda: Report.of(self._text(), model, version))

    def end(self, model: str, reason: str) -> None:
        """Ends a rollout; the served version goes on alone."""
        if self._shelf.agreement.roll_out(model, None, reason):
            self._comparisons.ended(model, "guard" if reason else "asked")
            log.warning("the rollout of %s has ended: %s", model, reason or "as asked")

    async def _guard(self, model: str, rollout: Rollout) -> None:
        report = await self.report(model, rollout.version.short)
        if reason := report.fault(rollout):
            self.end(model, reason)

    async def _follow(self) -> None:
        agreed = self._shelf.agreement.state.rollouts
        for model, pair in list(self._present.items()):
            # Another version may be served meanwhile.
            if agreed.get(model) != pair.rollout or pair.served not in self._shelf:
                self._detach(model, pair.candidate)
        for model, rollout in agreed.items():
            if model in self._present:
                continue
            try:
                candidate = await self._shelf.take(model, rollout.version.digest)
                served = await self._shelf.take(model)
            except CandorError as error:
                self.end(model, f"it cannot be loaded: {error}")
                continue
            if candidate is not served:
                self._attach(model, rollout, served, candidate)

    def _attach(
        self, model: str, rollout: Rollout, served: Loaded[Answers], candidate: Loaded[Answers]
    ) -> None:
        self._present[model] = _Pair(rollout, served, candidate)
        shadow = rollout.mode == "shadow"
        watched, other = (served, candidate) if shadow else (candidate, served)
        share = rollout.share if shadow else 1.0
        watched.keep(lambda fitted: self._offer(fitted, share, served, candidate))
        other.keep()

    def _detach(self, model: str, candidate: Loaded[Answers]) -> None:
        del self._present[model]
        for loaded in self._shelf.of_model(model):
            loaded.release()
        present = self._shelf.loaded(model, candidate.version) is candidate
        if present and candidate.version != self._shelf.served(model):
            self._shelf.let_go(candidate, "ended")

    def _offer(
        self, fitted: Fitted, share: float, served: Loaded[Answers], candidate: Loaded[Answers]
    ) -> None:
        """Compares a share of the images, if there is time for it."""
        busy = served.answers.pipeline.backlogged or self._running >= AT_ONCE
        if busy or self._random.random() >= share:
            return
        self._running += 1
        background.begin(self._compare(fitted, served, candidate))

    async def _compare(
        self, fitted: Fitted, served: Loaded[Answers], candidate: Loaded[Answers]
    ) -> None:
        try:
            with served.used() as ours, candidate.used() as theirs:
                first = await ours.pipeline.compared(fitted)
                other = await theirs.pipeline.compared(fitted, first.prediction.best.label)
        except RequestError:
            return  # there was no time for it
        finally:
            self._running -= 1
        version = candidate.version
        self._comparisons.count(
            version.model,
            version.short,
            label=first.prediction.best.index == other.prediction.best.index,
            same_set=_set_of(first) == _set_of(other),
            confidences=(first.prediction.best.probability, other.prediction.best.probability),
            correlation=correlation(first, other),
        )


def rollout_of(given: Mapping[str, Any], shelf: Shelf[Any], model: str) -> Rollout:
    """The rollout that a caller asks for.

    Raises:
        InvalidParameter: a field is out of range.
        NotFound: there is no such version.
        Conflict: it is the served one.
    """
    called, mode = given.get("version"), given.get("mode", "shadow")
    version = shelf.catalogue.find(model, called) if isinstance(called, str) else None
    served = shelf.served(model)
    if version is None:
        others = [each.short for each in shelf.catalogue.versions(model)]
        raise NotFound(
            f"version is {short(called)}; give one beside the served {served.short}, of "
            f"{', '.join(others)}"
        )
    if version == served:
        raise Conflict(f"version is {short(called)}, which is served: give one beside it")
    if mode not in MODES:
        raise InvalidParameter(f"mode is {short(mode)}; give {' or '.join(MODES)}")
    usual = {"share": SHARE, "least_labels": LABELS, "least_maps": MAPS, "least_images": IMAGES}
    numbers = {name: _number(name, given.get(name, value)) for name, value in usual.items()}
    least_images = int(numbers.pop("least_images"))
    return Rollout(version, mode, **numbers, least_images=least_images)


def correlation(first: Compared, other: Compared) -> float | None:
    """The correlation of two maps of one image; None without maps, or where one is constant."""
    if first.map is None or other.map is None or first.map.shape != other.map.shape:
        return None
    a, b = (np.asarray(each, np.float64).ravel() for each in (first.map, other.map))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else None


def _set_of(compared: Compared) -> tuple[int, ...] | None:
    found = compared.prediction.prediction_set
    return None if found is None else tuple(sorted(found.indices.tolist()))


def _number(name: str, value: Any) -> float:
    low, high = LIMITS[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidParameter(f"{name} is {short(value)}; give a number from {low:g} to {high:g}")
    return float(value)


def _interval(found: tuple[float, float, float] | None) -> dict[str, float] | None:
    return None if found is None else {"value": found[0], "low": found[1], "high": found[2]}
