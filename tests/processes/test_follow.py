"""`submit --wait` and `status --watch`: past a restart of the database, on a terminal, in a log, until one leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from pipeline.database.open import open_database
from pipeline.settings import Settings
from pipeline.store.batch_states import cancel_batch
from tests.conftest import STOPS, Archive
from tests.postgres import PostgresServer
from tests.running import PAGEPACK, call, environment, start_into, wait_until, write_pdf

GONE = r"did not answer: .*; waiting until it answers, Ctrl-C leaves\. Nothing is lost meanwhile"
BACK = "the database answers again"


@pytest.fixture
def waiting(url_to_stop: str, tmp_path: Path) -> Iterator[Archive]:
    """An installation on a server that may stop, with a document that waits in batch b."""
    db = open_database(Settings(home=tmp_path / "home", database_url=url_to_stop))
    archive = Archive(db)
    archive.see("/in/a.pdf")
    yield archive
    db.dispose()


@contextmanager
def running(folder: Path, *words: str | Path, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A command that writes into two files."""
    out, errors = folder / "out", folder / "errors"
    process = start_into(out, errors, words, environment("InstantEngine", **variables))
    try:
        yield process, out, errors
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def has(file: Path, pattern: str, times: int = 1) -> Callable[[], bool]:
    return lambda: len(re.findall(pattern, file.read_text())) >= times


def has_a_look_that_lasts(process: subprocess.Popen[bytes]) -> Callable[[], bool]:
    """A thread beside the main one, ten times in a row and without having worked meanwhile: it waits for an answer."""
    samples: deque[set[object]] = deque(maxlen=10)

    def lasts() -> bool:
        samples.append({thread for thread in psutil.Process(process.pid).threads() if thread.id != process.pid})
        return len(samples) == samples.maxlen and bool(set.intersection(*samples))

    return lasts


@STOPS
def test_submit_wait_and_status_watch_go_on_after_a_restart_of_the_database(
    server_to_stop: PostgresServer, waiting: Archive, url_to_stop: str, broker: str, tmp_path: Path
) -> None:
    """One that waits for what it submitted; of another batch one that writes lines, and one that writes objects."""
    write_pdf(tmp_path / "docs" / "a.pdf", 3)
    installation = {
        "PAGEPACK_DATABASE_URL": url_to_stop,
        "PAGEPACK_BROKER_URL": broker,
        "PAGEPACK_HOME": str(tmp_path / "home"),
        "PAGEPACK_INGEST_PROCESSES": "1",
    }
    look = ("status", waiting.batches["b"].public_id, "--watch")
    with ExitStack() as stack:

        def begin(name: str, *words: str | Path) -> tuple[subprocess.Popen[bytes], Path, Path]:
            (tmp_path / name).mkdir()
            return stack.enter_context(running(tmp_path / name, *words, **installation))

        watching = [begin("lines", *look), begin("objects", *look, "--json")]
        for _, out, _ in watching:
            wait_until(has(out, "running"))
        submitting = begin("submitted", "submit", tmp_path / "docs", "--wait")
        wait_until(has(submitting[2], "(?m)^batch [0-9a-f-]+"))
        server_to_stop.stop("fast")
        for _, _, errors in (*watching, submitting):
            wait_until(has(errors, GONE))
        server_to_stop.start()
        for _, _, errors in (*watching, submitting):
            wait_until(has(errors, BACK))
        cancel_batch(waiting.db, waiting.batches["b"].id)
        for process, out, errors in watching:
            assert process.wait(timeout=600) == 0, errors.read_text()
            said = errors.read_text()
            assert len(re.findall(GONE, said)) == said.count(BACK) == 1 and said.count("\n") == 2, said
            assert "cancelled" in out.read_text().splitlines()[-1]
        worker, _, _ = begin("worker", "worker")
        process, out, errors = submitting
        assert process.wait(timeout=600) == 0, errors.read_text()
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=600)
        assert "3 pages: 3 done" in out.read_text()
        said = errors.read_text()
        assert len(re.findall(GONE, said)) == said.count(BACK) == 1, said


