"""A server that refuses, fills up, loses connections or goes away: what is said, and that no password is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa

from pipeline.cli.sql_shell import run_shell
from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.database.retry import retried
from pipeline.errors import DiskFull, PagepackError, Unavailable, UsageError
from pipeline.export.export import export
from pipeline.query.batch_list import list_batches
from pipeline.query.batch_status import find_batch
from pipeline.query.search import find
from pipeline.query.sql import run_sql
from pipeline.settings import Settings, load_settings
from pipeline.store.backpressure import Room
from pipeline.store.batch_end import finish_batch
from pipeline.store.progress import Open, running_work, what_is_open
from tests.conftest import Archive
from tests.postgres import FAST, PASSWORD, TEMPLATE, PostgresServer
from tests.running import call, environment, start_into, start_worker, wait_until, write_pdf

DATABASES = ("postgresql",)
SECRET = "s3cret-word"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    with PostgresServer(**FAST | {"synchronous_commit": "on"}) as server:
        yield server


def refusal(url: str) -> PagepackError:
    with pytest.raises(PagepackError) as caught:
        open_database(Settings(database_url=url))
    with pytest.raises(PagepackError) as again:
        run_sql(Settings(database_url=url), "SELECT 1")
    assert type(again.value) is type(caught.value)
    for error in (caught.value, again.value):
        assert SECRET not in str(error) and PASSWORD not in str(error)
    return caught.value


def test_what_is_wrong_with_the_address_is_said_without_the_password(postgres: PostgresServer) -> None:
    host = postgres.tcp_url().rpartition("@")[2].partition("/")[0]
    wrong = refusal(postgres.tcp_url(password=SECRET))
    assert isinstance(wrong, UsageError) and f"pagepack_test@{host}/postgres refuses the password" in str(wrong)
    for url in (
        f"postgresql://pagepack_test@{host}/postgres",
        postgres.tcp_url(user="nobody_known", password=SECRET),
        postgres.tcp_url("no_such_database"),
        postgres.tcp_url() + "?sslmode=require",
        postgres.tcp_url() + "?sslmode=nonsense",
        postgres.tcp_url() + "?nonsense=1",
    ):
        assert isinstance(refusal(url), UsageError), url
    for url in (f"postgres://a:{SECRET}@127.0.0.1:1/x", f"postgresql+psycopg://a:{SECRET}@no.such.host.invalid/x"):
        assert isinstance(refusal(url), Unavailable), url


@pytest.mark.parametrize(
    "url", [f"mysql://a:{SECRET}@h/x", SECRET, f"postgresql://a:{SECRET}/x@h:port/x", f"postgresql://a:{SECRET}@h:x/d"]
)
def test_a_url_that_cannot_be_read_is_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEPACK_DATABASE_URL", url)
    with pytest.raises(UsageError, match=r"PAGEPACK_DATABASE_URL.*not a URL like postgresql://") as caught:
        load_settings()
    assert SECRET not in str(caught.value) and SECRET not in str(caught.value.__cause__)


def test_settings_do_not_show_the_password(postgres: PostgresServer) -> None:
    settings = Settings(database_url=postgres.tcp_url(TEMPLATE))
    database = open_database(settings)
    assert PASSWORD not in f"{settings!r} {database.name} {database.engine!r}"
    database.dispose()


def test_commands_on_a_server_say_no_password(postgres: PostgresServer) -> None:
    def ran(*words: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        done = call(*words, PAGEPACK_DATABASE_URL=postgres.tcp_url("of_commands", password=password))
        assert SECRET not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
        return done

    postgres.execute("CREATE DATABASE of_commands")
    before = ran("status")
    assert before.returncode == 2 and "run `pagepack db upgrade`" not in before.stderr
    assert "holds no pagepack database; make one there: `pagepack db upgrade`" in before.stderr
    for _ in range(2):
        upgraded = ran("db", "upgrade", "--json")
        assert json.loads(upgraded.stdout)["database"].endswith("/of_commands"), upgraded.stderr
    assert ran("sql", "SELECT count(*) FROM page_text", "--format", "csv").stdout == "count\n0\n"
    assert "no batch yet" in ran("status").stderr
    assert ran("status", password=SECRET).returncode == 2
    assert ran("sql", "SELECT 1", password=SECRET).returncode == 2


def fails_with(archive: Archive, code: str, times: int = 1) -> None:
    """The next statements that write an answer fail with this SQLSTATE."""
    archive.db.dispose()
    with archive.db.write() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE failures_so_far")
        connection.exec_driver_sql(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('failures_so_far') <= {times} THEN RAISE EXCEPTION 'as was wanted' USING ERRCODE = '{code}';"
            " END IF; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER fail BEFORE INSERT ON answer_versions FOR EACH ROW EXECUTE FUNCTION fail()"
        )


def test_a_full_disk_is_told_from_other_troubles(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    fails_with(archive, "53100")
    with pytest.raises(DiskFull, match="no room left on the disk of postgresql://pagepack_test"):
        archive.read(page, "text")


@pytest.mark.parametrize("code", ["40P01", "40001", "57P01", "08006"])
def test_what_may_pass_is_unavailable(archive: Archive, code: str) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    fails_with(archive, code, times=100)
    with pytest.raises(Unavailable, match="did not answer: as was wanted"):
        archive.read(page, "text")


def test_a_read_only_server_and_a_missing_privilege_are_said(archive: Archive, postgres: PostgresServer) -> None:
    archive.batch()
    name = archive.db.engine.url.database
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    archive.db.dispose()
    with pytest.raises(Unavailable, match="is read-only"):
        archive.batch()
    postgres.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
    with pytest.raises(UsageError, match="permission denied"):
        open_database(Settings(database_url=postgres.url(name or "", user="stranger")))


def test_a_restarted_server_costs_a_reconnect(own_server: PostgresServer) -> None:
    settings = Settings(database_url=own_server.url(TEMPLATE))
    db = open_database(settings)
    archive = Archive(db)
    archive.batch()
    for mode in ("fast", "immediate"):
        own_server.restart(mode)
        archive.see(f"/in/{mode}.pdf")
    own_server.stop()
    with pytest.raises(Unavailable, match="did not answer"):
        archive.batch()
    with pytest.raises(Unavailable, match="did not answer"):
        run_sql(settings, "SELECT 1")
    own_server.start()
    assert archive.scalar("SELECT count(*) FROM sources") == 2
    db.dispose()


def test_the_shell_outlives_a_restart_of_the_server(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # of its history
    settings = Settings(database_url=own_server.url(TEMPLATE))
    typed = iter([own_server.stop, own_server.start])

    def line(_: str) -> str:
        if (change := next(typed, None)) is None:
            raise EOFError
        change()
        return "SELECT count(*) FROM files;"

    answers: list[list[object]] = []
    monkeypatch.setattr("builtins.input", line)
    run_shell(lambda statement: answers.append(list(run_sql(settings, statement).rows)))
    assert answers == [[(0,)]]
    assert "did not answer" in capsys.readouterr().err


def test_moments_are_utc_whatever_the_servers_time_zone(
    archive: Archive, postgres: PostgresServer, tmp_path: Path
) -> None:
    url = archive.db.engine.url
    postgres.execute(f"ALTER DATABASE {url.database} SET timezone = 'Asia/Kolkata'")
    archive.db.dispose()
    archive.file("/in/a.pdf", ["text"])
    assert archive.scalar("SHOW timezone") == "Asia/Kolkata"
    moments = [find_batch(archive.db).started_at, list_batches(archive.db)[0].started_at]
    assert export(archive.db, tmp_path / "a.jsonl", "jsonl").pages == 1
    moments.append(datetime.fromisoformat(json.loads((tmp_path / "a.jsonl").read_text())["created_at"]))
    assert all(moment.utcoffset() == timedelta(0) for moment in moments), moments
    assert all(abs(datetime.now(UTC) - moment) < timedelta(minutes=30) for moment in moments), moments
    told = json.loads(call("status", "--json", PAGEPACK_DATABASE_URL=postgres.url(str(url.database))).stdout)
    assert told["started_at"] == moments[0].isoformat() and told["started_at"].endswith("+00:00")


def test_a_database_that_does_not_hold_every_letter_is_refused_with_the_way_out(postgres: PostgresServer) -> None:
    locale = "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    postgres.execute(f"CREATE DATABASE in_latin1 ENCODING 'LATIN1' {locale}")
    refused = call("db", "upgrade", PAGEPACK_DATABASE_URL=postgres.url("in_latin1"))
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "in_latin1 is encoded in LATIN1" in refused.stderr and "ENCODING 'UTF8' TEMPLATE template0" in refused.stderr


@pytest.mark.parametrize("where", ["variable", "url"])
def test_words_are_sent_in_utf8_whatever_is_set_for_clients(
    postgres: PostgresServer, archive: Archive, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The words of a page go as bytes, which the server takes to be in the encoding of its client."""
    url = postgres.url(str(archive.db.engine.url.database))
    if where == "variable":
        monkeypatch.setenv("PGCLIENTENCODING", "WIN1251")
    else:
        url = sa.make_url(url).update_query_dict({"client_encoding": "WIN1251"}).render_as_string(hide_password=False)
    archive.db = open_database(Settings(database_url=url))
    archive.file("/in/a.pdf", ["строка письма"])
    assert [hit.source_path for hit in find(archive.db, "письма").hits] == ["/in/a.pdf"]
    told = run_sql(Settings(database_url=url), "SELECT text FROM page_text")
    assert list(told.rows) == [("строка письма",)]
    archive.db.dispose()


