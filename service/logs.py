"""Log lines as JSON, one an event, without vectors, texts or exception messages."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson


class JsonFormatter(logging.Formatter):
    """Writes a record, and the ``fields`` given as its extra, as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = where(record.exc_info[1])
        try:
            return orjson.dumps(line, default=str).decode()
        except orjson.JSONEncodeError:  # such as half a surrogate pair, which UTF-8 cannot hold
            return json.dumps(line, default=str)


def where(error: BaseException) -> dict[str, Any]:
    """Say what kind of error it was and where it rose; its message may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__name__,
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]],
    }


def configure(level: str) -> None:
    """Send all log lines to stderr as JSON. Called by the ``serve`` command alone."""
    # What no line tells need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
