"""Batches, progress, search and a user's own SQL, on a real database."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.summary import _named_failures, summarize
from pipeline.errors import PageFailed, UsageError
from pipeline.query.batch_status import batch_rows, find_batch, status
from pipeline.query.formats import write_csv, write_json, write_table
from pipeline.query.search import find
from pipeline.query.search_query import Near, Query, parse_query
from pipeline.query.sql import run_sql
from pipeline.settings import Settings
from pipeline.store import answers, batch_states, leases, pages, results
from pipeline.store.batch_states import cancel_batch, pause_batch
from pipeline.store.leases import give_back
from pipeline.store.search_terms import Phrase
from schemas.prompts import DESCRIBE, OCR
from schemas.tables import TaskAttempt
from schemas.view_columns import COLUMNS
from tests.conftest import LIMITS, Archive, answer, examples, sha

DATABASES = ("sqlite", "postgresql")


def test_a_batch_is_found_by_id_prefix_name_or_as_the_latest(archive: Archive) -> None:
    with pytest.raises(UsageError, match="no batch yet"):
        find_batch(archive.db)
    old, new = archive.batch("old"), archive.batch("new")
    assert [row.name for row in batch_rows(archive.db)] == ["new", "old"]
    assert find_batch(archive.db).batch_id == new.public_id
    assert find_batch(archive.db, "old").id == old.id
    assert find_batch(archive.db, old.public_id.upper()).id == old.id
    unique = next(old.public_id[:n] for n in range(1, 37) if not new.public_id.startswith(old.public_id[:n]))
    assert find_batch(archive.db, unique).id == old.id
    with pytest.raises(UsageError, match=r"2 batches.*old"):
        find_batch(archive.db, old.public_id[:2])
    for absent in ("third", "", "%"):
        with pytest.raises(UsageError, match="no batch has the id or name"):
            find_batch(archive.db, absent)


def test_status_counts_what_waits_and_what_failed(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["x", "y"])
    archive.see("/in/notes.txt", rejection="unsupported")
    archive.see("/in/later.pdf")
    read, bad, waiting = archive.ingest(archive.see("/in/b.pdf") or 0, ["0", "1", "2"])
    archive.read(bad, PageFailed("no", cause="timeout"))
    assert archive.claim(read)
    now = status(archive.db, find_batch(archive.db))
    assert (now.files_seen, now.files_done, now.files_rejected, now.pages_total, now.pages_done) == (4, 1, 1, 5, 2)
    progress = now.progress
    assert (progress.tasks_pending, progress.tasks_leased, progress.tasks_done, progress.tasks_failed) == (1, 1, 2, 1)
    assert progress.documents_open and now.pages_per_second > 0 and now.seconds_left
    assert now.failures == {"timeout": 1, "unsupported": 1} and now.engines == {"rapidocr": 2}
    archive.read(waiting, "z")
    assert status(archive.db, find_batch(archive.db)).progress.tasks_pending == 0


def test_status_of_an_empty_batch(archive: Archive) -> None:
    archive.batch()
    now = status(archive.db, find_batch(archive.db))
    assert now.files_seen == 0 and now.seconds_left == 0.0 and now.failures == {}


def test_status_of_each_batch_is_its_row_of_the_view(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["x", "y"])
    archive.see("/in/a.pdf", batch="second")
    archive.see("/in/notes.txt", rejection="unsupported", batch="second")
    _, bad = archive.ingest(archive.see("/in/b.pdf", batch="second") or 0, ["0", "1"])
    archive.read(bad, PageFailed("no", cause="timeout"))
    archive.batch("empty")
    counts = ["files_seen", "files_done", "files_failed", "files_rejected", "pages_total", "pages_done", "pages_failed"]
    for batch in batch_rows(archive.db):
        row = archive.rows(f"SELECT {', '.join(counts)} FROM batch_summary WHERE batch_id = :id", id=batch.batch_id)[0]
        now = status(archive.db, batch)
        assert tuple(getattr(now, name) for name in counts) == row


def test_engines_are_those_of_the_pages_that_are_counted(archive: Archive) -> None:
    """Not of what a file held before it changed; what another batch read before is counted in both."""
    archive.file("/in/a.pdf", ["x", "y"])
    archive.file("/in/b.pdf", ["z"])
    (page,) = archive.ingest(archive.see("/in/a.pdf", content="changed") or 0, ["now"])
    archive.read(page, "now")
    archive.see("/in/a.pdf", content="changed", batch="second")
    archive.batch("both", prompts=[OCR, DESCRIBE])
    archive.file("/in/c.pdf", ["a page that is asked twice"], batch="both")
    for name, done in {"b": 2, "second": 1, "both": 1}.items():
        now = status(archive.db, find_batch(archive.db, name))
        assert (now.pages_done, now.engines) == (done, {"rapidocr": done}), name


def found(archive: Archive, words: str, **where: Any) -> list[tuple[str, int]]:
    return [(hit.source_path, hit.page_number) for hit in find(archive.db, words, **where).hits]


def test_a_misspelt_batch_or_prompt_is_told_with_the_near_one(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["a"], batch="letters-1913")
    archive.file("/in/b.pdf", ["b"], batch="maps")
    with pytest.raises(UsageError) as error:
        find_batch(archive.db, "leters-1913")
    said = "no batch has the id or name 'leters-1913'; did you mean letters-1913? the latest are "
    assert str(error.value).startswith(said)
    with pytest.raises(UsageError, match="no batch has the id or name 'xyzzy'; the latest are "):
        find_batch(archive.db, "xyzzy")
    with pytest.raises(UsageError) as error:
        find(archive.db, "a", prompt="orc")
    assert str(error.value) == "no page was asked the prompt 'orc'; did you mean ocr? known are ocr"


def test_search_ranks_and_filters(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["a"])
    archive.read(page, lambda prompt: "the annual report" if prompt is OCR or prompt.name == "ocr" else "a picture")
    archive.file("/in/b.pdf", ["nothing", "report " * 10 + "annual figures and a report"], batch="second")
    assert sorted(found(archive, "annual report")) == [("/in/a.pdf", 1), ("/in/b.pdf", 2)]
    assert found(archive, '"annual report"') == [("/in/a.pdf", 1)]
    assert found(archive, "picture", prompt="ocr") == []
    assert found(archive, "picture", prompt="describe") == [("/in/a.pdf", 1)]
    assert found(archive, "report", batch=find_batch(archive.db, "b")) == [("/in/a.pdf", 1)]
    assert len(found(archive, "ANNU*")) == 2 and found(archive, "annu") == []
    assert sorted(found(archive, "ann* report")) == [("/in/a.pdf", 1), ("/in/b.pdf", 2)]
    assert found(archive, '"annual rep"* the') == [("/in/a.pdf", 1)] and found(archive, "annu report*") == []
    assert len(found(archive, "report", limit=1)) == 1
    with pytest.raises(UsageError, match="'nope'; known are describe, ocr"):
        find(archive.db, "report", prompt="nope")
    hit = find(archive.db, '"annual report"').hits[0]
    assert [hit.snippet.text[start:end] for start, end in hit.snippet.matches] == ["annual report"]
    scores = [hit.score for hit in find(archive.db, "report").hits]
    assert scores == sorted(scores, reverse=True)


def test_search_knows_operators(archive: Archive) -> None:
    texts = {
        "a": "invoice of the harbour office",
        "b": "receipt and invoice, draft",
        "c": "receipt of " + "many " * 10 + "harbour words",
        "d": "年度 and 2019 报告 draft",
    }
    for name, text in texts.items():
        archive.file(f"/in/{name}.pdf", [text])

    def names(words: str) -> str:
        return "".join(sorted(path[4] for path, _ in found(archive, words)))

    assert names("invoice OR receipt") == "abc" and names("invoice receipt") == "b"
    assert names("invoice NOT draft") == "a" and names("invoice OR receipt NOT draft") == "abc"
    assert names("(invoice OR receipt) NOT draft") == "ac" and names("(invoice OR receipt) AND NOT draft") == "ac"
    assert names("(年度 OR harbour) NOT (invoice OR many)") == "d" and names("年度 OR office") == "ad"
    assert names("NEAR(receipt harbour)") == "" and names("NEAR(receipt harbour, 11)") == "c"
    assert names("NEAR(harbour invoice, 2)") == "a" and names("NEAR(harbour invoice, 1)") == ""
    assert names('NEAR("harbour words" receipt of, 11)') == "c" and names("NEAR(off* inv*, 4)") == "a"
    assert names("NEAR(年度 报告, 2)") == "d" and names("NEAR(年度 报告, 1)") == ""
    assert names('"NOT" OR "invoice draft"') == "b" and names("draft not") == ""


@examples(30)
@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=8), min_size=1, max_size=3),
    query=st.recursive(
        st.one_of(
            st.sampled_from("abc"),
            st.builds("NEAR({0[0]} {0[1]}, {1})".format, st.permutations("abc"), st.integers(0, 4)),
        ),
        lambda part: st.builds("({} {} {})".format, part, st.sampled_from(["OR", "NOT", "AND", ""]), part),
        max_leaves=5,
    ),
)
def test_search_finds_what_a_query_means(archive: Archive, texts: list[str], query: str) -> None:
    path = f"/in/{sha(repr(texts))}.pdf"
    if not archive.rows("SELECT 1 FROM sources WHERE path = :path", path=path):
        archive.file(path, [" ".join(text) for text in texts])
    mine = {number for where, number in found(archive, query, limit=100_000) if where == path}
    assert mine == {number for number, text in enumerate(texts, 1) if fits(parse_query(query), text)}


def fits(query: Query, text: str) -> bool:
    """Whether a text of words of one letter is what a query asks for."""
    if isinstance(query, Phrase):
        return query.terms[0] in text
    if isinstance(query, Near):
        places = [[place for place, word in enumerate(text) if word == phrase.terms[0]] for phrase in query.phrases]
        return any(abs(one - other) - 1 <= query.words for one in places[0] for other in places[1])
    held = [fits(part, text) for part in query.parts]
    return {"AND": all(held), "OR": any(held), "NOT": held[0] and not held[-1]}[query.operator]


def test_search_counts_all_hits(archive: Archive) -> None:
    for index in range(7):
        archive.file(f"/in/{index}.pdf", ["tides", "gulls and tides"], batch="odd" if index % 2 else "even")
    archive.see("/in/copy.pdf", "/in/0.pdf", batch="even")
    odd = find_batch(archive.db, "odd")
    for words, where, total in (("tides", {}, 16), ("gulls", {}, 8), ("tides", {"batch": odd}, 6)):
        for limit in (1, 6, 16, 100):
            best = find(archive.db, words, limit=limit, **where)
            assert best.total == total and len(best.hits) == min(limit, total)


def test_search_finds_chinese_by_any_run_of_characters(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["本公司２０１９年度报告", "报告年度", "Über-Größe crème"])
    assert found(archive, "年度报告") == [("/in/a.pdf", 1)]
    assert found(archive, "2019年度") == [("/in/a.pdf", 1)]
    assert found(archive, "UBER größe CREME") == [("/in/a.pdf", 3)]


def test_search_finds_words_whatever_their_accents_signs_and_lengths(archive: Archive) -> None:
    archive.file(
        "/in/a.pdf", ["Café at http://example.com/Menu.html, -12.5 e-mail", "x" * 5_000 + " end", "한국어 ΟΔΌΣ й"]
    )
    archive.file("/in/long.pdf", [" ".join(f"word{index}" for index in range(150_000)) + " last"])
    for words in ("cafe", "CAFÉ", "cafe\u0301", "example menu", '"com menu html"', "12 5", '"e mail"'):
        assert found(archive, words) == [("/in/a.pdf", 1)], words
    assert found(archive, "x" * 5_000) == [("/in/a.pdf", 2)] and found(archive, "xxx*") == [("/in/a.pdf", 2)]
    assert found(archive, "한국어 οδός и") == [("/in/a.pdf", 3)] and found(archive, "ㅎ") == []
    assert found(archive, "word77") == [("/in/long.pdf", 1)]


def test_search_shows_current_answers_only(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["old words"])
    archive.batch("second", model="m2")
    archive.see("/in/a.pdf", batch="second")
    archive.read(archive.scalar("SELECT id FROM pages"), "new words", model="m2")
    assert found(archive, "old") == [] and found(archive, "new") == [("/in/a.pdf", 1)]


def test_search_in_a_batch_looks_at_its_files_as_it_saw_them(archive: Archive) -> None:
    for batch, words in (("old", "words of then"), ("new", "words of now")):
        pages = archive.ingest(archive.see("/in/a.pdf", words, batch=batch) or 0, [words])
        archive.read(pages[0], words)
    old, new = find_batch(archive.db, "old"), find_batch(archive.db, "new")
    assert found(archive, "words then", batch=old) == [("/in/a.pdf", 1)] == found(archive, "words now", batch=new)
    assert found(archive, "now", batch=old) == [] == found(archive, "then", batch=new)
    assert found(archive, "words") == [("/in/a.pdf", 1)] == found(archive, "now") and found(archive, "then") == []


LATIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), min_size=1, max_size=60)
CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1, max_size=20)


@examples(20)
@given(texts=st.lists(st.one_of(LATIN, CHINESE, st.tuples(LATIN, CHINESE).map(" ".join)), min_size=1, max_size=4))
def test_any_word_of_a_stored_text_finds_its_page(archive: Archive, texts: list[str]) -> None:
    path = f"/in/{sha(repr(texts))}.pdf"
    if not archive.rows("SELECT 1 FROM sources WHERE path = :path", path=path):
        archive.file(path, texts)
    for number, text in enumerate(texts, 1):
        for word in text.split():
            if any(character.isalnum() for character in word):
                assert (path, number) in found(archive, word.replace('"', " "), limit=100_000), word


HOSTILE = [
    '"',
    '""',
    "*",
    "AND",
    "a AND",
    "NEAR(a b)",
    "terms:a",
    "-a",
    "^a",
    "a OR b",
    "(",
    "a*b*",
    "\0",
    "\ud800",
    "'",
    "_",
]


@pytest.mark.parametrize(
    "words", [*HOSTILE, "", "  ", "a " * 64, "a " * 65, "x" * 100_000, "{a b}:c + d", "a\nb ; DROP"]
)
def test_any_query_is_safe(archive: Archive, words: str) -> None:
    archive.file("/in/a.pdf", ["a b and x"])
    try:
        find(archive.db, words)
    except UsageError as error:
        assert "search for" in str(error)


@examples(30)
@given(words=st.text(st.one_of(st.sampled_from('"*^:(){}-+ ANDOR_,;'), st.characters()), max_size=30))
def test_random_queries_are_safe(archive: Archive, words: str) -> None:
    try:
        find(archive.db, words)
    except UsageError as error:
        assert "search for" in str(error)


# A user's own SQL


def rows(settings: Settings | Path, statement: str, **given: Any) -> list[tuple[Any, ...]]:
    return list(run_sql(settings, statement, **given).rows)


FORBIDDEN = [
    "INSERT INTO batches SELECT * FROM batches",
    "UPDATE answers SET text = 'x'",
    "DELETE FROM answers",
    "DROP VIEW page_text",
    "DROP TABLE answers",
    "DELETE FROM answer_versions",
    "DROP TABLE answer_versions",
    "CREATE TABLE t (a)",
    "CREATE TEMP TABLE t (a)",
    "ATTACH '{tmp}/new.db' AS n",
    "ATTACH 'file:{tmp}/new.db?mode=rwc' AS n",
    "DETACH main",
    "PRAGMA user_version = 7",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1",
    "SELECT * FROM pragma_journal_mode('delete')",
    "VACUUM",
    "VACUUM INTO '{tmp}/new.db'",
    "SELECT load_extension('{tmp}/x.so')",
    "SELECT writefile('{tmp}/new.db', 'x')",
    "SELECT readfile('/etc/hostname')",
    "SELECT 1; DELETE FROM answers",
    "WITH x AS (SELECT 1) DELETE FROM answers",
    "INSERT INTO page_search (page_search) VALUES ('optimize')",
    "BEGIN IMMEDIATE",
    "REINDEX",
    "ANALYZE",
    "EXPLAIN DELETE FROM answers",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "SELECT 1 \0",
    "SELECT '\ud800'",
    "SELECT " + "1," * 60_000 + "1",
]


@pytest.mark.only("sqlite")
@pytest.mark.parametrize("statement", FORBIDDEN, ids=lambda statement: repr(statement[:40]))
def test_statements_that_do_not_read_are_refused_and_change_nothing(
    archive: Archive, settings: Settings, tmp_path: Path, statement: str
) -> None:
    archive.file("/in/a.pdf", ["text"])
    before = archive.rows("SELECT name, sql FROM sqlite_master"), archive.rows("SELECT * FROM answer_versions")
    files = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"page_text|no statement"):
        rows(settings, statement.replace("{tmp}", str(tmp_path)))
    assert (
        archive.rows("SELECT name, sql FROM sqlite_master"),
        archive.rows("SELECT * FROM answer_versions"),
    ) == before
    assert set(tmp_path.iterdir()) == files
    assert archive.rows("PRAGMA user_version") == [(0,)] and archive.rows("PRAGMA journal_mode") == [("wal",)]


@pytest.mark.only("sqlite")
def test_views_search_json_and_columns_can_be_read(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["some text"])
    for view in COLUMNS:
        assert run_sql(settings, f"SELECT * FROM {view};").columns == list(COLUMNS[view])
    assert rows(settings, "SELECT text FROM page_text -- all") == [("some text",)]
    assert rows(settings, "SELECT rowid FROM page_search WHERE page_search MATCH 'some'") == [(1,)]
    assert rows(settings, "SELECT value FROM json_each('[1, 2]')") == [(1,), (2,)]
    assert ("page_count",) in rows(settings, "SELECT name FROM pragma_table_info('documents')")
    assert rows(settings, "EXPLAIN QUERY PLAN SELECT * FROM batches")
    assert rows(settings, "SELECT CAST(x'ff41' AS TEXT)") == [("\ufffdA",)]


FORBIDDEN_ON_A_SERVER = [
    "INSERT INTO batches SELECT * FROM batches",
    "UPDATE answers SET text = 'x'",
    "DELETE FROM answers",
    "DROP VIEW page_text",
    "CREATE TABLE t (a int)",
    "CREATE TEMP TABLE t (a int)",
    "SELECT 1 INTO t",
    "SELECT * FROM answers FOR UPDATE",
    "DELETE FROM answer_versions",
    "SELECT * FROM answer_versions FOR UPDATE",
    "SELECT 1; DELETE FROM answers",
    "SELECT 1; COMMIT",
    "COMMIT",
    "SET transaction_read_only = off",
    "WITH gone AS (DELETE FROM answers RETURNING 1) SELECT * FROM gone",
    "COPY (SELECT 1) TO '/tmp/pagepack-copied'",
    "COPY answers TO PROGRAM 'cat'",
    "SELECT set_config('transaction_read_only', 'off', true), nextval('answers_id_seq')",
    "SELECT setval('answers_id_seq', 1000000)",
    "SELECT lo_creat(-1)",
    "EXPLAIN ANALYZE DELETE FROM answers",
    "DO $$ BEGIN DELETE FROM answers; END $$",
    "VACUUM",
    "LISTEN x",
    "",
    "-- nothing",
    "SELEC 1",
    "SELECT * FROM nowhere",
    "SELECT 1 \0",
    "SELECT '\ud800'",
    "SELECT 1 / 0",
    "SELECT " + "1," * 60_000 + "1",
]


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("statement", FORBIDDEN_ON_A_SERVER, ids=lambda statement: repr(statement[:40]))
def test_a_server_refuses_what_does_not_read(archive: Archive, settings: Settings, statement: str) -> None:
    archive.file("/in/a.pdf", ["text"])
    everything = (
        "SELECT relname, relfilenode FROM pg_class WHERE relkind <> 't' ORDER BY 1",
        "SELECT * FROM answer_versions",
    )
    before = [archive.rows(query) for query in everything]
    with pytest.raises(UsageError, match=r"PostgreSQL says.*page_text|the statement"):
        rows(settings, statement)
    assert [archive.rows(query) for query in everything] == before
    assert archive.scalar("SELECT last_value FROM answers_id_seq") == 1


@pytest.mark.parametrize(
    ("statement", "near"),
    [
        ("SELECT * FROM page_txt", "page_text"),
        ("SELECT p.sorce_path FROM page_text p", "source_path"),
        ("SELECT page_numbr FROM page_text", "page_number"),
    ],
)
def test_an_unknown_name_has_the_nearest_beside_it(
    archive: Archive, settings: Settings, statement: str, near: str
) -> None:
    archive.file("/in/a.pdf", ["text"])
    with pytest.raises(UsageError, match=rf"says: .*; did you mean {near}\? `pagepack sql` reads only"):
        rows(settings, statement)


def test_a_column_of_another_view_is_told_with_its_views(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])
    for statement, views in (
        ("SELECT data FROM page_text", "page_data has it"),
        ("SELECT p.cause FROM page_text p", "failures, current_failures have it"),
    ):
        with pytest.raises(UsageError, match=rf"says: .*; {views}; `pagepack sql` reads only"):
            rows(settings, statement)


@pytest.mark.only("postgresql")
def test_values_of_a_server_look_as_those_of_a_file(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["some text"])
    for view in COLUMNS:
        assert run_sql(settings, f"SELECT * FROM {view};").columns == list(COLUMNS[view])
    ((moment,),) = rows(settings, "SELECT created_at FROM page_text")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", moment)
    assert rows(
        settings, "SELECT timestamptz '2020-02-03 04:05:06+01', timestamptz 'infinity', date '0044-03-15 BC'"
    ) == [("2020-02-03 03:05:06.000000", "infinity", "0044-03-15 BC")]
    assert rows(settings, "SELECT avg(i), sum(i), 1 = 1, 'NaN'::numeric > 1 FROM generate_series(1, 4) i") == [
        (2.5, 10, 1, 1)
    ]
    odd = """SELECT '{"a": [1]}'::jsonb, ARRAY['é', NULL], '\\x00ff'::bytea, interval '1 day', 10 % 3"""
    assert rows(settings, odd) == [('{"a": [1]}', '["é", null]', b"\x00\xff", "1 day", 1)]
    assert rows(settings, "TABLE schema_doc LIMIT 0") == [] and rows(settings, "VALUES (1), (2)") == [(1,), (2,)]
    assert rows(settings, "SELECT 1 WHERE 'a%b' LIKE '%\\%%'") == [(1,)]


def test_queries_see_committed_rows_while_a_write_is_open(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])
    with archive.db.write() as connection:
        connection.exec_driver_sql("DELETE FROM current_answers")
        assert rows(settings, "SELECT count(*) FROM page_text") == [(1,)]


def test_an_endless_query_is_stopped(settings: Settings) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
    for columns in ("count(*) FROM n", "i FROM n WHERE i < 0"):
        with pytest.raises(UsageError, match=r"stopped after 0\.2 seconds"):
            rows(settings, endless + columns, limit_seconds=0.2)


def test_rows_stream_and_stop_where_no_more_are_wanted(settings: Settings) -> None:
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    result = run_sql(settings, endless)
    assert [i for (i,) in islice(result.rows, 450)] == list(range(1, 451))


def test_no_database_and_no_sqlite_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no database at"):
        rows(tmp_path / "absent.db", "SELECT 1")
    assert not (tmp_path / "absent.db").exists()
    (tmp_path / "text.db").write_text("no database " * 200)
    with pytest.raises(UsageError, match="not a database"):
        rows(tmp_path / "text.db", "SELECT * FROM sqlite_master")


@pytest.mark.only("sqlite")
def test_odd_characters_in_the_folder_name(migrated: Path, tmp_path: Path) -> None:
    home = tmp_path / "a?b#c %41 ü"
    home.mkdir()
    shutil.copy(migrated, home / "pagepack.db")
    assert rows(Settings(home=home), "SELECT count(*) FROM batches") == [(0,)]


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for another user: the tests may run as root, to whom every folder is writable."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))


@pytest.mark.usefixtures("unwritable")
def test_a_database_in_a_read_only_folder_is_read(migrated: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(migrated, tmp_path / "pagepack.db"))
    assert rows(path, "SELECT count(*) FROM batches") == [(0,)]
    assert [file.name for file in tmp_path.iterdir()] == ["pagepack.db"]  # no lock files were made
    result = run_sql(path, "SELECT count(*) FROM batches")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UsageError, match="was written while it was read"):
        list(result.rows)
    (tmp_path / "pagepack.db-wal").write_bytes(b"pages that were not moved over yet")
    with pytest.raises(UsageError, match=r"holds pages in pagepack\.db-wal"):
        rows(path, "SELECT 1")


@pytest.mark.usefixtures("unwritable")
@pytest.mark.only("sqlite")
def test_a_run_in_a_read_only_folder_can_be_watched(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])  # the writer's own lock files are there
    assert rows(settings, "SELECT text FROM page_text") == [("text",)]


# Output formats

VALUES: list[tuple[Any, ...]] = [
    (1, "a,b", None),
    (2.5, 'say "x"\r\n', ""),
    (float("inf"), "\x1b[31m\u202e表", b"\x00\xff"),
]


def test_csv_reads_back_and_tells_null_from_empty() -> None:
    stream = io.StringIO()
    assert write_csv(stream, ["n", "t", "n"], VALUES) == 3
    assert stream.getvalue().startswith('n,t,n\r\n1,"a,b",\r\n2.5,"say ""x""\r\n",""\r\n')
    back = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert back[2] == ["2.5", 'say "x"\r\n', ""] and back[3] == ["inf", "\x1b[31m\u202e表", "x'00ff'"]


def test_json_is_a_list_of_objects_that_any_parser_reads() -> None:
    stream = io.StringIO()
    assert write_json(stream, ["n", "t", "n"], VALUES) == 3
    back = json.loads(stream.getvalue(), parse_constant=lambda name: pytest.fail(name))
    assert back[0] == {"n": 1, "t": "a,b", "n_2": None}
    assert back[2] == {"n": "inf", "t": "\x1b[31m\u202e表", "n_2": "x'00ff'"}
    assert "表" in stream.getvalue() and "\x1b" not in stream.getvalue()
    empty = io.StringIO()
    write_json(empty, ["n"], [])
    assert json.loads(empty.getvalue()) == []


def test_a_table_shows_null_and_cannot_drive_the_terminal() -> None:
    stream = io.StringIO()
    assert write_table(stream, ["n", "[bold]t", "\x1b]0;x\x07"], [*VALUES, ("[red]markup[/red]", "\x9b1m", 0)]) == 4
    shown = stream.getvalue()
    assert "NULL" in shown and "[red]markup[/red]" in shown and "[bold]t" in shown
    assert r"\x1b[31m\u202e表" in shown and r"\x9b1m" in shown
    assert not any(character in shown for character in "\x1b\x07\x9b\u202e\r")
    long = io.StringIO()
    assert write_table(long, ["n"], ((number,) for number in range(5_000))) == 1_000
    assert "the first 1,000 rows" in long.getvalue()


@pytest.mark.only("sqlite")
def test_readers_do_not_need_more_than_sqlite_itself(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["text"])
    with sqlite3.connect(settings.home / "pagepack.db") as connection:
        assert connection.execute("SELECT source_path, page_number, text FROM page_text").fetchall() == [
            ("/in/a.pdf", 1, "text")
        ]


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("hours", [-1, 1])
def test_the_rate_is_by_the_servers_clock_whatever_a_workers_says(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Attempts of a worker whose clock is an hour slow were none of the last minute, and the time left was unknown."""
    off = datetime.now(UTC) + timedelta(hours=hours)
    for module in (answers, batch_states, leases, pages, results):
        monkeypatch.setattr(module, "utc_now", lambda: off, raising=False)  # most ask the server alone
    default = TaskAttempt.__table__.c.ended_at.default
    assert default is not None and default.is_clause_element, "else it is the clock of whoever writes it"
    archive.batch("b")
    archive.file("/in/a.pdf", ["one", "two"])
    (page,) = archive.ingest(archive.see("/in/b.pdf") or 0, ["x"])
    archive.claim(page, "read/dead")
    assert give_back(archive.db, "read/dead", reason="its worker died", crashed=True, limits=LIMITS) == 1
    assert pause_batch(archive.db, archive.batches["b"].id) and cancel_batch(archive.db, archive.batches["b"].id)
    ages = "SELECT max(abs(extract(epoch FROM clock_timestamp() - {}))) < 120 FROM {}"
    assert archive.scalar(ages.format("ended_at", "task_attempts"))
    assert archive.scalar(ages.format("finished_at", "page_tasks"))
    assert archive.scalar(ages.format("started_at", "batches")) and archive.scalar(
        ages.format("finished_at", "batches")
    )
    now = status(archive.db, find_batch(archive.db))
    assert 0 < now.pages_per_second <= 2 and 0 < now.pages_per_second_overall <= 2