def test_a_session_that_ends_between_two_transactions_is_replaced(postgres: PostgresServer, archive: Archive) -> None:
    url = postgres.url(str(archive.db.engine.url.database))
    for by_key in (False, True):
        archive.db = open_database(Settings(database_url=url), by_key=by_key)
        archive.see(f"/in/{by_key}.pdf")
        with archive.db.read() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        if by_key:
            time.sleep(0.3)  # it looks at connections that have rested, and repeats what was lost
        postgres.execute(f"SELECT pg_terminate_backend({pid})")
        assert archive.scalar("SELECT count(*) FROM sources") == 1 + by_key
        archive.db.dispose()


def test_a_workers_session_reads_no_whole_table(postgres: PostgresServer, archive: Archive) -> None:
    """PostgreSQL keeps a session's plan of a foreign key's check: of a table that it knew as empty, a whole read."""
    with archive.db.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    scanned = archive.scalar("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'answer_versions'")
    archive.db.dispose()
    name = str(archive.db.engine.url.database)
    archive.db = open_database(Settings(database_url=postgres.url(name)), by_key=True)
    for page in archive.ingest(archive.see("/in/a.pdf") or 0, [str(number) for number in range(20)]):
        assert archive.read(page, f"text {page}") == 1
    archive.db.dispose()  # the server counts at the end of a session
    counted = "SELECT seq_scan, idx_scan >= 20 FROM pg_stat_user_tables WHERE relname = 'answer_versions'"
    wait_until(lambda: archive.rows(counted)[0][1])
    assert archive.rows(counted) == [(scanned, True)]


