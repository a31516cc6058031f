"""The versions in memory of one worker, by name.

A model that is asked for and not in memory is loaded, one after another; the least recently used
one leaves first where the budget is full. The default model never leaves.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Generic

from service.errors import BundleError, CandorError, NotFound, RequestError, Unavailable, short
from service.repository import background
from service.repository.agreement import Agreement
from service.repository.catalogue import Catalogue, Version
from service.repository.loaded import Answers, Loaded
from service.runtime import arena
from service.telemetry.versions import ModelLoads
from service.workers import host, memory

WAIT_SECONDS = 30.0  # that a request waits for its model to be loaded
SHARE = 0.25  # of the limit of memory
RETRY_SECONDS = 30.0  # after which a version that failed is tried again
FIRST = "1"  # taken for the served version: clients of numbered versions ask for the first
Key = tuple[str, str]  # of a version: its model and its short digest

log = logging.getLogger("candor")


class Shelf(Generic[Answers]):
    """The loaded versions; `default` answers where no model is named."""

    default: Loaded[Answers]

    def __init__(
        self,
        catalogue: Catalogue,
        agreement: Agreement,
        open_version: Callable[[Version], Answers],
        prove: Callable[[Version], None],
        budget_bytes: int,
        loads: ModelLoads,
    ) -> None:
        """`open_version` loads one, for seconds, on a thread; `prove` raises a BundleError against
        one that may not be opened in this process. `budget_bytes` bounds what all
        versions but the default one take.
        """
        self.catalogue = catalogue
        self.agreement = agreement
        self.loads = loads
        self._open = open_version
        self.prove = prove
        self._budget_bytes = budget_bytes
        self._loaded: dict[Key, Loaded[Answers]] = {}
        self._loading = asyncio.Lock()
        self._cost_share = 1.0  # resident bytes for each of a graph's, the most so far
        self._failed: dict[Key, tuple[float, str]] = {}

    def start(self) -> None:
        """Loads the default model: blocks.

        Raises:
            CandorError: it cannot be served.
        """
        name = self.catalogue.default
        version = self.agreement.open(name, self.catalogue.current(name))
        assert version is not None  # the default model is never unloaded
        self.default = self.put(self.load(version))

    def __iter__(self) -> Iterator[Loaded[Answers]]:
        return iter(self._loaded.values())

    def model_of(self, called: str) -> str:
        """The model that a caller names, perhaps by one of its views: NAME or NAME.logits.

        Raises:
            NotFound: there is none.
        """
        for name in (called, called.rpartition(".")[0]):
            if name and self.catalogue.has(name):
                return name
        raise NotFound(
            f"there is no model {short(called)}; the models are {', '.join(self.catalogue.names)}"
        )

    def served(self, model: str) -> Version:
        """The version that answers for `model`.

        Raises:
            NotFound: the model is unloaded.
            Unavailable: nothing of its folder can be served.
        """
        agreed = self.agreement.state.served.get(model)
        if agreed is None:
            try:
                version = self.agreement.open(model, self.catalogue.current(model))
            except BundleError as error:
                raise _cannot(model) from error
        elif agreed.at > time.monotonic():
            return self._before(model) or self._present(model, agreed.version)
        else:
            version = agreed.version
        return self._present(model, version)

    def loaded(self, model: str, version: Version) -> Loaded[Answers] | None:
        """The version if it is in memory."""
        return self._loaded.get((model, version.short))

    def of_model(self, model: str) -> list[Loaded[Answers]]:
        """The loaded versions of a model."""
        return [each for each in self if each.version.model == model]

    async def take(self, called: str | None, version: str | None = None) -> Loaded[Answers]:
        """What answers a request for a model, which is loaded if need be. Use it before anything
        else is awaited, or it may leave.

        Raises:
            NotFound: there is no such model or version, or it is unloaded.
            Unavailable: it cannot be loaded, or not in time.
        """
        if called is None or (called == self.default.version.model and not version):
            return self.default
        model = self.model_of(called)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    wanted = self._wanted(model, version)
                    found = self._loaded.get((model, wanted.short))
                    if found is None:
                        # Others may wait for it, too: it goes on when this caller leaves.
                        found = await asyncio.shield(background.begin(self._on_demand(wanted)))
                    if not found.retired:  # it may have left before this caller's turn
                        return found
        except TimeoutError:
            raise Unavailable(
                f"the model {model} has not been loaded within {WAIT_SECONDS:.0f} s: retry"
            ) from None

    def load(self, version: Version) -> Loaded[Answers]:
        """Loads a version, for seconds: not on the event loop.

        Raises:
            CandorError: it cannot be loaded.
        """
        before = host.resident_bytes({os.getpid()})
        answers = self._open(version)
        arena.shrink()
        memory.trim()
        cost = max(0, host.resident_bytes({os.getpid()}) - before)
        return Loaded(version, answers, cost)

    def put(self, loaded: Loaded[Answers], *, served: bool = True) -> Loaded[Answers]:
        """Takes a version that was loaded; `served` unless another one answers for its model."""
        version = loaded.version
        loaded.used_at = time.monotonic()  # or it would be the first to leave
        self._loaded[version.model, version.short] = loaded
        self.loads.count(version.model, "loaded")
        if served:
            self.serve(loaded)
        return loaded

    @staticmethod
    def serve(loaded: Loaded[Answers]) -> None:
        """Notes in the metrics that a version answers for its model from now on."""
        pipeline = loaded.answers.pipeline
        pipeline.metrics.serve(pipeline.model_metrics)

    def replace_default(self, new: Loaded[Answers]) -> None:
        """Lets `new` answer where no model is named; the version before it goes."""
        old, self.default = self.default, new
        if new is old:
            return
        self.serve(new)
        self.let_go(old, "replaced")
        log.info("%s: version %s for %s", old.version.model, new.version.short, old.version.short)

    def let_go(self, loaded: Loaded[Answers], reason: str) -> asyncio.Task[None]:
        """Lets a version go after its last answer, and counts it by the `reason`."""
        version = loaded.version
        del self._loaded[version.model, version.short]
        self.loads.count(version.model, reason)
        if reason == "unloaded":
            loaded.answers.pipeline.metrics.end(loaded.answers.pipeline.model_metrics)
        return background.begin(loaded.retire())

    def fault(self, model: str, version: str) -> str:
        """Why a version could not be loaded lately; "" if it was not tried, or will be again."""
        at, reason = self._failed.get((model, version), (0.0, ""))
        return reason if time.monotonic() - at < RETRY_SECONDS else ""

    def _before(self, model: str) -> Version | None:
        """The version that answers until a moment that is yet to come, if one is in memory."""
        if self.default.version.model == model:
            return self.default.version
        return next((each.version for each in self.of_model(model)), None)

    @staticmethod
    def _present(model: str, version: Version | None) -> Version:
        if version is None:
            raise NotFound(
                f"the model {model} is unloaded: POST /v2/repository/models/{model}/load loads it"
            )
        return version

    def _wanted(self, model: str, called: str | None) -> Version:
        served = self.served(model)
        if not called or called in (served.short, served.label, served.digest):
            return served
        found = self.catalogue.find(model, called)
        if found is None and called == FIRST:
            return served
        if found is None:
            raise NotFound(
                f"there is no model {model} of version {short(called)}; "
                f"{served.short}, or {FIRST}, is served"
            )
        return found

    async def _on_demand(self, version: Version) -> Loaded[Answers]:
        key = version.model, version.short
        async with self._loading:
            if key in self._loaded:
                return self._loaded[key]
            self._check_failed(key)
            try:
                await asyncio.gather(*self._make_room(version))
                await asyncio.to_thread(self.prove, version)
                loaded = await asyncio.to_thread(self.load, version)
                self._weigh(loaded)
                return self.put(loaded, served=version == self.served(version.model))
            except RequestError:
                raise
            except CandorError as error:
                self._failed[key] = time.monotonic(), str(error)
                self.loads.count(version.model, "failed")
                log.warning("the model %s cannot be loaded: %s", version.model, error)
                raise _cannot(version.model) from error

    def _check_failed(self, key: Key) -> None:
        if self.fault(*key):
            raise _cannot(key[0])

    def _weigh(self, loaded: Loaded[Answers]) -> None:
        """Takes a version for as heavy as the heaviest so far, by the bytes of its graphs: what is
        measured while others compute may be too little.
        """
        size = max(1, _bytes_of(loaded.version))
        self._cost_share = max(self._cost_share, loaded.cost_bytes / size)
        loaded.cost_bytes = round(self._cost_share * size)

    def _make_room(self, version: Version) -> list[asyncio.Task[None]]:
        """Lets the least recently used versions go until `version` has room; those that leave.

        Raises:
            Unavailable: it has none while all others answer.
        """
        others = sorted(
            (each for each in self if each is not self.default), key=lambda each: each.used_at
        )
        cost = self._cost_share * _bytes_of(version)
        taken = sum(each.cost_bytes for each in others)
        leaving = []
        for each in others:
            if taken + cost <= self._budget_bytes:
                break
            if not each.in_use and not each.kept:
                leaving.append(self.let_go(each, "evicted"))
                taken -= each.cost_bytes
        if taken and taken + cost > self._budget_bytes:
            raise Unavailable(
                f"the model {version.model} takes about {cost / 2**20:.0f} MiB, and "
                f"{taken / 2**20:.0f} of {self._budget_bytes / 2**20:.0f} MiB are in use "
                "(CANDOR_MODEL_MEMORY): retry"
            )
        return leaving


def _cannot(model: str) -> Unavailable:
    # The reason names folders of the server: it is for its log, and for administrators.
    return Unavailable(
        f"the model {model} cannot be loaded: GET /models has the reason for administrators"
    )


def _bytes_of(version: Version) -> int:
    """The bytes of a version's graphs."""
    try:
        return sum(file.stat().st_size for file in version.folder.glob("*.onnx"))
    except OSError:
        return 0


def budget_bytes(wanted: int, workers: int) -> int:
    """The bytes of one of so many workers for models beside the default one; `wanted` if not 0."""
    if wanted:
        return wanted
    limit = host.memory_limit_bytes()
    return 2**30 if limit is None else int(SHARE * limit / workers)
