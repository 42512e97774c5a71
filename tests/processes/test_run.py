"""`pagepack run` as a user meets it: real processes, a real broker, a real database, real kills."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.documents.files import UNSUPPORTED_FACT
from pipeline.ingest.submission import submit
from pipeline.settings import Settings
from schemas.prompts import OCR
from tests.running import call, done_pages, pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_folder_becomes_rows(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 3)
    (folder / "sub dir").mkdir()
    write_pdf(folder / "sub dir" / "b 'quoted' \"name\".pdf", 2)
    (folder / "notes.txt").write_text("no page")
    (folder / ".hidden.pdf").write_bytes(b"%PDF-")
    result = pagepack("run", folder, "--home", home, fresh=True)
    assert result.returncode == 0, result.stderr  # notes.txt is rejected, for its kind alone
    assert "3 files seen: 2 done, 0 failed, 1 rejected" in result.stdout
    pages = rows(home, "SELECT source_path, page_number, text FROM page_text ORDER BY 1, 2")
    assert [Path(path).name for path, *_ in pages] == ["a.pdf"] * 3 + ["b 'quoted' \"name\".pdf"] * 2
    assert len({text for *_, text in pages}) == 5
    assert rows(home, "SELECT cause FROM failures") == [("unsupported",)]
    reconciles(home)
    assert processes_of(home) == []


def test_the_summary_names_what_was_not_read_of_this_batch_alone(folder: Path, home: Path) -> None:
    (folder / "before.txt").write_text("no page")
    assert call("submit", folder, "--home", home).returncode == 0
    others = folder.parent / "others"
    others.mkdir()
    for number in range(12):
        (others / f"{number:02}.txt").write_text(f"no page {number}")
    result = pagepack("run", others, "--home", home)
    lines = result.stdout.splitlines()
    assert lines[0] == "12 files seen: 0 done, 0 failed, 12 rejected"
    assert lines[1].startswith("0 pages: 0 done, 0 failed, in ")
    assert lines[2] == "  12 × unsupported"
    named = [f"  {others / f'{number:02}.txt'} {UNSUPPORTED_FACT}" for number in range(10)]
    assert lines[3:13] == named
    assert lines[13].startswith("  and 2 more: pagepack sql --home ")
    assert lines[14] == f"text in {home / 'pagepack.db'}"
    assert lines[15].startswith("read:  pagepack sql --home ") and len(lines) == 17
    word = "12 files are of a kind that is not read: no failure; --ignore-unsupported leaves such files out"
    assert lines[16] == word


def test_the_summary_names_pages_worth_a_look(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 3, dark=1)
    (folder / "copy.pdf").write_bytes((folder / "a.pdf").read_bytes())
    sound = pagepack("run", folder, "--home", home, "--pages", "1,3", engine="DoubtfulEngine")
    assert sound.returncode == 0 and "look" not in sound.stdout, sound.stderr
    prompts = ("--prompt", "ocr", "--prompt", "describe")
    result = pagepack("run", folder, "--home", home, *prompts, engine="DoubtfulEngine")
    assert result.returncode == 0, "they were read"
    lines = result.stdout.splitlines()
    assert "worth a look: length (1 page), low-confidence (2 pages)" in lines
    (look,) = [line for line in lines if line.startswith("look:  pagepack ")]
    words = shlex.split(look.removeprefix("look:  pagepack "))
    listed = json.loads(call(*words, "--json").stdout)
    assert {(Path(row["source_path"]).name, row["page_number"]) for row in listed} == {
        (name, number) for name in ("a.pdf", "copy.pdf") for number in (1, 2, 3)
    }
    assert sum(row["reason"] == "length" for row in listed) == 4, "two prompts, two paths"
    again = pagepack("run", folder, "--home", home, *prompts, "--json", engine="DoubtfulEngine")
    assert json.loads(again.stdout)["pages_worth_a_look"] == {"length": 1, "low-confidence": 2}
    status = call("status", "--home", home).stdout
    assert re.search(r"look +length \(1 page\), low-confidence \(2 pages\)", status)


def test_the_same_command_again_reads_what_is_new_and_a_later_prompt_draws_lost_images_again(
    folder: Path, home: Path
) -> None:
    """Its speed is of what this run read. A changed file is a new document: its path shows what lies there now."""

    def read(*more: str) -> str:
        result = pagepack("run", folder, "--home", home, "--prompt", "ocr", "--prompt", "describe", *more)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def speed(of: str, count: int) -> str:
        assert rows(home, "SELECT count(*) FROM attempts") == [(count,)]
        (line,) = [line for line in of.splitlines() if " pages: " in line]
        return line

    write_pdf(folder / "a.pdf", 4)
    assert re.fullmatch(r"4 pages: 4 done, 0 failed, in .* \([\d.]+ pages/s\)", speed(read(), 8))
    images = sorted((home / "images").rglob("*.png"))
    write_pdf(folder / "b.pdf", 2)
    assert re.fullmatch(r"6 pages: 6 done, 0 failed, in .* \(2 of them now, [\d.]+ pages/s\)", speed(read(), 12))
    assert re.fullmatch(r"6 pages: 6 done, 0 failed, in [^(]*", speed(read(), 12))
    told = json.loads(read("--json"))
    assert (told["pages_done"], told["pages_done_now"]) == (6, 0)
    assert rows(home, "SELECT count(*), sum(files_done) FROM batch_summary") == [(1, 2)]

    images[0].unlink()
    images[1].write_bytes(b"")  # as a power cut may leave it
    (folder.parent / "later.txt").write_text("What is the title?")
    write_pdf(folder / "c.pdf", 3).rename(folder / "b.pdf")
    read("--prompt-file", str(folder.parent / "later.txt"))
    assert rows(home, "SELECT count(*) FROM page_text WHERE prompt NOT IN ('ocr', 'describe')") == [(7,)]
    assert rows(home, "SELECT count(*) FROM page_text WHERE source_path LIKE '%b.pdf' AND prompt = 'ocr'") == [(3,)]
    counts = "SELECT files_done, pages_done FROM batch_summary ORDER BY started_at"
    assert rows(home, counts) == [(2, 6), (2, 7)], "the old batch keeps its counts"


def test_a_question_is_asked_of_the_chosen_pages_only(folder: Path, home: Path) -> None:
    """A stray text beside them is named, and is no failure."""
    write_pdf(folder / "a.pdf", 5)
    (folder / "notes.txt").write_text("no page")
    question = ["ask", 'What\'s "here"?', folder, "--pages", "2-3,5"]
    result = pagepack(*question, "--home", home, "--json")
    assert result.returncode == 0, result.stderr
    assert "notes.txt is no PDF, image, office document" in result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["page_number"] for answer in answers] == [2, 3, 5]
    assert all(answer["answer"].startswith("ask: What's") for answer in answers)
    assert rows(home, "SELECT state, pages_done FROM files WHERE file_name = 'a.pdf'") == [("done", 3)]
    again = pagepack(*question, "--home", home, "--json")
    assert again.stdout == result.stdout
    assert rows(home, "SELECT count(*) FROM attempts") == [(3,)]
    assert call("ask", "why?", folder, "--pages", "3-1", "--home", home).returncode == 2
    refused = call("ask", "why?", folder, "--home", home, PAGEPACK_INTERNAL_ENGINE="")
    assert refused.returncode == 2 and "answers ocr only" in refused.stderr


def test_one_content_at_three_hundred_paths_is_read_once(folder: Path, home: Path) -> None:
    content = write_pdf(folder / "0.pdf", 1).read_bytes()
    for index in range(1, 300):
        (folder / f"{index}.pdf").write_bytes(content)
    assert pagepack("run", folder, "--home", home).returncode == 0
    assert rows(home, "SELECT count(*) FROM attempts") == [(1,)]
    assert rows(home, "SELECT count(*), count(DISTINCT document_id) FROM page_text") == [(300, 1)]
    assert rows(home, "SELECT files_seen, files_done, pages_total FROM batch_summary") == [(300, 300, 1)]


def test_killed_in_the_middle_it_goes_on_and_reads_no_finished_page_again(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    """Killed when it has begun its database, then when it has read some pages: at most six each time."""
    write_pdf(folder / "a.pdf", 14)
    log, gate = tmp_path / "began", tmp_path / "gate"
    variables = {"PAGEPACK_INTERNAL_LOG": str(log), "PAGEPACK_INTERNAL_GATE": str(gate)}
    for count in (0, 6):
        run = start("run", folder, "--home", home, engine="HeldEngine", **variables)
        wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= count)  # noqa: B023
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        wait_until(lambda: processes_of(home) == [])  # workers and broker die with it
    finished = {text.split()[-1] for (text,) in rows(home, "SELECT text FROM page_text")}
    assert 6 <= len(finished) < 14
    log.write_text("")
    gate.touch()
    last = pagepack("run", folder, "--home", home, engine="HeldEngine", **variables)
    assert last.returncode == 0, last.stderr
    assert len(rows(home, "SELECT * FROM page_text")) == 14
    began = log.read_text().split()
    assert len(began) == 14 - len(finished) and finished.isdisjoint(began)
    assert rows(home, "SELECT count(*) FROM page_tasks WHERE crashes > 0") == [(0,)]  # no page is to blame
    reconciles(home)


def test_a_killed_part_is_started_again(folder: Path, home: Path, tmp_path: Path) -> None:
    """Who draws, while some pages are not drawn, then who brings the messages; who reads is killed by a page below."""
    write_pdf(folder / "a.pdf", 40)
    gate = tmp_path / "gate"
    variables = {"PAGEPACK_MAX_WAITING_PAGES": "5", "PAGEPACK_INTERNAL_GATE": str(gate)}
    run = start("run", folder, "--home", home, engine="HeldEngine", **variables)
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= 3)
    assert run.stderr is not None

    def parts(name: str) -> list[psutil.Process]:  # one that was started again just now has its name later
        with suppress(psutil.NoSuchProcess):
            return [one for one in processes_of(home) if name in " ".join([one.name(), *one.cmdline()])]
        return []

    for victim, said in (("pagepack:ingest", "the ingest worker died"), ("valkey-server", "the embedded broker died")):
        wait_until(lambda: run.poll() is not None or bool(parts("pagepack:ingest") and parts(victim)))  # noqa: B023
        for process in parts(victim):
            with suppress(psutil.NoSuchProcess):  # the broker's guard ends with it
                process.kill()
        assert any(said in line for line in run.stderr), "before the next one is killed"
        assert rows(home, "SELECT count(*) < 40 FROM pages") == [(1,)], "something is left to draw"
    gate.touch()
    output, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert "40 pages: 40 done" in output
    reconciles(home)


def test_a_page_that_kills_its_worker_fails_and_its_neighbours_are_read(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 4, dark=2)
    result = pagepack("run", folder, "--home", home, engine="CrashingEngine", PAGEPACK_MAX_CRASHES="2")
    assert result.returncode == 1, result.stderr
    failures = rows(home, "SELECT page_number, cause FROM failures")
    assert failures == [(3, "crash")]  # those in flight with it were read alone, and are innocent
    read = {number for (number,) in rows(home, "SELECT page_number FROM page_text")}
    assert read == {1, 2, 4}
    reconciles(home)


def test_a_page_at_which_the_engine_hangs_fails(folder: Path, home: Path) -> None:
    """Past its deadline by far, nothing but the end of the process frees what it holds."""
    write_pdf(folder / "a.pdf", 1)
    limits = {"PAGEPACK_PAGE_SECONDS": "1", "PAGEPACK_MAX_CRASHES": "1"}
    result = pagepack("run", folder, "--home", home, engine="HangingEngine", **limits)
    assert result.returncode == 1, result.stderr
    assert rows(home, "SELECT page_number, cause FROM failures") == [(1, "crash")]
    reconciles(home)


def test_an_interrupted_batch_holds_up_no_other_and_may_be_asked_again_otherwise(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    """More of its pages wait than may wait to be read, with nobody to read them."""
    write_pdf(folder / "a.pdf", 12)
    named = ["run", folder, "--home", home, "--batch", "mine"]
    run = start(*named, engine="HangingEngine")
    leased = "SELECT count(*) FROM page_tasks WHERE state = 'leased'"
    wait_until(lambda: (home / "pagepack.db").exists() and rows_or_none(home, leased) > 0)
    wait_until(lambda: rows(home, "SELECT count(*) FROM documents WHERE state <> 'ready'") == [(0,)])
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    wait_until(lambda: processes_of(home) == [])

    other = tmp_path / "other"
    other.mkdir()
    write_pdf(other / "b.pdf", 20)
    assert pagepack("run", other, "--home", home, PAGEPACK_MAX_WAITING_PAGES="5").returncode == 0
    some = pagepack("run", folder, "--home", home, "--pages", "1-2")  # the killed one waits for the other ten
    assert some.returncode == 0 and "2 pages: 2 done" in some.stdout
    prompts = "SELECT prompt, count(*) FROM page_text WHERE source_path LIKE '%a.pdf' GROUP BY 1 ORDER BY 1"
    assert pagepack(*named, "--prompt", "describe").returncode == 0
    assert rows(home, prompts) == [("describe", 12), ("ocr", 2)]
    assert pagepack(*named).returncode == 0
    assert rows(home, prompts) == [("describe", 12), ("ocr", 12)]
    assert rows(home, "SELECT DISTINCT state FROM batch_summary") == [("finished",)]


def test_a_file_that_comes_back_is_taken_in(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 2)
    write_pdf(folder / "b.pdf", 1)
    # As a run of these tests' engine that was killed before ingest.
    submit(
        Settings(home=home), [folder], [OCR], None, [], 0, None, lambda _: None, lambda: False, "instant", "instant/1"
    )
    (folder / "a.pdf").rename(folder.parent / "a.pdf")
    assert pagepack("run", folder, "--home", home).returncode == 0  # it is no part of the folder now
    (folder.parent / "a.pdf").rename(folder / "a.pdf")
    assert pagepack("run", folder, "--home", home).returncode == 0
    assert rows(home, "SELECT files_seen, files_done, pages_done FROM batch_summary") == [(2, 2, 3)]


def test_an_absent_broker_stops_the_run(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 1)
    nonsense = call("run", folder, "--home", home, PAGEPACK_BROKER_URL="foo")
    assert nonsense.returncode == 2 and "PAGEPACK_BROKER_URL" in nonsense.stderr


def test_ctrl_c_is_clean_at_any_moment(folder: Path, home: Path) -> None:
    """While Python starts and imports, and when the run has its home and starts what it needs."""
    write_pdf(folder / "a.pdf", 4)
    of_python = ("Fatal Python error: init_", "Could not import runpy module")
    for number, (fresh, seconds) in enumerate([(True, 0.05), (True, 0.4), (False, 0.0), (False, 0.3)]):
        run = start("run", folder, "--home", home / f"{number}", engine="SlowEngine", fresh=fresh)
        if not fresh:
            wait_until((home / f"{number}").exists)
        time.sleep(seconds)
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=600)
        if run.returncode == -signal.SIGINT or any(words in errors for words in of_python):
            continue  # before Python read our first line
        assert run.returncode in (130, 0), errors
        assert "Traceback" not in errors
    wait_until(lambda: processes_of(home) == [])


def test_a_second_run_is_refused_and_ctrl_c_gives_pages_back_and_says_how_to_go_on(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    write_pdf(folder / "a.pdf", 12)
    held = {"PAGEPACK_INTERNAL_GATE": str(tmp_path / "never"), "PAGEPACK_GRACE_SECONDS": "2"}
    run = start("run", folder, "--home", home, engine="HeldEngine", **held)
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= 6)
    second = pagepack("run", folder, "--home", home)
    assert second.returncode == 2
    assert "is in use by `pagepack run` with process id" in second.stderr
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    said = next(line for line in run.stderr if line.startswith("stopping; "))
    assert "in hand may take up to 2 s; Ctrl-C again to stop now" in said
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 130
    assert "Run the same command again to go on" in errors and "Traceback" not in errors
    assert processes_of(home) == []
    assert rows(home, "SELECT count(*) FROM page_tasks WHERE owner IS NOT NULL") == [(0,)]
    assert pagepack("run", folder, "--home", home).returncode == 0
    reconciles(home)


def test_a_second_ctrl_c_stops_at_once(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 4)
    prompts = ("--prompt", "ocr", "--prompt", "describe")
    run = start("run", folder, "--home", home, *prompts, engine="HangingEngine", PAGEPACK_GRACE_SECONDS="600")
    leased = "SELECT count(*) FROM page_tasks WHERE state = 'leased'"
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) == 0 and rows_or_none(home, leased) == 8)
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    said = next(line for line in run.stderr if line.startswith("stopping"))  # at once, and it waits for its pages
    assert said == "stopping; 4 pages in hand may take up to 600 s; Ctrl-C again to stop now\n"
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=600)
    assert run.returncode == 130
    assert processes_of(home) == []


def rows_or_none(home: Path, statement: str) -> int:
    try:
        return int(rows(home, statement)[0][0])
    except sqlite3.OperationalError:
        return 0


def test_paths_and_homes_that_do_not_fit_are_named(folder: Path, home: Path) -> None:
    missing = call("run", folder / "nothing here", "--home", home)
    assert missing.returncode == 2 and "no such file or folder" in missing.stderr
    empty = call("run", folder, "--home", home)
    assert empty.returncode == 3 and "no file found" in empty.stderr
    assert not home.exists()  # a typing error leaves nothing behind
    absent = call("status", "--home", home)
    assert absent.returncode == 2 and "no database" in absent.stderr
    assert call("run").returncode == 2
    odd = call("run", folder, PAGEPACK_LEASE_SECONDS="soon")
    assert odd.returncode == 2 and "PAGEPACK_LEASE_SECONDS" in odd.stderr
    unknown = call("run", folder, PAGEPACK_LEASE="60")
    assert unknown.returncode == 2 and "PAGEPACK_LEASE is not a setting" in unknown.stderr
    write_pdf(folder / "a.pdf", 1)
    blocked = folder.parent / "file"
    blocked.write_text("")
    not_a_folder = call("run", folder, "--home", blocked / "home")
    assert not_a_folder.returncode == 2 and "cannot be written" in not_a_folder.stderr


def test_a_database_of_a_newer_version_is_left_alone(folder: Path, home: Path) -> None:
    write_pdf(folder / "a.pdf", 1)
    assert call("db", "upgrade", "--home", home).returncode == 0
    with sqlite3.connect(home / "pagepack.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    result = pagepack("run", folder, "--home", home)
    assert result.returncode == 2
    assert "newer pagepack (revision 9999)" in result.stderr