def test_a_tick_reads_no_whole_table(archive: Archive) -> None:
    """Of a batch of a million pages those that are done lie first; whether any waits was asked by reading them all."""
    for page in archive.ingest(archive.see("/in/a.pdf") or 0, [str(number) for number in range(40)])[:30]:
        archive.read(page, "text")
    with archive.db.write() as connection:
        connection.exec_driver_sql("ANALYZE")
    archive.db.dispose()  # the server counts at the end of a session
    counted = (
        "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('page_tasks', 'documents') ORDER BY 1"
    )
    scanned = archive.rows(counted)
    assert what_is_open(archive.db, archive.batches["b"].id) == Open(False, True, False)
    assert [work[3] for work in running_work(archive.db)] == [Open(False, True, False)]
    assert Room(archive.db, 10).is_left(archive.batches["b"].id)
    assert not finish_batch(archive.db, archive.batches["b"])
    archive.db.dispose()
    looked = "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname LIKE 'ix_page_tasks_%'"
    wait_until(lambda: archive.scalar(looked) >= 4)
    assert archive.rows(counted) == scanned


def test_a_transaction_that_may_be_repeated_is_repeated(db: Database) -> None:
    calls: list[int] = []

    @retried
    def third_time_lucky(db: Database, /) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise Unavailable("a deadlock")
        return len(calls)

    @retried
    def full(db: Database, /) -> None:
        calls.append(1)
        raise DiskFull("no room")

    assert third_time_lucky(db) == 3
    calls.clear()
    with pytest.raises(DiskFull):
        full(db)
    assert len(calls) == 1


