"""Messages that nothing can be made of: dropped with their reason, and a row in `failures`; never tried for ever."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
from celery.exceptions import Reject

from pipeline.delivery.broker import make_app
from pipeline.errors import Unavailable
from pipeline.ingest import submission
from pipeline.ingest.ingester import Ingester
from pipeline.ingest.submission import BadMessage, submit_message
from pipeline.settings import Settings
from schemas.messages import SUBMIT_TASK, SubmitDocument
from schemas.text import storable
from tests.conftest import Archive
from tests.running import call, write_pdf
from workers import tasks
from workers.tasks import add_ingest_tasks

DATABASES = ("sqlite", "postgresql")

LONG = "".join(
    random.Random(1).choices("éabcdefghijklmnopqrstuvwxyz0123456789", k=4_000)
)  # too varied to be compressed


@pytest.fixture(scope="module", autouse=True)
def full() -> None:
    """A folder in memory with one file."""
    fsspec.filesystem("memory").pipe_file("/full/a.pdf", b"%PDF-1.7\nnothing follows")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("memory://nowhere/*.pdf", "no file found at memory://nowhere/*.pdf"),
        ("memory://nowhere/[z-a]*.pdf", "no file found"),
        ("memory://full/nothing*", "no file found"),
        ("memory://full/a**b", "is no pattern"),
        ("memory://" + LONG, "no such file or folder"),
        ("/nowhere/*.pdf", "no file found at /nowhere/*.pdf"),
        ("/" + LONG, "no such file or folder"),
        ("/nowhere/" + LONG + "/*", "no file found"),
        ("/" + "*/" * 2000, "too many parts"),
        ("/nowhere/\0/*", "no file found"),
        ("file:///nowhere/%00/*", "no path holds a NUL"),
        ("file:///nowhere/%ff/*", "no file found"),
        ("file:///nowhere/%zz%", "no such file or folder"),
        ("http://[::1/x", "cannot be opened"),
        ("ftp://[/x", "Invalid IPv6 URL"),
        ("ftp://127.0.0.1:abc/x", "correct the URL"),
        ("zip://a::/nowhere/x", "no chain of them"),
        ("reference://x", "missing 1 required positional argument"),
    ],
    ids=lambda value: value[:30].replace("\0", "NUL"),
)
def test_a_location_that_nothing_can_be_made_of_is_a_failure(
    archive: Archive, settings: Settings, location: str, words: str
) -> None:
    submit_message(archive.db, settings, SubmitDocument(location=location, batch="asked"))
    ((path, reason),) = archive.rows("SELECT source_path, reason FROM failures")
    assert words in reason and "\0" not in path


@pytest.mark.only("sqlite")
@pytest.mark.parametrize(
    "asked",
    [
        {"pages": "9" * 5000},
        {"pages": "1-" + "9" * 5000},
        {"pages": "\0"},
        {"pages": "\ud800"},
        {"notify": "x" * 5000},
        {"notify": "task@" + "é" * 200},
        {"prompts": ["\ud800"]},
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_wish_that_nothing_can_be_made_of_is_dropped_and_a_failure(
    archive: Archive, settings: Settings, asked: dict[str, Any]
) -> None:
    archive.file("/in/a.pdf", ["text"])
    with pytest.raises(BadMessage) as raised:
        submit_message(archive.db, settings, SubmitDocument(location="/in/a.pdf", batch="asked", **asked))
    assert len(str(raised.value)) < 300
    failures = "SELECT b.name, f.source_path, f.cause, f.reason FROM failures f JOIN batch_summary b USING (batch_id)"
    assert archive.rows(failures) == [("asked", "message:/in/a.pdf", "message", storable(str(raised.value)))]
    assert archive.rows("SELECT text FROM page_text") == [("text",)], "the file that is there is none the worse"


@pytest.mark.only("sqlite")
def test_a_message_that_does_not_fit_is_told_in_our_words(
    archive: Archive, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app, ingester = make_app("memory://"), Ingester(archive.db, settings, "ingest/1", lambda: False)
    add_ingest_tasks(app, settings, lambda: ingester)
    app.tasks[SUBMIT_TASK](batch=5, locatoin="/in/a.pdf")
    app.tasks[SUBMIT_TASK](location="", batch="9" * 5000)
    short, long = caplog.records
    assert "location does not fit, batch does not fit" in long.getMessage() and len(long.getMessage()) < 800
    assert short.getMessage() == (
        "pagepack.submit_document: dropped a message that this version does not know: {'batch': 5, 'locatoin': "
        "'/in/a.pdf'} (location is missing, batch does not fit, locatoin is no field; `pagepack messages` prints the "
        "schemas)"
    )


@pytest.mark.only("sqlite")
def test_what_no_library_expected_is_dropped_and_what_is_away_waits(
    archive: Archive, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_AWAY_SECONDS", 0.0)
    app, ingester = make_app("memory://"), Ingester(archive.db, settings, "ingest/1", lambda: False)
    add_ingest_tasks(app, settings, lambda: ingester)
    task = app.tasks[SUBMIT_TASK]

    def raising(error: Exception) -> None:
        def register(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(submission, "register", register)

    raising(Unavailable("the database is away"))
    with pytest.raises(Reject) as rejected:
        task(location=str(write_pdf(tmp_path / "a.pdf", 1)), batch="asked")
    assert rejected.value.requeue and archive.rows("SELECT * FROM failures") == []
    raising(LookupError("no such codec"))
    task(location=str(tmp_path / "a.pdf"), batch="asked")
    ((reason,),) = archive.rows("SELECT reason FROM failures")
    assert reason.endswith("a.pdf cannot be registered: LookupError: no such codec")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/nowhere", "--pages", "9" * 5000], 2, "write page numbers and ranges"),
        (["/nowhere", "--notify", "x" * 5000], 2, "at most 255 bytes"),
        (["memory://full/a**b"], 2, "is no pattern"),
        (["file:///nowhere/%00/*"], 2, "no path holds a NUL"),
        (["/" + "*/" * 2000], 2, "too many parts"),
        (["memory://nowhere/[z-a]*.pdf"], 3, "no file found"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_at_the_command_line_it_is_one_clear_line(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = call("submit", *arguments, "--home", tmp_path / "home")
    (line,) = done.stderr.splitlines()
    assert done.returncode == code and words in line and len(line) < 300, done.stderr