@STOPS
def test_a_password_that_is_refused_is_not_waited_for_and_who_waits_for_a_server_may_leave(
    server_to_stop: PostgresServer, waiting: Archive, url_to_stop: str, tmp_path: Path
) -> None:
    """Neither is a server waited for that does not answer at the start: its name is perhaps wrong."""
    server_to_stop.execute("CREATE USER looks IN ROLE pg_read_all_data")
    of_user = sa.make_url(url_to_stop).set(username="looks").render_as_string(hide_password=False)
    (tmp_path / "refused").mkdir()
    with (
        running(tmp_path / "refused", "status", "--watch", PAGEPACK_DATABASE_URL=of_user) as (process, out, errors),
        running(tmp_path, "status", "--watch", PAGEPACK_DATABASE_URL=url_to_stop) as (leaving, seen, told),
    ):
        wait_until(has(out, "running"))
        server_to_stop.execute("ALTER USER looks NOLOGIN")
        server_to_stop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'looks'")
        assert process.wait(timeout=600) == 2
        assert "not permitted to log in" in errors.read_text()
        wait_until(has(seen, "running"))
        server_to_stop.stop()
        away = call("status", "--watch", PAGEPACK_DATABASE_URL=of_user)
        assert away.returncode == 4 and "did not answer" in away.stderr and "waiting" not in away.stderr
        wait_until(has(told, GONE))
        leaving.send_signal(signal.SIGINT)
        assert leaving.wait(timeout=600) == 130
    assert told.read_text().endswith(f"pagepack status {waiting.batches['b'].public_id} --watch\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_leaves_is_told_how_to_follow_again(archive: Archive, tmp_path: Path, number: signal.Signals) -> None:
    archive.see("/in/a.pdf")
    home, batch = Path(archive.db.name).parent, archive.batches["b"].public_id
    with running(tmp_path, "status", "--watch", "--home", home) as (process, out, errors):
        wait_until(has(out, "running"))
        process.send_signal(number)
        assert process.wait(timeout=600) == 130
    follow = f"pagepack status {batch} --watch --home {home}"
    assert errors.read_text() == f"the batch goes on without you; follow it again: {follow}\n"
    document = write_pdf(tmp_path / "docs" / "a.pdf", 1)
    with running(tmp_path, "submit", document, "--wait", "--home", home) as (process, _, errors):
        wait_until(has(errors, "(?m)^batch [0-9a-f-]+"))
        process.send_signal(number)
        assert process.wait(timeout=600) == 130
    (submitted,) = re.findall("(?m)^batch (.+)$", errors.read_text())
    follow = f"pagepack status {submitted} --watch --home {home}"
    assert f"the batch goes on without you; follow it again: {follow}\n" in errors.read_text()


@STOPS
def test_who_waits_for_a_server_that_hangs_may_leave(
    server_to_stop: PostgresServer, waiting: Archive, url_to_stop: str, tmp_path: Path
) -> None:
    """It has the question and says nothing, as behind a firewall that forgot the connection; it hangs to the end."""
    with running(tmp_path, "status", "--watch", PAGEPACK_DATABASE_URL=url_to_stop) as (process, out, errors):
        wait_until(has(out, "running"))
        main = psutil.Process(server_to_stop.pid)
        hanging = [main, *main.children(recursive=True)]
        for one in hanging:
            one.suspend()
        try:
            wait_until(has_a_look_that_lasts(process))
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=600) == 130
        finally:
            for one in hanging:
                one.resume()
    follow = f"pagepack status {waiting.batches['b'].public_id} --watch"
    assert errors.read_text() == f"the batch goes on without you; follow it again: {follow}\n"


def test_a_log_gets_a_line_for_each_change(archive: Archive, tmp_path: Path) -> None:
    home = Path(archive.db.name).parent
    document = archive.see("/in/a.pdf") or 0
    with running(tmp_path, "status", "--watch", "--home", home) as (process, out, errors):
        wait_until(has(out, "\n"))
        archive.ingest(document, ["x", "y"])
        wait_until(has(out, "\n", 2))
        cancel_batch(archive.db, archive.batches["b"].id)
        assert process.wait(timeout=600) == 0
    assert errors.read_text() == ""
    lines = out.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ b ", line) for line in lines), lines
    assert [re.split(r"Z |; ", line)[1] for line in lines] == [
        "b running: 0 of 1 files, 0 of 0 pages done, 0 failed",
        "b running: 0 of 1 files, 0 of 2 pages done, 0 failed",
        "b cancelled: 1 of 1 files, 0 of 2 pages done, 2 failed (2 × cancelled)",
    ]
    assert "no worker is ready to read" in lines[0]


def test_a_terminal_gets_one_table_that_is_drawn_in_its_place(archive: Archive) -> None:
    home = Path(archive.db.name).parent
    archive.see("/in/a.pdf")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PAGEPACK, "status", "--watch", "--home", str(home)],
        env=environment("InstantEngine", TERM="xterm", COLUMNS="150", LINES="40"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    drawn, was_ended = "", False
    while True:
        try:
            drawn += os.read(ours, 65_536).decode()
        except OSError:  # the last one that had it open has ended
            break
        if not was_ended and drawn.count("Ctrl-C leaves") >= 3:
            was_ended = cancel_batch(archive.db, archive.batches["b"].id)
    os.close(ours)
    assert process.wait(timeout=600) == 0
    drawn = re.sub(r"\x1b\[[\d;]*m", "", drawn)  # colours
    moments = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d); Ctrl-C leaves", drawn)
    assert len(set(moments)) >= 3
    tables = drawn.split("; Ctrl-C leaves")[1:]
    assert "running" in tables[0] and "cancelled" in tables[-1]
    for table in tables[:-1]:  # each is followed by the way back to its first line
        lines = table.partition("\x1b")[0].count("\r\n")
        assert table.count("\x1b[1A") >= lines >= 5, f"drawn below what was there: {table!r}"


def test_json_is_an_object_for_each_look(archive: Archive, tmp_path: Path) -> None:
    archive.see("/in/a.pdf")
    home = Path(archive.db.name).parent
    with running(tmp_path, "status", "--watch", "--json", "--home", home) as (process, out, _):
        wait_until(has(out, "\n", 2))
        cancel_batch(archive.db, archive.batches["b"].id)
        assert process.wait(timeout=600) == 0
    states = [json.loads(line)["state"] for line in out.read_text().splitlines()]
    assert states[:2] == ["running", "running"] and states[-1] == "cancelled"
