"""`pagepack status` and `retry` of a batch whose run is there, was stopped or was killed, and the command they name."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.where import looking_words
from pipeline.database.home import HomeInUse, HomeLock, is_in_use
from pipeline.database.open import open_database
from pipeline.errors import PageFailed
from pipeline.ingest.selection import ALL_FILES
from pipeline.ingest.submission import submit
from pipeline.query.go_on import shell_quoted
from pipeline.settings import Settings
from pipeline.store.attendance import attend
from pipeline.store.worker_registry import enlist
from schemas.prompts import OCR
from tests.conftest import Archive
from tests.running import (
    call,
    done_pages,
    pagepack,
    reconciles,
    rows,
    start,
    wait_until,
    write_pdf,
)

GO_ON = "go on with:  "


def status(home: Path) -> tuple[str, dict[str, Any]]:
    """What people see, in one line, and what programs do."""
    told = call("status", "--home", home)
    assert told.returncode == 0, told.stderr
    return " ".join(told.stdout.split()), json.loads(call("status", "--json", "--home", home).stdout)


def the_command(text: str) -> str:
    """The line that `status` says to go on with."""
    (line,) = [line for line in text.splitlines() if line.startswith(GO_ON)]
    return line.removeprefix(GO_ON)


def pasted(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What bash makes of a line, in some folder; it begins the command as it would begin any."""
    script = f"pagepack() {{ printf '%s\\0' \"$@\"; }}\n{command}"
    words = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.split(b"\0")[:-1]
    with chdir(folder):
        return pagepack(*map(os.fsdecode, words))


def test_a_batch_whose_run_is_gone_is_interrupted_and_the_command_goes_on_with_it(tmp_path: Path) -> None:
    """Stopped at Ctrl-C, and killed when it goes on."""
    folder, home = tmp_path / "it's \x1b[31m here", tmp_path / "my home"
    write_pdf(folder / "a.pdf", 10)
    (tmp_path / "title.txt").write_text("What is the title?")
    command = ("run", os.path.relpath(folder), "--home", home, "--prompt", "ocr", "--prompt-file")
    held = {"PAGEPACK_INTERNAL_GATE": str(tmp_path / "never"), "PAGEPACK_GRACE_SECONDS": "1"}
    for number, begun in ((signal.SIGINT, 4), (signal.SIGKILL, 8)):
        run = start(*command, os.path.relpath(tmp_path / "title.txt"), "--pages", "1-8", engine="HeldEngine", **held)
        wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= begun)  # noqa: B023
        words, fields = status(home)
        assert ", running)" in words and "interrupted" not in words and "start one" not in words
        assert (fields["state"], fields["interrupted"], fields["worked_on_by"]) == ("running", False, "run")
        run.send_signal(number)
        _, errors = run.communicate(timeout=600)
        assert run.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), errors
        text = call("status", "--home", home).stdout
        words, fields = status(home)
        assert ", interrupted)" in words and "rate" not in words and "left" not in words and "start one" not in words
        assert (fields["state"], fields["interrupted"], fields["worked_on_by"]) == ("running", True, "nobody")
        assert " interrupted " in call("batches", "--home", home).stdout, "and so says the list"
        assert (fields["pages_per_second"], fields["seconds_left"]) == (0, None)
        assert "workers none is there that reads it" in words
        assert fields["command"] == the_command(text) and "\x1b" not in text
    done = pasted(the_command(text), Path("/"))
    assert done.returncode == 0 and "8 done, 0 failed" in done.stdout, done.stderr
    assert rows(home, "SELECT state, pages_done FROM batch_summary") == [("finished", 8)], "the same batch"
    words, fields = status(home)
    assert ", finished)" in words and GO_ON.strip() not in words and fields["interrupted"] is False
    assert fields["workers"] == [], "those of the run that was killed are gone"
    reconciles(home)


