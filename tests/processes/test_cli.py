"""The command line as shells, pipes and scripts meet it: real processes on a small archive."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.ingest.submission import submit
from pipeline.settings import Settings, load_settings
from pipeline.store.worker_registry import enlist
from schemas.prompts import DESCRIBE, OCR, choose_prompts
from tests.conftest import Archive
from tests.humility import humble
from tests.postgres import PASSWORD, PostgresServer
from tests.running import PAGEPACK, call, environment, pagepack, start, start_into, wait_until, write_pdf

PROGRAM = shlex.join(PAGEPACK)


@pytest.fixture
def home(archive: Archive, settings: Settings) -> Path:
    """Two pages read, one file of a kind that is not taken in; a writer has the database open."""
    archive.file("/in/a.pdf", ["crème tide tables 年度", "garden and tides " * 40])
    archive.see("/in/notes.txt", rejection="unsupported")
    archive.finish()
    return settings.home


def shell(script: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """bash, with `pagepack` as a function."""
    defined = f'pagepack() {{ {PROGRAM} "$@"; }}\n{script}'
    told = environment("InstantEngine", PAGEPACK_HOME=str(home), **variables)
    return subprocess.run(["bash", "-c", defined], env=told, capture_output=True, text=True, timeout=600)


MANY = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n"


LEFT_EARLY = [
    (["sql", MANY], 1),
    (["sql", MANY, "--format", "json"], 1),
    (["sql", MANY, "--format", "table"], 1),
    (["search", "tides"], 0),
    (["search", "tides", "--json"], 0),
    (["status"], 0),
    (["status", "--json"], 0),
    (["export", "--format", "jsonl", "--out", "-"], 0),
]


def test_a_reader_that_leaves_early_is_no_failure(home: Path) -> None:
    for command, lines in LEFT_EARLY:
        left = start(*command, "--home", home, engine="InstantEngine", forked=True)
        assert left.stdout is not None and left.stderr is not None
        for _ in range(lines):
            assert left.stdout.readline()
        left.stdout.close()
        errors = left.stderr.read()
        assert left.wait(600) == 0 and "Traceback" not in errors, (command, errors)
    for script in (f"pagepack sql '{MANY}' | head -1", "pagepack --help | true"):
        result = shell(f'{script}; echo "code ${{PIPESTATUS[0]}}" >&2', home)
        assert result.stderr.endswith("code 0\n") and "Traceback" not in result.stderr


def test_a_full_disk_under_the_output_is_one_line(home: Path, tmp_path: Path) -> None:
    told = "pagepack: cannot write to the standard output: No space left on device\n"
    for number, command in enumerate((["status"], ["status", "--json"], ["search", "tides"], ["sql", "SELECT 1"])):
        errors, words = tmp_path / f"errors{number}", [*command, "--home", home]
        full = start_into(Path("/dev/full"), errors, words, environment("InstantEngine"))
        assert (full.wait(600), errors.read_text()) == (4, told), command
    result = shell("pagepack --help > /dev/full", home)
    assert (result.returncode, result.stderr) == (4, told)


def test_a_full_disk_under_the_home_is_one_line(archive: Archive, settings: Settings) -> None:
    """The file beside the database, which SQLite makes to open it, finds no room: here by a limit, to which 8 KiB are
    left."""
    archive.file("/in/a.pdf", ["tides"])
    archive.db.dispose()
    home = settings.home
    assert not (home / "pagepack.db-shm").exists()
    told = f"pagepack: no room left on the disk of {home / 'pagepack.db'}; what was stored stays: free some and run the"
    for command in ("status", "search tides", "sql 'SELECT 1'", "forget /in/a.pdf"):
        result = shell(f"ulimit -f 8; pagepack {command}", home, PYTHONDONTWRITEBYTECODE="1")
        assert (result.returncode, result.stderr) == (4, f"{told} same command again\n"), command


EXPORT = "export --format jsonl --out -"


@pytest.mark.parametrize(
    ("command", "closed"),
    [("sql 'SELECT 1'", ">&-"), (EXPORT, "2>&-"), ("sql 'SELECT 1'", "<&-"), (EXPORT, ">&- 2>&- <&-")],
)
def test_closed_streams_are_no_accident(home: Path, command: str, closed: str) -> None:
    result = shell(f"pagepack {command} {closed}", home)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert call("sql", "SELECT count(*) FROM page_text", "--home", home).stdout.split() == ["count(*)", "2"]


ONE_AFTER_THE_OTHER = """
import sys
from pipeline.cli.main import main

