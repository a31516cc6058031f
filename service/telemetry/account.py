"""The account of a request: the stages that its images have passed, the model that answered it, and
how.

Spans and lines of the access log are written from it. It is kept where traces or the access log are
on; otherwise `current` is None, and nothing is noted.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from service.errors import RequestError

SCOPE = "candor.account"  # key of a request's scope: the account that its trace is made of
MOST_LABELS = 16  # of the classes of one request
MOST_AGENT = 120  # characters of a caller's User-Agent
CANCELLED, LATE, REJECTED = 499, 504, (429, 503)  # statuses
DEFECT, FAULT = 500, 400  # the least status of each kind

Facts = dict[str, str | int]


class Stage(NamedTuple):
    """A stage that an image has passed, in seconds of `time.perf_counter`, and what is known of it:
    its lane, how many images ran together, the method.
    """

    name: str
    ended: float
    seconds: float
    facts: Facts


class Trace(NamedTuple):
    """The ids of a request's span, 32 and 16 hex digits; `sampled` if it is sent to a collector."""

    trace_id: str
    span_id: str
    sampled: bool


@dataclass
class Account:
    """What is known of one request; texts are empty where nothing is.

    `model` and `version` (12 hex digits) are those that answered it. `reason` is why it was
    rejected, as metrics label it; `failed` are the images of a list that got an error instead.
    """

    trace: Trace | None = None
    stages: list[Stage] = field(default_factory=list)
    route: str = ""  # a template; empty of what is not counted
    status: int = DEFECT
    model: str = ""
    version: str = ""
    images: int = 0
    labels: list[str] = field(default_factory=list)
    method: str = ""
    degraded_from: str = ""
    problem: str = ""
    reason: str = ""
    failed: int = 0
    key: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    agent: str = ""

    @property
    def outcome(self) -> str:
        """How the request ended: answered, degraded, partial (some images of a list failed),
        rejected (429, 503), late (504), cancelled (its caller left), invalid (other 4xx), failed.
        """
        if self.status == CANCELLED:
            return "cancelled"
        if self.status in REJECTED:
            return "rejected"
        if self.status == LATE:
            return "late"
        if self.status >= FAULT:
            return "failed" if self.status >= DEFECT else "invalid"
        if self.failed:
            return "partial"
        return "degraded" if self.degraded_from else "answered"

    def fail(self, error: RequestError) -> None:
        """Notes the error that the answer names."""
        self.problem, self.reason = error.code, error.reason

    def ask(self, method: str, degraded_from: str = "") -> None:
        """Notes the method of an explanation, and the one that it replaces."""
        self.method = method
        self.degraded_from = degraded_from or self.degraded_from

    def predict(self, label: str) -> None:
        """Notes a predicted class."""
        if len(self.labels) < MOST_LABELS:
            self.labels.append(label)

    def details(self) -> dict[str, str | int | list[str]]:
        """What is known of it, for a line of the access log, which has route and status anyway."""
        found: dict[str, str | int | list[str]] = {
            "outcome": self.outcome,
            "problem": self.problem,
            "reason": self.reason,
            "model": self.model,
            "version": self.version,
            "images": self.images,
            "labels": self.labels,
            "explanation": self.method,
            "degraded_from": self.degraded_from,
            "failed_images": self.failed,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "key": self.key,
            "user_agent": self.agent,
        }
        return {name: value for name, value in found.items() if value}


# The account of the current request; None where nobody keeps one.
current: ContextVar[Account | None] = ContextVar("account", default=None)


def agent_of(header: bytes) -> str:
    """A caller's User-Agent, cut to MOST_AGENT characters."""
    return header[:MOST_AGENT].decode("latin-1")
