"""Changes of what is served, while it is served: a new version, a model less or more.

Worker 0 looks at the folders every CANDOR_RELOAD_SECONDS; any worker is asked by
POST /v2/repository/models/NAME/load. That worker tries the version in a process of its own and
proposes it (`service.repository.agreement`). Every worker loads it beside the old one, one worker
after another, warms and tests it, and votes; all swap at one moment, between two requests. The old
version leaves after its last answer. A version that fails is counted and logged, and the old one
goes on.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple

from service.bundle.manifest import MANIFEST, Manifest
from service.errors import BundleError, CandorError, Conflict, RequestError
from service.repository import background
from service.repository.agreement import PATIENCE_SECONDS, Proposal, Served
from service.repository.catalogue import Version
from service.repository.loaded import Answers, Loaded
from service.repository.shelf import Shelf
from service.telemetry.logs import logged
from service.workers import host

TICK_SECONDS = 0.1  # between two looks at the agreement
AGAIN_SECONDS = 30.0  # after which a version that failed is tried again
ASKED_SECONDS = PATIENCE_SECONDS + 10  # that a caller who asks for a load waits for its end
SIDE = 4  # a quarter of the workers load at once: the others have the cores for answers

log = logging.getLogger("candor")


class _Seen(NamedTuple):
    """A version that could not be served, the reason, and when it is tried again."""

    digest: str
    reason: str
    again_at: float


_NOTHING = _Seen("", "", -math.inf)


class Reload(Generic[Answers]):
    """Follows the agreement in worker number `own` of `workers`."""

    def __init__(
        self,
        shelf: Shelf[Answers],
        processes: Callable[[], set[int]],
        *,
        own: int = 0,
        workers: int = 1,
        every_seconds: float = 0.0,
    ) -> None:
        """`processes` are those that share the memory. The folders are looked at
        `every_seconds`, or never if that is 0.
        """
        self._shelf = shelf
        self._processes = processes
        self._own, self._workers = own, workers
        self._every_seconds = every_seconds
        self._prepared: dict[int, Loaded[Answers]] = {}
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._followed: dict[str, Served] = {}
        self._seen: dict[str, _Seen] = {}  # what was wrong with the folder of a model

    async def keep_following(self) -> None:
        """Follows the agreement, and looks at the folders, for ever."""
        looked = time.monotonic()
        looking: asyncio.Task[None] | None = None
        self._followed = dict(self._shelf.agreement.state.served)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            with logged("the agreement of the workers cannot be followed"):
                self._shelf.agreement.expire()
                self._follow()
            now = time.monotonic()
            due = self._every_seconds and not self._own and now - looked >= self._every_seconds
            if due and (looking is None or looking.done()):
                looked, looking = now, asyncio.create_task(self._look())

    async def load(self, model: str) -> str:
        """Serves what the folder of `model` says is current; returns its version.

        Raises:
            NotFound: there is no such model.
            Conflict: it cannot be served, and why: what was served goes on.
        """
        model = self._shelf.model_of(model)
        try:
            version = await asyncio.to_thread(self._shelf.catalogue.current, model)
            served = self._shelf.agreement.state.served.get(model)
            if served is None or served.version is None or served.version.digest != version.digest:
                await asyncio.to_thread(self._prove, model, version)
                await self._agreed(model, version)
            await self._shelf.take(model)
        except RequestError:
            raise
        except CandorError as error:
            self._fail(model, str(error))
            raise Conflict(f"{model} is served as before: {error}") from None
        return version.short

    async def unload(self, model: str) -> None:
        """Serves a model no longer.

        Raises:
            NotFound: there is no such model.
            Conflict: it is the default one, or another change goes on.
        """
        model = self._shelf.model_of(model)
        if model == self._shelf.catalogue.default:
            raise Conflict(f"{model} answers where no model is named: it cannot be unloaded")
        await self._agreed(model, None)

    def check(self, model: str, version: Version) -> None:
        """Checks that a version can stand beside the served one; takes seconds.

        Raises:
            Conflict: it cannot.
        """
        try:
            self._prove(model, version)
        except BundleError as error:
            raise Conflict(f"{version.short} cannot be compared with {model}: {error}") from None

    def _prove(self, model: str, version: Version) -> None:
        """Checks, before any worker loads it, what can be known of a version; takes seconds.

        Raises:
            BundleError: it cannot be served in the place of the present one.
        """
        if (served := self._resident(model)) is not None:
            self._check_memory(served, version)  # the trial below takes as much, or more
        self._shelf.prove(version)
        if served is not None:
            _check_likeness(served, version)

    async def promote(self, model: str, version: Version) -> str:
        """Serves a version, and points the folder of the model to it; a sentence says why that was
        not possible.

        Raises:
            Conflict: the version cannot be served.
        """
        try:
            await self._agreed(model, version)
        except BundleError as error:
            raise Conflict(f"{model} is served as before: {error}") from None
        return await asyncio.to_thread(self._shelf.catalogue.point, model, version)

    async def _agreed(self, model: str, version: Version | None) -> None:
        """Proposes a change, and waits for its end.

        Raises:
            Conflict: another one goes on.
            BundleError: a worker is against it.
        """
        agreement = self._shelf.agreement
        number = agreement.propose(model, version)
        if number is None:
            raise Conflict("another version is being loaded: retry later")
        async with asyncio.timeout(ASKED_SECONDS):
            # Another process ends it: there is no event.
            while (reason := agreement.state.outcomes.get(number)) is None:  # noqa: ASYNC110
                await asyncio.sleep(TICK_SECONDS / 2)
        if reason:
            raise BundleError(reason)
        ahead = agreement.state.served[model].at - time.monotonic()
        await asyncio.sleep(max(0.0, ahead) + TICK_SECONDS)  # by then every worker has swapped

    async def _look(self) -> None:
        """Proposes a version of each model whose folder names another one than is served."""
        for model in self._shelf.catalogue.names:
            served = self._shelf.agreement.state.served.get(model)
            if served is not None and served.version is not None:  # others wait to be asked for
                await self._look_at(model, served.version)

    async def _look_at(self, model: str, served: Version) -> None:
        seen = self._seen.get(model, _NOTHING)
        if time.monotonic() < seen.again_at:
            return
        digest = ""
        try:
            version = await asyncio.to_thread(self._shelf.catalogue.current, model)
            digest = version.digest
            if digest != served.digest:
                await asyncio.to_thread(self._prove, model, version)
                await self._agreed(model, version)
        except Conflict:
            return  # the next look tries again
        except CandorError as error:
            # It may be half copied: it is tried again, and logged once.
            if (digest, str(error)) != (seen.digest, seen.reason):
                self._fail(model, str(error))
            again = time.monotonic() + AGAIN_SECONDS
            self._seen[model] = _Seen(digest, str(error), again)
        else:
            self._seen.pop(model, None)

    def _follow(self) -> None:
        state = self._shelf.agreement.state
        proposal = state.proposal
        if proposal is not None and proposal.number not in self._preparing:
            at_once = max(1, self._workers // SIDE)
            waiting = sum(1 for other in range(self._own) if other not in proposal.votes)
            if waiting < at_once:
                self._preparing[proposal.number] = asyncio.create_task(self._prepare(proposal))
        for model, served in state.served.items():
            if self._followed.get(model) != served:
                self._followed[model] = served
                loop = asyncio.get_running_loop()
                loop.call_later(max(0.0, served.at - time.monotonic()), self._swap, model, served)
        self._forget(state.outcomes)

    def _forget(self, outcomes: dict[int, str]) -> None:
        """Drops what was prepared for proposals that have failed."""
        for number in [number for number in self._prepared if outcomes.get(number)]:
            loaded = self._prepared.pop(number)
            background.begin(loaded.retire())
        for number in [number for number in self._preparing if number in outcomes]:
            if self._preparing[number].done():
                del self._preparing[number]

    async def _prepare(self, proposal: Proposal) -> None:
        """Loads the version of a proposal beside the old one, and votes."""
        reason = ""
        try:
            old = self._resident(proposal.model)
            if proposal.version is not None and old is not None:
                await asyncio.to_thread(_check_likeness, old, proposal.version)
                if self._shelf.loaded(proposal.model, proposal.version) is None:
                    self._check_memory(old, proposal.version)
                    loaded = await asyncio.to_thread(self._shelf.load, proposal.version)
                    self._prepared[proposal.number] = loaded
        except Exception as error:  # noqa: BLE001 - whatever it is, the old version goes on
            reason = str(error).strip() or type(error).__name__
        self._shelf.agreement.vote(proposal.number, reason)

    def _resident(self, model: str) -> Loaded[Answers] | None:
        """What is in memory of a model, and is served."""
        if self._shelf.default.version.model == model:
            return self._shelf.default
        served = self._followed.get(model)
        if served is None or served.version is None:
            return None
        return self._shelf.loaded(model, served.version)

    def _swap(self, model: str, served: Served) -> None:
        """Lets the agreed version answer from now on, between two requests."""
        version = served.version
        new = None if version is None else self._ready(version)
        if version is not None and model == self._shelf.catalogue.default:
            if new is not None:
                self._shelf.replace_default(new)
            elif self._shelf.default.version != version:
                background.begin(self._catch_up(version))
            return
        if new is not None:
            self._shelf.serve(new)
        for old in self._shelf.of_model(model):
            if not old.kept and (version is None or old.version.digest != version.digest):
                self._shelf.let_go(old, "unloaded" if version is None else "replaced")

    def _ready(self, version: Version) -> Loaded[Answers] | None:
        """The version if it is in memory: prepared for a proposal, or for a rollout."""
        for number, loaded in self._prepared.items():
            if loaded.version == version:
                return self._shelf.put(self._prepared.pop(number))
        return self._shelf.loaded(version.model, version)

    async def _catch_up(self, version: Version) -> None:
        """Loads what the others have agreed on while this worker was starting."""
        loaded = await asyncio.to_thread(self._shelf.load, version)
        self._shelf.replace_default(self._shelf.put(loaded))

    def _check_memory(self, old: Loaded[Answers], new: Version) -> None:
        """Checks that the new version has room beside the old one, in all workers that load.

        Raises:
            BundleError: it has not.
        """
        limit = host.memory_limit_bytes()
        if limit is None:
            return
        before, after = _graph_bytes(old.version.folder), _graph_bytes(new.folder)
        each = old.cost_bytes * after / before if before and old.cost_bytes else 10 * after
        needed = each * self._workers
        used = host.resident_bytes(self._processes())
        if used + needed > limit:
            raise BundleError(
                f"to load {new.short} beside {old.version.short} takes about "
                f"{needed / 2**20:.0f} MiB in {self._workers} workers; {used / 2**20:.0f} of "
                f"{limit / 2**20:.0f} MiB are in use: give the service more memory, or restart it"
            )

    def _fail(self, model: str, reason: str) -> None:
        self._shelf.loads.count(model, "failed")
        log.warning("the model %s is served as before: %s", model, reason)


def _check_likeness(old: Loaded[Any], new: Version) -> None:
    """Checks that callers of the old version can be answered by the new one.

    Raises:
        BundleError: it has other labels, or another kind of input or answer.
    """
    ours = old.answers.pipeline.engine.manifest
    theirs = Manifest.parse((new.folder / MANIFEST).read_bytes())
    for what, before, after in (
        ("other labels", ours.labels, theirs.labels),
        ("another kind of answer", _kind(ours), _kind(theirs)),
        ("another input", ours.input.shape, theirs.input.shape),
    ):
        if before != after:
            raise BundleError(
                f"the version {new.short} has {what} than {old.version.short} "
                f"({after!r:.60} for {before!r:.60}): serve it under a name of its own"
            )


def _kind(manifest: Manifest) -> str:
    return "several labels" if manifest.is_multi_label else "one label"


def _graph_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.onnx"))
