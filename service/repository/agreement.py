"""What the workers of one service have agreed to serve, and how they agree on a change.

One worker proposes a version. Each loads it beside the old one and votes. The last vote in favour
makes it the served one, from a moment that lies SWAP_SECONDS ahead, so that all swap at once; one
vote against, or too long a silence, ends the proposal, and every worker keeps what it has. There is
at most one proposal at a time.

The state is one small JSON file in the folder of the workers, replaced whole under a lock; a lone
worker needs none. Times are those of `time.monotonic`, one clock for all processes of a Linux
machine.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from service.repository.catalogue import Version

SWAP_SECONDS = 0.3  # more than the workers take to see it
PATIENCE_SECONDS = 300.0  # that a worker has to load a version
KEPT = 64  # outcomes


@dataclass(frozen=True)
class Served:
    """What is served under a name from the moment `at`: a version, or nothing if it is None."""

    version: Version | None
    at: float = 0.0


@dataclass(frozen=True)
class Proposal:
    """A version that should be served as `model`; None to serve nothing. `votes` by worker."""

    number: int
    model: str
    version: Version | None
    expires: float
    votes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """A `version` beside the served one (`service.repository.rollout`): a "canary" or a "shadow",
    of a `share` of the requests or images.

    It ends where labels agree, or maps correlate, less than the least over `least_images`.
    """

    version: Version
    mode: str
    share: float
    least_labels: float
    least_maps: float
    least_images: int


@dataclass(frozen=True)
class State:
    """The agreement: what is served by name, the open proposal, and how earlier ones ended.

    `rollouts` are the new versions beside served ones, `reasons` why the latest ones ended.
    """

    served: dict[str, Served] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    proposal: Proposal | None = None
    latest: int = 0  # the number of the latest proposal
    outcomes: dict[int, str] = field(default_factory=dict)  # "" if it was accepted, or the reason

    def ended(self, reason: str) -> "State":
        """This state after its proposal."""
        assert self.proposal is not None
        outcomes = {**self.outcomes, self.proposal.number: reason}
        kept = dict(sorted(outcomes.items())[-KEPT:])
        return replace(self, proposal=None, outcomes=kept)


class Agreement:
    """The view of worker number `own`, from 0, of `workers`, on the state in the file `path`."""

    def __init__(self, path: Path | None = None, own: int = 0, workers: int = 1) -> None:
        self._path, self._own, self._workers = path, own, workers
        self._state = State()
        self._mark = (0, 0)

    @property
    def state(self) -> State:
        """The latest state; a look costs one call of the system."""
        if self._path is not None:
            try:
                found = self._path.stat()
            except FileNotFoundError:
                return self._state
            mark = (found.st_ino, found.st_mtime_ns)
            if mark != self._mark:
                self._state, self._mark = _decoded(self._path.read_bytes()), mark
        return self._state

    def propose(self, model: str, version: Version | None) -> int | None:
        """Proposes to serve `version` as `model`; None while another proposal is open."""
        with self._changing() as change:
            state = change.state
            if state.proposal is not None and time.monotonic() < state.proposal.expires:
                return None
            if state.proposal is not None:
                state = state.ended(_silence(state.proposal, self._workers))
            number = state.latest + 1
            expires = time.monotonic() + PATIENCE_SECONDS
            change.state = replace(
                state, proposal=Proposal(number, model, version, expires), latest=number
            )
            return number

    def vote(self, number: int, reason: str = "") -> None:
        """Votes for the open proposal of this `number`, or against it with a `reason`."""
        with self._changing() as change:
            state, proposal = change.state, change.state.proposal
            if proposal is None or proposal.number != number:
                return  # another worker has ended it
            votes = {*proposal.votes, self._own}
            if reason:
                change.state = state.ended(reason)
            elif len(votes) < self._workers:
                change.state = replace(state, proposal=replace(proposal, votes=tuple(votes)))
            else:
                at = time.monotonic() + SWAP_SECONDS
                served = {**state.served, proposal.model: Served(proposal.version, at)}
                change.state = replace(state.ended(""), served=served)

    def expire(self) -> None:
        """Ends a proposal that a worker has been silent about for too long."""
        proposal = self.state.proposal
        if proposal is None or time.monotonic() < proposal.expires:
            return
        with self._changing() as change:
            if change.state.proposal == proposal:
                change.state = change.state.ended(_silence(proposal, self._workers))

    def roll_out(self, model: str, rollout: Rollout | None, reason: str = "") -> bool:
        """Begins a rollout, or ends one with a `reason`; False if there was none to end."""
        with self._changing() as change:
            state = change.state
            others = {name: each for name, each in state.rollouts.items() if name != model}
            if rollout is None and len(others) == len(state.rollouts):
                return False
            rollouts = others if rollout is None else {**others, model: rollout}
            reasons = {**state.reasons, model: reason}
            change.state = replace(state, rollouts=rollouts, reasons=reasons)
            return True

    def open(self, model: str, version: Version) -> Version | None:
        """What a worker that starts serves as `model`: the agreed version, or else `version`,
        which then is the agreed one.
        """
        with self._changing() as change:
            if model not in change.state.served:
                served = {**change.state.served, model: Served(version)}
                change.state = replace(change.state, served=served)
            return change.state.served[model].version

    @contextmanager
    def _changing(self) -> Iterator["_Change"]:
        """Holds the lock of all workers; what the block leaves is the new state."""
        if self._path is None:
            change = _Change(self._state)
            yield change
            self._state = change.state
            return
        with open(self._path.with_suffix(".lock"), "a") as lock:  # noqa: PTH123
            fcntl.flock(lock, fcntl.LOCK_EX)
            change = _Change(self.state)
            before = change.state
            yield change
            if change.state is not before:
                new = self._path.with_suffix(f".{self._own}")
                new.write_bytes(_encoded(change.state))
                os.replace(new, self._path)  # noqa: PTH105 - no reader sees half of it


class _Change:
    def __init__(self, state: State) -> None:
        self.state = state


def _silence(proposal: Proposal, workers: int) -> str:
    return (
        f"{workers - len(proposal.votes)} of {workers} workers have not loaded it within "
        f"{PATIENCE_SECONDS:.0f} s: look into their log"
    )


def _encoded(state: State) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        raise TypeError(type(value).__name__)

    return orjson.dumps(asdict(state), default=plain, option=orjson.OPT_NON_STR_KEYS)


def _decoded(text: bytes) -> State:
    found = orjson.loads(text)
    proposal = found["proposal"]
    if proposal is not None:
        version = _version(proposal["version"])
        proposal = Proposal(**{**proposal, "version": version, "votes": tuple(proposal["votes"])})
    return State(
        {
            name: Served(_version(each["version"]), each["at"])
            for name, each in found["served"].items()
        },
        {
            name: Rollout(**{**each, "version": _version(each["version"])})
            for name, each in found["rollouts"].items()
        },
        found["reasons"],
        proposal,
        found["latest"],
        {int(number): reason for number, reason in found["outcomes"].items()},
    )


def _version(found: dict[str, Any] | None) -> Version | None:
    return None if found is None else Version(**{**found, "folder": Path(found["folder"])})
