"""Structured logs, as JSON lines or as text."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any, Literal

import orjson

from market_data_core.web import request_id

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def _asked_for(record: logging.LogRecord) -> str:
    # What was logged with an id of its own keeps it: it may be said after the request is over.
    return str(getattr(record, "request_id", "") or request_id())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``timestamp, level, logger, message, extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        extra: dict[str, Any] = {k: v for k, v in record.__dict__.items() if k not in _OWN}
        if asked := _asked_for(record):
            extra["request_id"] = asked
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        line = {
            "timestamp": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "extra": extra,
        }
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """``2025-10-17 14:30:00 [INFO] logger: message``, in UTC; then the request's id while one is served."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)s] %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line without a traceback."""
        asked = _asked_for(record)
        return super().formatMessage(record) + (f" request_id={asked}" if asked else "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  logging's name
        """Return the record's time in UTC."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        return moment.strftime(datefmt or "%Y-%m-%d %H:%M:%S")


def configure_logging(level: str, format_: Literal["json", "text"]) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The server's own notes on its start and end say nothing that ours do not.
    # At INFO it logs whole URLs, with what stands in their queries.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))
