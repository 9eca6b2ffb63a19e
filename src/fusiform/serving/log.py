"""Lines of JSON on standard error: what the server does, with no image, file name or token in them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Literal

LogLevel = Literal["requests", "events", "nothing"]
LOG_LEVELS: tuple[LogLevel, ...] = ("requests", "events", "nothing")

_LOGGER = logging.getLogger("fusiform.serving")


class _Line(logging.Formatter):
    """A record as JSON: when, how grave, what, and the fields that belong to it."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            # The kind and the place alone: an exception's text may hold what a client sent.
            last = traceback.extract_tb(record.exc_info[2])[-1:]
            line["error"] = record.exc_info[0].__name__
            line["where"] = "".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in last)
        return json.dumps(line, ensure_ascii=False)


class Log:
    """Where the server writes its lines: all ``requests``, other ``events`` alone, or ``nothing``."""

    def __init__(self, level: LogLevel) -> None:
        self._requests = level == "requests"
        handler: logging.Handler = logging.NullHandler() if level == "nothing" else logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Line())
        # uvicorn tells of errors that nobody caught; python-multipart would tell of every form that is none.
        others = [(logging.getLogger(name), logging.ERROR) for name in ("uvicorn.error", "python_multipart")]
        for logger, least in ((_LOGGER, logging.INFO), *others):
            logger.handlers = [handler]
            logger.propagate = False
            logger.setLevel(least)

    def event(self, event: str, **fields: object) -> None:
        """Something happened to the server."""
        _LOGGER.info(event, extra={"fields": fields})

    def error(self, event: str, error: BaseException | None = None, **fields: object) -> None:
        """Something went wrong; of ``error`` the kind and the place are told, ``fields`` as they are."""
        info = None if error is None else (type(error), error, error.__traceback__)
        _LOGGER.error(event, exc_info=info, extra={"fields": fields})

    def request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered; ``endpoint`` is the name of what answered it, never its address."""
        if self._requests:
            fields = {"method": method, "endpoint": endpoint, "status": status, "seconds": round(seconds, 6)}
            _LOGGER.info("request", extra={"fields": fields})
