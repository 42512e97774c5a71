"""Each role can do its part and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipeline.database.engine import Database
from pipeline.database.migrate import downgrade, upgrade
from pipeline.database.open import open_database
from pipeline.database.roles import INGEST, QUERY, READ, create_roles, role_statements
from pipeline.errors import PageFailed, UsageError
from pipeline.export.export import export
from pipeline.query.batch_status import find_batch, status
from pipeline.query.search import find
from pipeline.query.sql import run_sql
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer
from pipeline.store.batch_end import finish_batches
from pipeline.store.batch_states import cancel_batch, pause_batch, resume_batch
from pipeline.store.due import forget_enqueued, take_due_pages
from pipeline.store.leases import Limits, expire, give_back, renew_tasks, return_claim
from pipeline.store.outbox import mark_notices_sent, take_notices
from pipeline.store.pages import NewPage, render_again
from pipeline.store.seen import mark_seen, mark_unseen
from pipeline.store.worker_registry import enlist
from pipeline.web.app import create_app
from schemas import evaluation_tables, tables, worker_tables  # noqa: F401 (their tables are to be known)
from schemas.base import Base
from schemas.prompts import schema_prompt
from schemas.view_columns import COLUMNS
from tests.conftest import LIMITS, Archive, answer, complete_page, sha
from tests.database.test_batch_states import notified
from tests.postgres import PostgresServer
from tests.running import call

DATABASES = ("postgresql",)

As = Callable[[str], Archive]


@pytest.fixture
def settings_as(postgres: PostgresServer, db: Database) -> Callable[[str], Settings]:
    """Settings that log in as a user who has one of the roles."""
    create_roles(db)
    name = db.engine.url.database or ""

    def login(role: str) -> Settings:
        if not postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = 'a_{role}'"):
            postgres.execute(f"CREATE ROLE a_{role} LOGIN IN ROLE pagepack_{role}")
        return Settings(database_url=postgres.url(name, user=f"a_{role}"))

    return login


@pytest.fixture
def as_role(settings_as: Callable[[str], Settings]) -> Iterator[As]:
    opened: list[Database] = []

    def login(role: str) -> Archive:
        opened.append(open_database(settings_as(role)))
        return Archive(opened[-1])

    yield login
    for database in opened:
        database.dispose()


def refused(archive: Archive, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(UsageError, match=r"permission denied|must be owner"):
            archive.execute(statement)


def test_every_table_and_view_is_somebodys() -> None:
    assert set(INGEST) == {*Base.metadata.tables, "alembic_version", "page_search"} and set(QUERY) >= set(COLUMNS)


def test_ingest_does_its_part_and_the_worker_its(as_role: As) -> None:
    ingest, worker = as_role("ingest"), as_role("worker")
    told = notified(ingest)
    text_layer = NewPage(1, sha("2"), 16, 16, text_layer="typed", warnings="mended")
    pages = ingest.ingest(ingest.see("/in/a.pdf", batch="told") or 0, ["1", text_layer, "3", "4"])
    ingest.see("/in/notes.txt", batch="told", rejection="unsupported")
    assert take_due_pages(ingest.db, told, limit=10, lost_after=0.0) == sorted(pages)
    forget_enqueued(ingest.db)

    worker.read(pages[0], "one")
    worker.read(pages[1], PageFailed("no"))
    claim = worker.claim(pages[2])
    assert claim and claim.source_path == "/in/a.pdf", "log lines name the file"
    assert renew_tasks(worker.db, "read/1", [task.task_id for task in claim.tasks], 60)
    return_claim(worker.db, claim, "stopping")
    assert worker.claim(pages[2]) and give_back(worker.db, "read/1", reason="gone", crashed=True, limits=LIMITS) == 1
    worker.read(pages[2], "three")
    lost = worker.claim(pages[3])
    assert lost
    render_again(worker.db, lost)
    return_claim(worker.db, lost, "image lost")
    assert expire(worker.db, Limits(60, 3, 3)) == 0

    document_id = ingest.scalar("SELECT id FROM documents")
    assert ingest.ingest(document_id, ["1", "2", "3", "4"]) == [pages[3]]
    worker.read(pages[3], "four")
    (notice,) = take_notices(ingest.db, 10)
    mark_notices_sent(ingest.db, [notice.id])
    finish_batches(ingest.db)
    assert status(ingest.db, find_batch(ingest.db)).pages_done == 3 and len(find(ingest.db, "three").hits) == 1
    assert ingest.retry(batch="told") == (0, 1)
    assert pause_batch(ingest.db, told) and resume_batch(ingest.db, told) and cancel_batch(ingest.db, told)


def test_the_worker_can_nothing_more(as_role: As, archive: Archive) -> None:
    archive.file("/in/a.pdf", ["text"])
    refused(
        as_role("worker"),
        "DELETE FROM answer_versions",
        "UPDATE answer_versions SET text = 'x'",
        "DELETE FROM page_tasks",
        "INSERT INTO batches (key) VALUES ('x')",
        "UPDATE batches SET state = 'paused'",
        "UPDATE page_tasks SET batch_id = 1",
        "UPDATE sources SET path = 'x'",
        "DROP TABLE answer_versions",
        "TRUNCATE answer_versions",
        "ALTER TABLE answer_versions ADD COLUMN x int",
        "CREATE TABLE mine (a int)",
        "SELECT location FROM sources",
        "UPDATE alembic_version SET version_num = '1'",
    )
    with pytest.raises(UsageError, match=r"permission denied|must be"):
        downgrade(as_role("worker").db, "base")


def test_ingest_can_nothing_more(as_role: As, archive: Archive) -> None:
    archive.file("/in/a.pdf", ["text"])
    refused(
        as_role("ingest"),
        "DELETE FROM answer_versions",
        "UPDATE answer_versions SET text = 'x'",
        "DELETE FROM task_attempts",
        "DELETE FROM batches",
        "DROP VIEW page_text",
        "CREATE TABLE mine (a int)",
    )


def test_the_query_role_reads_views_and_nothing_secret(
    settings_as: Callable[[str], Settings], settings: Settings, archive: Archive
) -> None:
    archive.file("/in/a.pdf", ["text"])
    withheld = ["key FROM batches", "notify FROM batches", "location FROM sources", "text FROM prompt_versions"]
    withheld += [f"* FROM {table}" for table in INGEST if READ.get(table) != "SELECT"]
    views = [*COLUMNS, "schema_doc"]
    # The second may take the role, and has it taken: from then on the rights are the same.
    for login, withheld_here, shown in ((settings_as("query"), withheld, views), (settings, withheld[:1], views[:1])):
        assert list(run_sql(login, "SELECT text FROM page_text").rows) == [("text",)]
        assert list(run_sql(login, "SELECT current_user").rows) == [("pagepack_query",)]
        for what in withheld_here:
            with pytest.raises(UsageError, match="permission denied"):
                run_sql(login, f"SELECT {what}")
        for view in shown:
            assert run_sql(login, f"SELECT * FROM {view}").columns
        with pytest.raises(UsageError, match="permission denied"):
            run_sql(login, "SELECT pg_read_file('/etc/hostname')")


def test_the_query_role_writes_nothing(as_role: As, archive: Archive) -> None:
    archive.file("/in/a.pdf", ["text"])
    refused(
        as_role("query"),
        "UPDATE batches SET state = 'paused'",
        "UPDATE answer_versions SET text = 'x'",
        "DELETE FROM page_tasks",
        "INSERT INTO worker_processes (owner) VALUES ('x')",
        "CREATE TABLE mine (a int)",
    )


def test_commands_that_read_work_as_the_query_role(settings_as: Callable[[str], Settings], archive: Archive) -> None:
    pages = archive.ingest(archive.see("/in/a.pdf", batch="told") or 0, ["1", "2", "3"])
    archive.read(pages[0], "tides and gulls")
    archive.read(pages[1], PageFailed("no"))
    archive.see("/in/notes.txt", batch="told", rejection="unsupported")
    enlist(archive.db, "read/1", "read", 1, device=None, engine="e", model="m")
    url = settings_as("query").database_url or ""
    for command in (
        "status",
        "status told --json",
        "search tides",
        "search tides --prompt ocr --batch told --json",
        "export --format jsonl --out -",
        "export --format jsonl --out - --prompt ocr --batch told",
        "sql TABLE\tpage_text",
    ):
        words = [word.replace("\t", " ") for word in command.split(" ")]
        done = call(*words, PAGEPACK_DATABASE_URL=url)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert ("tides" if "status" not in command else "told") in done.stdout, command


def test_assistants_and_programs_read_as_the_query_role(
    settings_as: Callable[[str], Settings], archive: Archive, tmp_path: Path
) -> None:
    from pipeline.assistants.tools import Tools  # with the MCP SDK, half a second of each process that collects tests

    archive.file("/in/a.pdf", ["high tide"])
    archive.see("/in/notes.doc", rejection="unsupported")
    settings = settings_as("query").model_copy(update={"home": tmp_path})
    tools = Tools(settings)
    assert tools.search("tide").total == 1 and tools.list_batches().batches
    assert tools.batch_status().failures == {"unsupported": 1}
    assert tools.read_page("a.pdf").structured_content and tools.run_sql("SELECT 1").structured_content
    for path, words in (("nope", "no file is called"), ("/in/notes.doc", "was not taken in")):
        with pytest.raises(UsageError, match=words):
            tools.read_page(path)
    client = TestClient(create_app(settings), base_url="http://localhost")
    document = client.get("/api/v1/documents?path=a.pdf").json()["document_id"]
    for path in ("search?q=tide", "batches", "batches/b", "batches/b/failures", "views", f"documents/{document}/text"):
        assert client.get(f"/api/v1/{path}").status_code == 200, path


def test_fields_are_exported_as_the_query_role(settings_as: Callable[[str], Settings], archive: Archive) -> None:
    schema = '{"type":"object","properties":{"gull":{"type":"string"}}}'
    archive.batch("told", prompts=[schema_prompt("birds", schema)])
    (page,) = archive.ingest(archive.see("/in/a.pdf", batch="told") or 0, ["1"])
    archive.read(page, '{"gull": "herring"}')
    words = ("export", "--schema", "birds", "--out", "-")
    done = call(*words, PAGEPACK_DATABASE_URL=settings_as("query").database_url or "")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert (head.split(",")[-1], row.split(",")[-1]) == ("gull", "herring")


def test_places_and_chunks_are_exported_as_the_query_role(
    settings_as: Callable[[str], Settings], archive: Archive, tmp_path: Path
) -> None:
    """And not what lies where only workers look."""
    line = [1, 1, 15, 9, 0.9, "tides"]
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["1"])
    archive.read(page, lambda prompt: answer("tides", details={"lines": [line]}))
    login = settings_as("query")
    db = open_database(login, readonly=True)
    try:
        for form in ("hocr", "alto", "page-xml"):
            export(db, tmp_path / form, form, where="text LIKE 'tide%'", settings=login)
            (file,) = (path for path in (tmp_path / form).rglob("*") if path.is_file())
            assert "tides" in file.read_text()
        export(db, tmp_path / "chunks", "jsonl", max_characters=100, settings=login)
        assert "tides" in (tmp_path / "chunks").read_text()
        with pytest.raises(UsageError, match=r"permission denied for table sources.*pagepack db roles"):
            export(db, tmp_path / "pdf", "pdf", settings=login)
    finally:
        db.dispose()


def test_migrations_by_a_member_of_the_owner_grant_again(
    as_role: As, settings_as: Callable[[str], Settings], archive: Archive
) -> None:
    owner = as_role("owner")
    for database in (owner.db, archive.db):
        upgrade(database)
        owners = archive.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert owners == [("pagepack_owner",)]
        assert list(run_sql(settings_as("query"), "SELECT * FROM page_text").rows) == []
    downgrade(owner.db, "base")
    upgrade(owner.db)
    ingest, worker = as_role("ingest"), as_role("worker")
    (page,) = ingest.ingest(ingest.see("/in/a.pdf") or 0, ["x"])
    worker.read(page, "text")
    assert list(run_sql(settings_as("query"), "SELECT text FROM page_text").rows) == [("text",)]


def test_a_database_without_the_roles_beside_one_that_has_them(
    as_role: As, new_settings: Callable[[], Settings]
) -> None:
    as_role("worker")  # the roles are the whole server's
    beside = new_settings()
    assert list(run_sql(beside, "SELECT count(*) FROM page_text").rows) == [(0,)]
    other = open_database(beside)
    upgrade(other)
    other.dispose()


def test_roles_are_made_once_and_can_be_printed(db: Database) -> None:
    create_roles(db)
    create_roles(db)
    assert any("CREATE ROLE pagepack_worker NOLOGIN" in statement for statement in role_statements())


@pytest.mark.only("sqlite")
def test_a_file_has_no_roles(db: Database) -> None:
    with pytest.raises(UsageError, match="has no roles"):
        create_roles(db)


def test_an_answer_of_a_worker_is_searched_for_by_ingest(as_role: As) -> None:
    ingest, worker = as_role("ingest"), as_role("worker")
    (page,) = ingest.ingest(ingest.see("/in/a.pdf") or 0, ["x"])
    claim = worker.claim(page)
    assert claim
    outcomes: dict[int, ReadAnswer] = {claim.tasks[0].task_id: answer("Café")}
    complete_page(worker.db, claim, "w", outcomes, LIMITS)
    assert [hit.page_number for hit in find(ingest.db, "cafe").hits] == [1]


def test_answers_are_compared_by_query_and_promoted_and_judged_by_ingest(
    settings_as: Callable[[str], Settings], as_role: As, archive: Archive
) -> None:
    sound = NewPage(0, sha("1"), 16, 16, text_layer="tides and gulls", text_layer_verdict="sound")
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, [sound])
    archive.read(page, "tides and gulls")
    archive.batch("new", model="m2")
    archive.see("/in/a.pdf", batch="new")
    worker = as_role("worker")
    worker.read(page, lambda _: answer("tides and bulls", "m2", engine="tesseract"), model="m2")
    url = {role: settings_as(role).database_url or "" for role in ("query", "ingest")}
    done = call("diff", "rapidocr", "tesseract", PAGEPACK_DATABASE_URL=url["query"])
    assert done.returncode == 0 and "[-gulls-]{+bulls+}" in done.stdout, done.stderr
    for words in (("promote", "rapidocr"), ("roll-back",), ("promote", "m1"), ("eval", "--answers", "tesseract")):
        done = call(*words, PAGEPACK_DATABASE_URL=url["ingest"])
        assert done.returncode == 0, done.stderr
    archive.see("/in/a.pdf", batch="new")
    assert as_role("query").rows("SELECT text, word_errors FROM page_text, evaluations") == [("tides and gulls", 1)]
    archive.batch("newest", model="m3")
    archive.see("/in/a.pdf", batch="newest")
    worker.read(page, lambda _: answer("later", "m3"), model="m3")
    assert archive.rows("SELECT text FROM page_text") == [("tides and gulls",)], "a worker leaves what is promoted"
    refused(worker, "DELETE FROM promoted_answers", "INSERT INTO answer_promotions (answers) VALUES ('x')")
    refused(as_role("query"), "INSERT INTO evaluation_runs (kind) VALUES ('x')")


def test_reviewers_mark_pages_as_ingest(as_role: As, archive: Archive) -> None:
    archive.file("/in/a.pdf", ["tide"])
    ingest, query, mine = as_role("ingest"), as_role("query"), "SELECT page_id, answer_id FROM current_answers"
    ((page, answer),) = query.rows(mine)
    assert mark_seen(ingest.db, page, answer) and query.rows("SELECT page_id, answer_id FROM seen_pages") == [
        (page, answer)
    ]
    with pytest.raises(UsageError, match="permission denied"):
        mark_unseen(query.db, page, answer)
    mark_unseen(ingest.db, page, answer)
    assert query.rows("SELECT * FROM seen_pages") == []
