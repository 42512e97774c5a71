"""Who works on a batch: rows that runs and hosts renew, and what `status` makes of them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from pipeline.database.engine import Database
from pipeline.database.home import HomeLock
from pipeline.query.batch_status import find_batch, status
from pipeline.settings import Settings
from pipeline.store.attendance import attend, forget_the_dead, leave
from pipeline.store.batches import open_batch
from pipeline.store.fleet import workers
from pipeline.store.worked_on_by import DISPATCH, WorkedOnBy, worked_on_by
from pipeline.store.worker_registry import enlist
from pipeline.supervisor.leader import take_leadership
from schemas.columns import utc_now
from schemas.prompts import DESCRIBE, OCR
from schemas.tables import TaskAttempt
from tests.conftest import Archive

DATABASES = ("sqlite", "postgresql")
RUN = ["pagepack", "run", "--batch", "it's", "/in/\udcff.pdf"]


def ask(db: Database, key: str, command: list[str] | None) -> int:
    return open_batch(
        db, key=key, name=key, prompts=[OCR], engine="rapidocr", model="m1", text_layer="keep", command=command
    ).id


@pytest.mark.only("postgresql")
def test_on_a_server_a_run_is_there_while_its_row_is_new(db: Database) -> None:
    """Its host may be any; two of one batch, and the first that ends leaves the other there."""
    mine, other = ask(db, "mine", RUN), ask(db, "other", RUN)
    assert worked_on_by(db, mine) == WorkedOnBy.NOBODY and status(db, find_batch(db, "mine")).interrupted
    attend(db, mine, "host:1", 60)
    assert (worked_on_by(db, mine), worked_on_by(db, other)) == (WorkedOnBy.RUN, WorkedOnBy.NOBODY)
    assert worked_on_by(db, other, is_question=True) == WorkedOnBy.NOBODY, "on a server a run reads its own batch alone"
    assert not status(db, find_batch(db, "mine")).interrupted and status(db, find_batch(db, "other")).interrupted
    attend(db, mine, "host:2", 60)
    leave(db, mine, "host:1")
    assert worked_on_by(db, mine) == WorkedOnBy.RUN
    leave(db, mine, "host:2")
    assert worked_on_by(db, mine) == WorkedOnBy.NOBODY
    attend(db, mine, "host:1", -1)
    assert worked_on_by(db, mine) == WorkedOnBy.NOBODY, "it was killed"
    assert take_leadership(db, DISPATCH, "host:3", 60)
    assert worked_on_by(db, mine) == WorkedOnBy.WORKERS and not status(db, find_batch(db, "mine")).interrupted


@pytest.mark.only("sqlite")
def test_in_a_home_nobody_is_there_without_the_lock(db: Database, settings: Settings) -> None:
    mine, question = ask(db, "mine", RUN), ask(db, "asked", ["pagepack", "ask", "why?", "/in"])
    attend(db, mine, "host:1", 60)
    assert worked_on_by(db, mine) == WorkedOnBy.NOBODY, "who wrote that was killed"
    with HomeLock(settings.home):
        assert worked_on_by(db, mine) == WorkedOnBy.RUN
        assert worked_on_by(db, question) == WorkedOnBy.NOBODY
        assert not status(db, find_batch(db, "asked")).interrupted, "a run answers what is asked in its home"
        enlist(db, "killed/", "run", 1)
        forget_the_dead(db)  # the next run begins
        assert worked_on_by(db, mine) == WorkedOnBy.NOBODY and workers(db) == []
        assert take_leadership(db, DISPATCH, "host:3", 60)
        assert worked_on_by(db, mine) == WorkedOnBy.WORKERS


def test_only_a_running_batch_with_a_command_is_interrupted(archive: Archive) -> None:
    db = archive.db
    ask(db, "b", RUN)
    assert find_batch(db, "b").command == RUN and status(db, find_batch(db, "b")).interrupted
    for state in ("paused", "finished", "cancelled"):
        archive.execute("UPDATE batches SET state = :state", state=state)
        assert not status(db, find_batch(db, "b")).interrupted
    ask(db, "b", None)  # submitted
    now = status(db, find_batch(db, "b"))
    assert (now.batch.state, now.batch.command, now.interrupted) == ("running", None, False)


def test_the_rate_is_of_pages_whatever_their_prompts(archive: Archive) -> None:
    for name, prompts in (("one", [OCR]), ("two", [OCR, DESCRIBE])):
        archive.batch(name, prompts=prompts, model=name)
        document = archive.see("/in/a.pdf", batch=name)
        if name == "one":
            assert document is not None and archive.ingest(document, [f"page {number}" for number in range(10)])
        for (page_id,) in archive.rows("SELECT id FROM pages ORDER BY id LIMIT 8"):
            archive.read(page_id, "text", model=name)
    with archive.db.write() as connection:  # a second is the least that counts, however slow this machine is
        connection.execute(update(TaskAttempt).values(ended_at=utc_now() + timedelta(minutes=30)))
    assert [status(archive.db, find_batch(archive.db, name)).pages_per_second for name in ("one", "two")] == [8, 8]