def test_a_failure_is_over_with_a_later_answer_whatever_a_workers_clock_says(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    with monkeypatch.context() as an_hour_fast:
        for module in (answers, results):
            an_hour_fast.setattr(module, "utc_now", lambda: datetime.now(UTC) + timedelta(hours=1), raising=False)
        archive.read(page, PageFailed("no"))
    broken = "SELECT source_path, reason FROM current_failures"
    assert archive.rows(broken) == [("/in/a.pdf", "no")]
    archive.batch("c", model="m2")
    archive.see("/in/a.pdf", batch="c")
    archive.read(page, "read", model="m2")
    assert archive.rows(broken) == []


def test_a_moment_that_the_database_wrote_is_read_as_one_that_we_wrote(archive: Archive) -> None:
    before = datetime.now(UTC)
    archive.file("/in/a.pdf", ["one"])
    with archive.db.read() as connection:
        ended = connection.scalar(sa.select(TaskAttempt.ended_at))
    assert ended is not None
    moment = ended if ended.tzinfo else ended.replace(tzinfo=UTC)
    assert before - timedelta(seconds=1) <= moment <= datetime.now(UTC) + timedelta(seconds=1)
    if archive.db.dialect == "sqlite":
        assert len(archive.scalar("SELECT ended_at FROM task_attempts")) == len("2026-01-01 00:00:00.000000")


def test_the_closing_summary_names_a_page_that_failed_once(archive: Archive, settings: Settings) -> None:
    document_id = archive.see("a.pdf")
    assert document_id is not None
    drawing, reading = archive.ingest(document_id, ["first", "second"])
    archive.read(drawing, PageFailed("page 1 of a.pdf: the picture is one colour", cause="damaged"))
    archive.read(reading, PageFailed("its 2 lines are in another script", cause="unread-script"))
    said = list(_named_failures(settings, archive.batches["b"].public_id, 2, ""))
    assert said == [
        "  page 1 of a.pdf: the picture is one colour",
        "  a.pdf page 2: its 2 lines are in another script",
    ]


def test_a_summary_counts_pages_that_another_model_answered(
    archive: Archive, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "org/big=1/general-769ca952/ed1e08b6"
    archive.batch("b", model=asked)
    document = archive.see("/in/a.pdf", batch="b")
    assert document is not None
    served = [asked, f"{asked}=small", f"{asked}=small+length/8192", f"{asked}=other"]
    for page, model in zip(archive.ingest(document, ["1", "2", "3", "4"]), served, strict=True):
        archive.read(page, lambda _, model=model: answer("text", model, engine="endpoint"), model=asked)
    batch_id = archive.batches["b"].public_id
    assert summarize(settings, batch_id, 1.0, False, 0) == 0
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if "another model" in line]
    assert said == ["  2 pages were answered by small", "  1 page was answered by other"]
    summarize(settings, batch_id, 1.0, True, 0)
    assert json.loads(capsys.readouterr().out)["answered_by_others"] == {"small": 2, "other": 1}