def test_the_command_goes_on_in_the_same_archive_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once named a home as it was given, or not at all: pasted elsewhere it began another archive there."""
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    write_pdf(tmp_path / "a.pdf", 1)
    monkeypatch.chdir(tmp_path)
    assert pagepack("run", "a.pdf", "broken.pdf", "--home", "relative").returncode == 1
    for name, words in (("relative", ["--home", "relative"]), ("pagepack-data", [])):
        home = tmp_path / name
        command = json.loads(call("retry", "--json", *words).stdout)["command"]
        assert command == f"pagepack run --home {home} {tmp_path / 'a.pdf'} {tmp_path / 'broken.pdf'}"
        assert json.loads(call("status", "--json", *words).stdout)["command"] == command
        if words:
            home.rename(tmp_path / "pagepack-data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = pasted(command, elsewhere)
    assert done.returncode == 1 and not list(elsewhere.iterdir()), done.stderr
    assert rows(home, "SELECT count(*) FROM batches") == [(1,)]
    (hint,) = [line for line in done.stdout.splitlines() if line.startswith("read:")]
    assert f"pagepack sql --home {home} " in hint


def test_a_hint_is_right_in_the_folder_where_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default = Settings(home=Path("pagepack-data").absolute())
    assert looking_words(default) == []
    assert looking_words(Settings(home=Path("rel"))) == ["--home", "rel"]
    monkeypatch.setenv("PAGEPACK_HOME", "other")
    assert looking_words(default) == ["--home", str(default.home)], "without it the other home is meant"


def count_or_none(home: Path, statement: str) -> int:
    try:
        return int(rows(home, statement)[0][0]) if (home / "pagepack.db").exists() else 0
    except sqlite3.OperationalError:  # not migrated yet
        return 0


def test_a_run_says_again_and_again_that_it_is_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("run", write_pdf(tmp_path / "a.pdf", 1), "--home", home)
    run = start(*words, engine="HangingEngine", PAGEPACK_LEASE_SECONDS="4", PAGEPACK_GRACE_SECONDS="1")
    wait_until(lambda: count_or_none(home, "SELECT count(*) FROM leaders WHERE name LIKE 'run %'") > 0)
    until = "SELECT held_until FROM leaders WHERE name LIKE 'run %'"
    ((first,),) = rows(home, until)
    wait_until(lambda: rows(home, until)[0][0] > first)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=600)
    assert rows(home, "SELECT * FROM leaders") == []


def test_a_batch_that_another_run_leaves_alone_is_interrupted_too_and_a_worker_goes_on_with_it(
    tmp_path: Path,
) -> None:
    """The home is in use, but nobody there works on it."""
    home, folder, others = tmp_path / "home", tmp_path / "in", tmp_path / "others"
    write_pdf(folder / "in.pdf", 2)
    of_run = ("instant", "instant/1", False, ALL_FILES, ["pagepack", "run", str(folder), "--batch", "in"])
    # As a run that was killed when it had registered its files: it still says that it works on them.
    batch = submit(Settings(home=home), [folder], [OCR], "in", [], 0, None, lambda _: None, lambda: False, *of_run)
    db = open_database(Settings(home=home))
    attend(db, batch.id, "killed", 3600.0)
    db.dispose()
    write_pdf(others / "others.pdf", 2)
    words = ("run", others, "--home", home, "--batch", "others")
    run = start(*words, engine="HangingEngine", PAGEPACK_GRACE_SECONDS="1")
    begun = """SELECT count(*) FROM page_tasks JOIN batches b ON b.id = batch_id
      WHERE page_tasks.state = 'leased' AND b.name = 'others'"""
    wait_until(lambda: count_or_none(home, begun) > 0)
    said = {name: json.loads(call("status", name, "--json", "--home", home).stdout) for name in ("in", "others")}
    assert [said[name]["interrupted"] for name in ("in", "others")] == [True, False]
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=600)
    assert status(home)[1]["interrupted"] is True
    worker = start("worker", "--home", home, engine="HangingEngine", PAGEPACK_GRACE_SECONDS="1")
    try:
        wait_until(lambda: bool(status(home)[1]["worked_on_by"] == "workers"))
        assert status(home)[1]["interrupted"] is False
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=600)


def test_a_batch_of_submit_waits_for_workers_and_is_not_interrupted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_pdf(tmp_path / "in" / "a.pdf", 1)
    assert call("submit", tmp_path / "in", "--home", home).returncode == 0
    words, fields = status(home)
    assert ", running)" in words and "no worker is ready to read; where none is starting, start one" in words
    assert (fields["interrupted"], fields["command"]) == (False, None)


def test_looking_for_the_lock_does_not_take_it_from_a_run(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    with HomeLock(tmp_path):
        assert is_in_use(tmp_path)
        with pytest.raises(HomeInUse), HomeLock(tmp_path):
            pass
    assert not is_in_use(tmp_path)


def test_a_home_is_taken_where_its_disk_has_no_room_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    with HomeLock(tmp_path):
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "a\nb", "\x1b[31mred", "\udcff\udc80.pdf", "back\\slash\t'", "年度"]
)
def test_a_shell_reads_a_quoted_word_as_it_was(name: str) -> None:
    quoted = shell_quoted(name)
    assert quoted.isprintable()
    read = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
    assert read.stdout == os.fsencode(name)


def test_a_failed_page_is_retried_on_request_only_which_counts_it_once_and_names_the_command(tmp_path: Path) -> None:
    """Two prompts, a document at two paths, one file that is no document and one that is broken."""
    folder, home = tmp_path / "two words", tmp_path / "home"
    write_pdf(folder / "a.pdf", 3, dark=1)
    (folder / "copy of a.pdf").write_bytes((folder / "a.pdf").read_bytes())
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    (folder / "notes.txt").write_text("no page")
    (tmp_path / "title.txt").write_text("What is the title?")
    words = ["--prompt", "ocr", "--prompt-file", str(tmp_path / "title.txt")]
    assert pagepack("run", folder, "--home", home, *words, engine="FailingEngine").returncode == 1
    failures = "SELECT count(*), count(page_number) FROM failures"
    assert rows(home, failures) == [(6, 4)], "two prompts at two paths make four rows of one page"
    of_pages = "SELECT DISTINCT page_number, cause, reason, attempts FROM failures WHERE page_number > 0"
    assert rows(home, of_pages) == [(2, "engine", "this page is dark", 1)]
    assert pagepack("run", folder, "--home", home, *words).returncode == 1
    assert rows(home, failures) == [(6, 4)], "not by itself"
    assert "nothing waits again" in call("retry", "--home", home, "--where", "page_number = 7").stdout
    told = call("retry", "--home", home, "--cause", "engine").stdout
    begin, _, command = told.partition("; go on with: ")
    assert begin == "1 page waits again"
    rest = call("retry", "--home", home).stdout
    looked = "1 file that was not taken in is looked at again"
    assert rest == f"1 file waits again, and {looked}; go on with: {command}"
    assert the_command(call("status", "--home", home).stdout) == command.rstrip("\n")
    done = pasted(command, Path("/"))
    assert done.returncode == 1 and "3 pages: 3 done, 0 failed" in done.stdout, done.stderr
    assert rows(home, failures) == [(2, 0)]
    both = json.loads(call("retry", "--json", "--home", home).stdout)
    assert both == {"files_waiting": 1, "pages_waiting": 0, "files_looked_at_again": 1, "command": command.rstrip("\n")}


def test_retry_leaves_to_workers_what_they_read(archive: Archive) -> None:
    home = Path(archive.db.name).parent
    archive.file("/in/a.pdf", ["one"])
    archive.see("/in/notes.txt", rejection="unsupported")
    document = archive.see("/in/b.pdf")
    assert document is not None
    for page_id in archive.ingest(document, ["b0", "b1"]):
        archive.read(page_id, PageFailed("no", cause="engine"))
    archive.finish()
    told = call("retry", "--where", "page_number = 1", "--home", home).stdout
    assert (
        told == "1 page waits again; no worker is ready to read; where none is starting, start one: `pagepack worker`\n"
    )
    enlist(archive.db, "read/1", "read", 1, engine="rapidocr", model="m1")
    told = call("retry", "--home", home).stdout
    assert told.splitlines() == [
        "1 page waits again; workers that run read what waits",
        "1 file that was not taken in is looked at again when the same is run or submitted",
    ]
