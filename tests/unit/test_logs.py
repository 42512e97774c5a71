"""Log lines: fields for programs, words for people, and no password in either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pipeline.delivery.broker import make_app, queue_depth
from pipeline.errors import Unavailable, UsageError, redacted
from pipeline.settings import Settings, load_settings
from pipeline.telemetry.logs import JsonLines, TextLines, log_event, set_up_logs


@pytest.fixture
def logs() -> Iterator[None]:
    """The process's loggers, put back as they were."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before[0], before[1]
    for name in ("pagepack", "pipeline", "workers"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def said(settings: Settings, level: int, event: str, **fields: object) -> str:
    set_up_logs(settings, lambda: "read-1/")
    stream = io.StringIO()
    logging.getLogger().handlers[0].stream = stream  # type: ignore[attr-defined]
    log_event(level, event, **fields)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("at rediss://user:p@ss/w:rd@host/0, again", "at rediss://user:***@host/0, again"),
        ("postgresql+psycopg://me:x@db/pages?sslmode=require", "postgresql+psycopg://me:***@db/pages?sslmode=require"),
        ("host=db password=x user=me", "host=db password=*** user=me"),
        ("{'username': 'me', 'password': 'x y'}", "{'username': 'me', 'password': ***}"),
        ("http://host:80/a", "http://host:80/a"),
        ("the PDF is encrypted; remove its password", "the PDF is encrypted; remove its password"),
    ],
)
def test_passwords_are_redacted_and_nothing_else(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_text_is_key_and_value_and_json_is_one_object_a_line(logs: None) -> None:
    fields = {"document_id": "0195-a", "page_number": 3, "attempt": 2, "reason": 'two\nlines = "odd"', "prompt": None}
    text = said(Settings(log_format="text"), logging.WARNING, "failed", **fields)
    assert text.endswith('reason="two\\nlines = \\"odd\\"" worker=read-1/\n') and text.count("\n") == 1
    assert " WARNING pagepack.events event=failed document_id=0195-a page_number=3 attempt=2 " in text
    line = said(Settings(log_format="json"), logging.WARNING, "failed", **fields)
    read = json.loads(line)
    assert datetime.fromisoformat(read.pop("time")).tzinfo is not None
    assert read == {
        "level": "WARNING",
        "logger": "pagepack.events",
        "event": "failed",
        "document_id": "0195-a",
        "page_number": 3,
        "attempt": 2,
        "reason": 'two\nlines = "odd"',
        "worker": "read-1/",
    }


def test_a_level_hides_what_is_below_it_and_other_libraries_stay_quiet(logs: None) -> None:
    assert said(Settings(), logging.DEBUG, "stored") == ""
    assert "event=stored" in said(Settings(log_level="DEBUG"), logging.DEBUG, "stored")
    assert said(Settings(log_level="ERROR"), logging.WARNING, "failed") == ""
    assert not logging.getLogger("kombu.connection").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("lines", [TextLines, JsonLines])
def test_a_traceback_holds_no_password(lines: type[TextLines | JsonLines]) -> None:
    try:
        raise ConnectionError("redis://:s3cret@host refused")
    except ConnectionError:
        record = logging.LogRecord("kombu", logging.ERROR, "", 0, "lost %s", ("amqp://u:s3cret@h//",), None)
        record.exc_info = __import__("sys").exc_info()
    text = lines(None).format(record)
    assert "s3cret" not in text and "amqp://u:***@h//" in text and "Traceback" in text


def test_no_message_about_a_broker_shows_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as away:
        queue_depth(make_app("redis://:s3cret@127.0.0.1:1/0"), "pagepack.read")
    assert "s3cret" not in str(away.value)
    monkeypatch.setenv("PAGEPACK_BROKER_URL", ":s3cret@127.0.0.1")
    with pytest.raises(UsageError) as wrong:
        load_settings(home=tmp_path)
    assert "s3cret" not in str(wrong.value) and wrong.value.__cause__ is None
