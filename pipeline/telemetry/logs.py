"""Log lines for people and for programs: one for each change of state, passwords redacted.

    2026-03-14T09:26:53.589Z INFO pagepack.events event=failed document_id=0195… page_number=3 attempt=2 cause=deadline
    {"time": "2026-03-14T09:26:53.589Z", "level": "INFO", "logger": "pagepack.events", "event": "failed", …}

What a page goes through when all is well is said at DEBUG: at 300 pages a second, three lines each would be 900 a
second, and the `attempts` view has the same. INFO says what people look for in a log: failures, retries, pages given
back, and each document that is through.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import redacted
from pipeline.settings import Settings

OURS = ("pagepack", "pipeline", "workers")
"""Loggers that follow PAGEPACK_LOG_LEVEL; what others have to say is heard from WARNING up."""

_events = logging.getLogger("pagepack.events")


def set_up_logs(settings: Settings, worker: Callable[[], str] | None = None) -> None:
    """Send every logger of this process, and of those that it forks, to standard error.

    `worker` says who speaks: which incarnation, of which process; it is asked for each line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonLines if settings.log_format == "json" else TextLines)(worker))
    level = logging.getLevelNamesMapping()[settings.log_level]
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def leave_logs_alone(**_: Any) -> None:
    """Receives Celery's `setup_logging` signal: where somebody does, Celery leaves handlers and levels as they are.

    Its pool's own logger has no handler then, and hands nothing on: what it says of a process that died would go to
    standard error as it is, without time and level.
    """
    from celery.utils.log import get_multiprocessing_logger

    get_multiprocessing_logger().propagate = True


def is_logged(level: int) -> bool:
    """Ask before gathering fields for many lines."""
    return _events.isEnabledFor(level)


def log_event(level: int, event: str, **fields: Any) -> None:
    """One change of state; fields that are None are left out."""
    if _events.isEnabledFor(level):
        said = {name: value for name, value in fields.items() if value is not None}
        _events.log(level, "%s", event, extra={"event": event, "fields": said})


class _Lines(logging.Formatter):
    def __init__(self, worker: Callable[[], str] | None) -> None:
        super().__init__()
        self._worker = worker

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a record says, besides when, how loudly and by which logger."""
        event = getattr(record, "event", None)
        fields = {"event": event, **record.__dict__["fields"]} if event else {"message": record.getMessage()}
        if self._worker is not None:
            fields["worker"] = self._worker()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return {name: redacted(value) if isinstance(value, str) else value for name, value in fields.items()}


class TextLines(_Lines):
    """`key=value`, quoted where a value has blanks; a message stands as it is, a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        message, traceback = fields.pop("message", None), fields.pop("traceback", None)
        words = [_time(record), record.levelname, record.name]
        if message is not None:
            words.append(message)
            fields.pop("worker", None)  # the logger's name and the file say enough to people
        words += [f"{name}={_quoted(value)}" for name, value in fields.items()]
        return " ".join(words) + (f"\n{traceback}" if traceback else "")


class JsonLines(_Lines):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        about = {"time": _time(record), "level": record.levelname, "logger": record.name}
        return json.dumps(about | self._fields(record), ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
