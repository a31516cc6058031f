"""The log on standard error, as lines of text or of JSON. Lines written while a request is
answered carry its id.
"""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from service.settings import LogFormat

SERVERS = ("", "bentoml", "uvicorn.error", "circus")  # loggers of the processes' other code
QUIET = ("bentoml",)  # a dozen lines a start, of hooks and options

request_id: ContextVar[str] = ContextVar("request_id", default="")


class TextFormatter(logging.Formatter):
    """Formats a record as one line for a person, with the id of the request at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] [candor] %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        line, identity = super().formatMessage(record), request_id.get()
        return f"{line} (request {identity})" if identity else line


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object; the record's `fields` are part of it."""

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
        document |= getattr(record, "fields", {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(document, default=str).decode()


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
