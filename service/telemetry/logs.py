"""The log on standard error, as lines of text or of JSON. Lines written while a request is
answered carry its id, and the ids of its trace and span where it is traced.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from service.settings import LogFormat
from service.telemetry import account

SERVERS = ("", "bentoml", "uvicorn.error", "circus")  # loggers of the processes' other code
QUIET = ("bentoml",)  # a dozen lines a start, of hooks and options

request_id: ContextVar[str] = ContextVar("request_id", default="")


class TextFormatter(logging.Formatter):
    """Formats a record as one line for a person, with the ids of the request and its trace behind
    it, and then the record's `details`.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] [candor] %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        line, identity = super().formatMessage(record), request_id.get()
        if identity:
            trace = _trace_ids().get("trace_id")
            line += f" (request {identity}, trace {trace})" if trace else f" (request {identity})"
        details: dict[str, Any] = getattr(record, "details", {})
        return line + "".join(f" {name}={_plain(value)}" for name, value in details.items())


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; the record's `fields` and `details` are part of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identity := request_id.get():
            document["request_id"] = identity
        document |= _trace_ids()
        document |= getattr(record, "fields", {}) | getattr(record, "details", {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str).decode()


def _trace_ids() -> dict[str, str]:
    """The ids of the current request's trace, named as OpenTelemetry names them in logs; none where
    it is not traced.
    """
    noted = account.current.get()
    if noted is None or noted.trace is None:
        return {}
    trace = noted.trace
    flags = "01" if trace.sampled else "00"
    return {"trace_id": trace.trace_id, "span_id": trace.span_id, "trace_flags": flags}


def _plain(value: Any) -> str:
    """A detail in a line of text; what a caller may have written is quoted."""
    if isinstance(value, str) and value.isascii() and value.replace("_", "").isalnum():
        return value
    return orjson.dumps(value).decode()


def configure(kind: LogFormat) -> None:
    """Writes Candor's log, and silences what BentoML logs of a start; as JSON, the other loggers
    write JSON, too.
    """
    # uvicorn formats a line for every request as long as any handler might want it: 2 % of a
    # request.
    logging.getLogger("uvicorn.access").propagate = False
    for name in QUIET:
        if logging.getLogger(name).level == logging.INFO:  # not with BENTOML_DEBUG
            logging.getLogger(name).setLevel(logging.WARNING)
    log = logging.getLogger("candor")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[0].setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    if kind == "json":
        for name in SERVERS:
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(JsonFormatter())


@contextmanager
def logged(fault: str) -> Iterator[None]:
    """Logs what the block raises, under the name of its `fault`, and goes on: for loops that must
    not end.
    """
    try:
        yield
    except Exception:
        logging.getLogger("candor").exception("%s: it is tried again", fault)
