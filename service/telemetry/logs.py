"""The log, on standard error, as lines of text or of JSON. What is told while a request is answered carries the request's id."""

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from service.settings import LogFormat

OTHERS = (
    "",
    "bentoml",
    "uvicorn.error",
    "circus",
)  # the loggers of those who serve us, the root among them

request_id: ContextVar[str] = ContextVar("request_id", default="")


class Text(logging.Formatter):
    """One line for a person."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] [candor] %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, with the id of the request at its end."""
        line, identity = super().formatMessage(record), request_id.get()
        return f"{line} (request {identity})" if identity else line


class Json(logging.Formatter):
    """One JSON object for a machine; `fields` of the record are part of it."""

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
    """Lets our log be written; as JSON, those of BentoML, uvicorn and circus are, too.

    uvicorn prepares a line of its own for every request as long as anyone might want it (2 % of what a request takes).
    """
    logging.getLogger("uvicorn.access").propagate = False
    log = logging.getLogger("candor")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[0].setFormatter(Json() if kind == "json" else Text())
    if kind == "json":
        for handler in [handler for name in OTHERS for handler in logging.getLogger(name).handlers]:
            handler.setFormatter(Json())
