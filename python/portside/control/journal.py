"""Portside's own messages (not the session log): text or JSON lines on standard error.

Everything in this package logs through ``logging.getLogger("portside")``; only ``portside run``
attaches a handler, so that a program which embeds a Balancer keeps its own logging. Nobody who logs
waits for the reader.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import IO, Literal

from portside.control.line_writer import LineWriter, Write, to_descriptor

log = logging.getLogger("portside")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record)} {record.levelname.lower():7} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in fields_of(record).items() if value}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The named fields that a message was logged with: kind, service, server."""
    return {key: str(getattr(record, key, "")) for key in ("kind", "service", "server")}


def _stamp(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Queued(logging.Handler):
    """Formats at once and leaves the writing to a thread."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.lines = LineWriter(write, self._lost)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.lines.put(self.format(record))
        except Exception:  # as every handler of logging: a bad message ends nothing
            self.handleError(record)

    def _lost(self, count: int) -> str:
        text = "%d messages were lost: whoever reads standard error was too slow"
        record = logging.LogRecord(log.name, logging.WARNING, "", 0, text, (count,), None)
        return self.format(record)


def attach(form: Literal["json", "text"], stream: IO[str] | None = None) -> None:
    """Sends this package's messages to ``stream`` (default: standard error) in ``form``.

    A second call replaces the first: a reload may change the form. A reader that does not read
    costs lines, never time.
    """
    handler = next((one for one in log.handlers if isinstance(one, _Queued)), None)
    if handler is None or stream is not None:
        write = stream.write if stream is not None else to_descriptor(sys.stderr.fileno())
        handler = _Queued(write)
    handler.setFormatter(_Json() if form == "json" else _Text())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    # The HTTP server's access lines are noise here; its errors and asyncio's are ours.
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        other = logging.getLogger(name)
        other.handlers[:] = [handler]
        other.setLevel(logging.WARNING)
        other.propagate = False


def flush(timeout_s: float = 1.0) -> None:
    """Waits until what was said is written, for a moment only: its reader may be gone."""
    for handler in log.handlers:
        if isinstance(handler, _Queued):
            handler.lines.flush(timeout_s)