made_by_python = sys.stdout
for words in (["search", "tide"], ["sql", "SELECT text FROM page_text"], ["export", "--format", "jsonl", "--out", "-"]):
    sys.argv, sys.stdout = ["pagepack", *words], made_by_python
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0
    print("end", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_texts_are_written_whatever_the_locale(home: Path, variables: dict[str, str]) -> None:
    told = environment("InstantEngine", PAGEPACK_HOME=str(home), **variables)
    command = [sys.executable, "-P", "-c", ONE_AFTER_THE_OTHER]
    result = subprocess.run(command, env=told, capture_output=True, timeout=600)
    assert result.returncode == 0 and result.stderr.count(b"end\n") == 3, result.stderr
    for word in ("crème", "年度"):
        assert result.stdout.decode().count(word) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", ""],
        ["ask", "why?", ""],
        ["status", "--home", ""],
        ["export", "--out", ""],
        ["doctor", "--model", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(home: Path, tmp_path: Path, arguments: list[str]) -> None:
    where = [] if "--home" in arguments else ["--home", str(home)]
    result = call(*arguments, *where)
    assert result.returncode == 2 and "is empty" in result.stderr


def test_one_file_is_counted_as_one(home: Path, tmp_path: Path) -> None:
    done = call("export", "--out", tmp_path / "text", "--home", home)
    counted = f"1 file, 2 pages written to {tmp_path}/text: 0 failed and 0 waiting pages are marked; 1 file rejected\n"
    assert (done.returncode, done.stderr) == (0, counted)


def test_a_home_that_is_empty_or_a_file_is_named(tmp_path: Path) -> None:
    empty = call("status", PAGEPACK_HOME="")
    assert empty.returncode == 2 and "PAGEPACK_HOME" in empty.stderr and "is empty" in empty.stderr
    (tmp_path / "file").write_text("x")
    for arguments, variables in ((["--home", str(tmp_path / "file")], {}), ([], {"PAGEPACK_HOME": f"{tmp_path}/file"})):
        result = call("status", *arguments, **variables)
        assert result.returncode == 2 and f"{tmp_path}/file is a file" in result.stderr
    with pytest.raises(UsageError, match="is a file"):
        load_settings(home=tmp_path / "file")


def test_a_home_of_any_name_works_and_its_hints_can_be_pasted(tmp_path: Path) -> None:
    home = tmp_path / "100% sure? it's #1&x"
    result = pagepack("run", write_pdf(tmp_path / "a.pdf", 2), "--home", home)
    assert result.returncode == 0, result.stderr
    assert {file.name for file in home.iterdir()} >= {"pagepack.db"}
    (hint,) = [line for line in result.stdout.splitlines() if line.startswith("read:")]
    pasted = shell(hint.removeprefix("read:"), tmp_path)
    assert pasted.returncode == 0 and pasted.stdout.count("ocr of") == 2
    assert call("status", "--home", home).returncode == 0
    missing = call("status", "--home", tmp_path / "not here")
    assert f"--home '{tmp_path}/not here'" in missing.stderr


@pytest.fixture
def locked(archive: Archive, home: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the home that nobody may write to."""
    locked = tmp_path / "locked"
    locked.mkdir()
    archive.db.dispose()
    shutil.copy(home / "pagepack.db", locked / "pagepack.db")
    (locked / "pagepack.db").chmod(0o444)
    locked.chmod(0o555)
    yield locked
    locked.chmod(0o755)


READING = [
    ["status"],
    ["search", "tides"],
    ["sql", "SELECT text FROM page_text"],
    ["export", "--format", "jsonl", "--out", "-"],
]


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_a_database_that_cannot_be_written_is_read(locked: Path, arguments: list[str]) -> None:
    for mode in (0o555, 0o755):  # in a folder that may be written, SQLite makes its two files
        locked.chmod(mode)
        with humble():
            result = call(*arguments, "--home", locked)
        assert result.returncode == 0 and result.stdout, result.stderr


def test_a_database_that_cannot_be_written_refuses_what_writes(locked: Path) -> None:
    for mode in (0o555, 0o755):
        locked.chmod(mode)
        with humble():
            refused = call("retry", "--home", locked)
        assert refused.returncode == 2 and "is read-only" in refused.stderr


def test_a_run_is_watched_while_it_writes(archive: Archive, home: Path) -> None:
    with archive.db.write() as connection:
        connection.exec_driver_sql("UPDATE answer_versions SET text = 'half'")
        for look, *arguments in ((pagepack, *READING[0]), *((call, *each) for each in READING)):
            result = look(*arguments, "--home", home)
            assert result.returncode == 0 and "half" not in result.stdout, result.stderr
    archive.file("/in/b.pdf", ["tides late"], batch="later")
    assert "/in/b.pdf" in call("search", "late", "--home", home).stdout


def test_retry_says_that_a_batch_has_no_failures_or_that_there_is_no_such_cause(
    archive: Archive, settings: Settings
) -> None:
    archive.file("/in/a.pdf", ["tides"])
    none = call("retry", "--cause", "timeout", "--home", settings.home)
    said = "nothing waits again: this batch has no failures, of the cause timeout or another\n"
    assert (none.returncode, none.stdout) == (3, said)
    unknown = call("retry", "--cause", "time-outs", "--home", settings.home)
    assert unknown.returncode == 2
    assert "--cause time-outs: there is no such cause; did you mean timeout? causes are bad-answer, " in unknown.stderr
    for more, of in (((), ""), (("--where", "page_number = 7"), " and fits --where")):
        none = call("retry", "--cause", "length", *more, "--home", settings.home)
        said = f"nothing waits again: no answer of this batch was cut at its longest length{of}\n"
        assert (none.returncode, none.stdout) == (3, said)


def test_retry_says_what_waits_and_what_is_looked_at_again(home: Path) -> None:
    result = call("retry", "--cause", "unsupported", "--home", home)
    assert result.returncode == 0
    assert result.stdout == "1 file that was not taken in is looked at again when the same is run or submitted\n"
    told = call("retry", "--json", "--home", home)
    assert json.loads(told.stdout) == {
        "files_waiting": 0,
        "pages_waiting": 0,
        "files_looked_at_again": 1,
        "command": None,
    }
    other = call("retry", "--cause", "timeout", "--home", home)
    assert other.returncode == 2 and "they have unsupported" in other.stderr
    for where in ("source_path LIKE", "nothing = 1"):
        wrong = call("retry", "--where", where, "--home", home)
        assert wrong.returncode == 2 and f"--where {where}: " in wrong.stderr
    none = call("retry", "--where", "page_number = 7", "--home", home)
    assert none.returncode == 3 and none.stdout == "nothing waits again: no failure of this batch fits\n"


def said(home: Path, *arguments: str | Path) -> Any:
    result = call(*arguments, "--home", home)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_programs_get_json(home: Path, tmp_path: Path) -> None:
    counts = said(home, "export", "--out", tmp_path / "out", "--json")
    assert counts["files"] == 1 and counts["pages"] == 2
    rows = call("export", "--format", "jsonl", "--out", "-", "--json", "--home", home)
    pages = [row for row in map(json.loads, rows.stdout.splitlines()) if row["page_number"]]
    assert len(pages) == json.loads(rows.stderr)["pages"] == 2 and len(rows.stdout.splitlines()) == 3
    assert said(home, "db", "upgrade", "--json")["revision"]
    assert said(home, "sql", "SELECT 1 AS n", "--json") == [{"n": 1}]
    assert call("sql", "SELECT 1", "--json", "--format", "csv", "--home", home).returncode == 2
    status = said(home, "status", "--json")
    for name in ("started_at", "finished_at"):
        assert datetime.fromisoformat(status[name]).utcoffset() == timedelta(0)
    assert status["progress"]["tasks_done"] == 2 and status["pages_per_second"] > 0


def test_status_says_that_a_submit_did_not_end(home: Path, tmp_path: Path) -> None:
    write_pdf(tmp_path / "b.pdf", 1)
    asked = (Settings(home=home), [tmp_path / "b.pdf"], choose_prompts([], []), None, [], 0, None)
    submit(*asked, on_seen=lambda count: None, is_stopping=lambda: True)  # Ctrl-C
    words = (
        "still being registered, or that was interrupted and the batch waits for it: repeat the same `pagepack submit`"
    )
    status = " ".join(call("status", "--home", home).stdout.split())
    assert words in status and "b.pdf" in status
    assert said(home, "status", "--json")["all_seen"] is False
    assert call("submit", tmp_path / "b.pdf", "--home", home).returncode == 0
    assert "still being registered" not in call("status", "--home", home).stdout
    again = said(home, "status", "--json")
    assert (again["all_seen"], again["state"], again["name"]) == (True, "running", "b.pdf")


def test_nothing_waits_for_a_batch_that_was_cancelled(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["one"])
    archive.see("/in/b.pdf")
    archive.batch("other")
    archive.see("/in/c.pdf")
    archive.see("/in/c.pdf", batch="other")
    home = Path(archive.db.name).parent

    def status() -> str:
        return " ".join(call("status", "b", "--home", home).stdout.split())

    assert "3 seen = 1 done + 0 failed + 0 rejected + 2 waiting" in status() and " rate " in status()
    assert call("cancel", "b", "--home", home).returncode == 0
    told = status()
    assert "3 seen = 1 done + 1 failed + 0 rejected + 1 left to other batches" in told
    assert "waiting" not in told and " rate " not in told
    assert call("cancel", "other", "--home", home).returncode == 0
    assert "3 seen = 1 done + 2 failed + 0 rejected pages" in status()


def test_status_says_that_no_worker_has_the_model_answers_the_prompt_or_takes_a_hint(archive: Archive) -> None:
    """Else its pages wait without a word, beside workers that are idle."""
    archive.see("/in/a.pdf")
    home = Path(archive.db.name).parent
    words = "no worker reads with what the batch asked for: rapidocr (m1)"

    def status() -> str:
        return " ".join(call("status", "--home", home).stdout.split())

    assert words not in status()
    enlist(archive.db, "read/1", "read", 1, device=None, engine="pixtral", model="m2")
    assert words in status()
    enlist(archive.db, "read/2", "read", 1, device=None, engine="rapidocr", model="m1", prompts=["ocr"])
    assert words not in status()
    archive.batch("c", prompts=[OCR, DESCRIBE])
    assert "no worker answers the prompt describe; start one that does" in status()
    archive.batch("h", text_layer="hint")
    assert "no worker is told the text that pages carry (--text-layer hint); start one that is" in status()
    enlist(archive.db, "read/3", "read", 1, engine="pixtral", model="m1")
    assert "no worker is told" not in status()
    assert "no worker answers" not in " ".join(call("status", "c", "--home", home).stdout.split())


@pytest.mark.parametrize("named", [[], ["b"]])
def test_who_watches_sees_the_batch_that_it_began_with(archive: Archive, named: list[str]) -> None:
    """Neither one that was submitted meanwhile, nor that its name now stands for two."""
    archive.see("/in/a.pdf")
    home, first = Path(archive.db.name).parent, archive.batches["b"].public_id
    watching = start("status", *named, "--watch", "--json", "--home", home, engine="InstantEngine", forked=True)
    assert watching.stdout is not None
    seen = [json.loads(watching.stdout.readline())["batch_id"]]
    archive.batch("later")
    archive.execute("UPDATE batches SET name = 'b'")
    seen += [json.loads(watching.stdout.readline() or "{}").get("batch_id") for _ in range(2)]
    archive.execute("UPDATE batches SET state = 'cancelled' WHERE public_id = :id", id=first)
    _, errors = watching.communicate(timeout=90)
    assert seen == [first] * 3 and watching.returncode == 0, errors


def test_search_stars_and_silence(home: Path) -> None:
    assert "a.pdf:2" in call("search", "tid* garden", "--home", home).stdout
    assert "a.pdf:2" in call("search", "gard*", "tid*", "--home", home).stdout
    assert "a.pdf:1" in call("search", "tide tables", "--home", home).stdout
    nothing = call("search", "tables tide", "--home", home)
    assert nothing.returncode == 1 and nothing.stdout == "" and "no page holds all of: tables tide" in nothing.stderr
    for command in (["search", "tides"], ["export", "--out", home / "out"]):
        wrong = call(*command, "--prompt", "nope", "--home", home)
        assert wrong.returncode == 2 and "'nope'; known are ocr" in wrong.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_limit_of_no_time_is_refused(home: Path, seconds: str) -> None:
    result = call("sql", "SELECT 1", "--seconds", seconds, "--home", home)
    assert result.returncode == 2 and "--seconds" in result.stderr


def test_what_is_no_database_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "pagepack.db"
    path.touch()
    empty = call("status", "--home", tmp_path)
    assert empty.returncode == 2 and "holds no pagepack database" in empty.stderr and "None" not in empty.stderr
    path.write_text("no database " * 500)
    for command in (["sql", "SELECT * FROM files"], ["status"]):
        damaged = call(*command, "--home", tmp_path)
        assert damaged.returncode == 2 and f"{path} is not a whole SQLite database" in damaged.stderr


@pytest.mark.only("postgresql")
def test_a_stopped_run_names_the_server_that_holds_the_answers(
    settings: Settings, archive: Archive, postgres: PostgresServer, tmp_path: Path
) -> None:
    write_pdf(tmp_path / "a.pdf", 40)
    name = archive.db.engine.url.database or ""
    url = postgres.tcp_url(name)
    words = ("run", tmp_path / "a.pdf", "--home", settings.home)
    run = start(*words, engine="SlowEngine", PAGEPACK_DATABASE_URL=url)
    wait_until(lambda: archive.scalar("SELECT count(*) FROM page_text") > 0)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 130, errors
    assert f"answers are stored in {url.replace(':' + PASSWORD, '')}. Run the same command again" in errors, errors
    status = json.loads(call("status", "--json", PAGEPACK_DATABASE_URL=url).stdout)
    assert (status["state"], status["interrupted"], status["worked_on_by"]) == ("running", True, "nobody")