def test_an_ingest_worker_that_comes_up_before_its_database_says_so_when_it_can(
    own_server: PostgresServer, broker: str, tmp_path: Path
) -> None:
    """Its first session cannot begin, for the server was stopped before it came up."""
    url = own_server.url(TEMPLATE)
    own_server.stop()
    places = {"PAGEPACK_DATABASE_URL": url, "PAGEPACK_BROKER_URL": broker}
    worker = start_worker("ingest", environment("InstantEngine", **places), tmp_path / "ingest.log")
    client = redis.Redis(unix_socket_path=broker.removeprefix("redis+socket://").partition("?")[0])
    try:
        wait_until(lambda: any(one["cmd"] == "brpop" for one in client.client_list()))  # it consumes
        time.sleep(1)  # and has tried to say so
        own_server.start()
        with psycopg.connect(url, autocommit=True) as connection:
            roles = "SELECT role FROM worker_processes"
            wait_until(lambda: connection.execute(roles).fetchall() == [("ingest",)])
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def test_a_reader_that_looks_for_page_images_in_another_folder_says_so_and_fails_no_page(
    tmp_path: Path, postgres: PostgresServer, broker: str
) -> None:
    """The second host of an installation, where PAGEPACK_IMAGES_URL was forgotten."""
    postgres.execute(f"CREATE DATABASE of_two_hosts TEMPLATE {TEMPLATE}")
    url = postgres.url("of_two_hosts")
    places = {"PAGEPACK_DATABASE_URL": url, "PAGEPACK_BROKER_URL": broker}
    write_pdf(tmp_path / "in" / "a.pdf", 4)
    here, there = tmp_path / "here", tmp_path / "there"
    assert call("submit", tmp_path / "in", **places, PAGEPACK_HOME=str(here)).returncode == 0

    def reader(home: Path) -> subprocess.Popen[Any]:
        given = environment("InstantEngine", **places, PAGEPACK_HOME=str(home))
        return start_worker("read", given, home.with_suffix(".log"))

    host, log = ["worker", "--role", "ingest", "--home", here], tmp_path / "host.log"
    workers = [start_into(log, log, host, environment("InstantEngine", **places)), reader(there)]
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            given_back = "SELECT count(*) >= 4 FROM task_attempts WHERE error LIKE '%set PAGEPACK_IMAGES_URL%'"
            wait_until(lambda: connection.execute(given_back).fetchall() == [(True,)])
            counted = "SELECT count(*) FROM page_tasks WHERE state = 'failed' OR attempts > 0"
            assert connection.execute(counted).fetchall() == [(0,)]
            workers.append(reader(here))
            ended = "SELECT pages_done, pages_failed FROM batch_summary WHERE state = 'finished'"
            wait_until(lambda: connection.execute(ended).fetchall() == [(4, 0)])
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(timeout=600)
    said = there.with_suffix(".log").read_text()
    assert f"no page image was ever stored in {there}/images" in said, said
