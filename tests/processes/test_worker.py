"""`pagepack submit` and `pagepack worker`: what one process submits, others read; real processes, a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from celery import Celery

from pipeline.delivery.broker import delete_queues, enqueue_documents, enqueue_pages, make_app, queue_depth
from pipeline.errors import UsageError
from pipeline.supervisor.process_slots import process_slots
from schemas.messages import INGEST_QUEUE, READ_QUEUE
from tests.running import ROOT, call, pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf

Starter = Callable[..., "subprocess.Popen[str]"]
SMALL = {"PAGEPACK_MAX_SIDE_PX": "128", "PAGEPACK_INGEST_PROCESSES": "1"}
"""Pages are told apart at this size, and cost a tenth to draw and to read."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def worker(home: Path) -> Iterator[Starter]:
    """Starts workers of a home, and ends them after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, engine: str = "InstantEngine", **variables: str) -> subprocess.Popen[str]:
        started.append(start("worker", "--home", home, *arguments, engine=engine, **SMALL | variables))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    wait_until(lambda: not processes_of(home))


def folder_of(path: Path, documents: int, pages: int = 1) -> Path:
    path.mkdir()
    for index in range(documents):
        write_pdf(path / f"{path.name}{index}.pdf", pages)
    return path


def heard(process: subprocess.Popen[str], beginning: str, times: int = 2) -> list[str]:
    """What it said so, as soon as it has said it so often."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said += [line[line.index(beginning) :].rstrip()] if beginning in line else []
        if len(said) == times:
            break
    return said


def test_what_is_submitted_is_read_by_a_worker_that_was_started_later_and_submit_waits_for_the_end_as_run_does(
    tmp_path: Path, home: Path, worker: Starter
) -> None:
    folder = folder_of(tmp_path / "docs", 3, pages=2)
    submitted = call("submit", folder, "--home", home, "--json")
    assert submitted.returncode == 0, submitted.stderr
    batch_id = json.loads(submitted.stdout)["batch_id"]
    assert rows(home, "SELECT state FROM batch_summary") == [("running",)]
    process = worker()
    wait_until(lambda: rows(home, "SELECT state FROM batch_summary") == [("finished",)])
    assert rows(home, "SELECT batch_id, pages_done FROM batch_summary") == [(batch_id, 6)]
    reconciles(home)
    status = json.loads(call("status", "--home", home, "--json").stdout)
    assert {worker["role"] for worker in status["workers"]} == {"read", "ingest"}

    others = folder_of(tmp_path / "others", 2)
    (others / "notes.txt").write_text("no page")
    result = pagepack("submit", others, "--home", home, "--wait")
    assert result.returncode == 0, result.stderr
    assert "3 files seen: 2 done, 0 failed, 1 rejected" in result.stdout
    assert "1 file is of a kind that is not read: no failure" in result.stdout
    (others / "zero.pdf").touch()
    result = pagepack("submit", others, "--home", home, "--wait", "--ignore-unsupported")
    assert result.returncode == 1, result.stderr
    assert "3 files seen: 2 done, 0 failed, 1 rejected" in result.stdout
    assert "1 file is of a kind that is not read: ignored" in result.stdout

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == 0
    assert rows(home, "SELECT count(*) FROM worker_processes") == [(0,)]


def test_a_killed_reader_is_started_again_and_its_pages_are_read_once(
    tmp_path: Path, home: Path, worker: Starter
) -> None:
    """It has read six pages and holds what it has in hand; its successor begins with six of its own."""
    gate, died = tmp_path / "gate", "SELECT count(*) FROM task_attempts WHERE error = 'its worker died'"
    call("submit", folder_of(tmp_path / "docs", 1, pages=13), "--home", home)
    worker(engine="HeldEngine", PAGEPACK_INTERNAL_GATE=str(gate))
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_tasks WHERE state = 'done'") == [(6,)])
    wait_until(lambda: rows(home, "SELECT count(*) >= 4 FROM page_tasks WHERE state = 'leased'") == [(1,)])
    readers = [p for p in processes_of(home) if p.name() == "pagepack:read"]
    assert len(readers) == 1
    readers[0].kill()
    gate.touch()
    wait_until(lambda: rows(home, "SELECT state FROM batch_summary") == [("finished",)])
    assert rows(home, "SELECT pages_done, pages_failed FROM batch_summary") == [(13, 0)]
    assert rows(home, died) >= [(4,)]
    reconciles(home)


def test_a_reader_that_dies_at_every_page_is_started_less_and_less_often(
    tmp_path: Path, home: Path, worker: Starter
) -> None:
    """A broken GPU shall not condemn a backlog as fast as it can."""
    call("submit", folder_of(tmp_path / "in", 1, pages=4), "--home", home)
    broken = worker("--role", "both", engine="BrokenEngine")
    again = "the read worker died (exit code 139); starting it again"
    assert heard(broken, again) == [f"{again} in {seconds} s" for seconds in (2, 4)]
    died = "SELECT count(DISTINCT worker) FROM task_attempts WHERE error = 'its worker died'"
    assert rows(home, died) >= [(2,)]


def test_an_ingest_worker_that_cannot_start_is_started_less_and_less_often(
    tmp_path: Path, home: Path, worker: Starter
) -> None:
    """Something of the machine's, a library that breaks at its import: no busy loop, and the reader goes on.

    The first one is forked from the host, which has imported what it needs.
    """
    (tmp_path / "broken").mkdir()
    dies = "import os, sys\nif sys.orig_argv[-2:] == ['workers', 'ingest']: os._exit(3)\n"
    (tmp_path / "broken" / "sitecustomize.py").write_text(dies)
    call("db", "upgrade", "--home", home)
    broken = worker(PYTHONPATH=f"{tmp_path / 'broken'}:{ROOT}")
    wait_until(lambda: rows(home, "SELECT role FROM worker_processes ORDER BY 1") == [("ingest",), ("read",)])
    (first,) = (one for one in psutil.Process(broken.pid).children() if one.name() == "pagepack:ingest")
    first.kill()
    again = "the ingest worker died (exit code 3); starting it again"
    assert heard(broken, again) == [f"{again} in {seconds} s" for seconds in (4, 8)]


def test_ingest_holds_back_while_enough_pages_wait(tmp_path: Path, home: Path, worker: Starter) -> None:
    """20 may wait; of each of the two batches a transaction of 16 more, and what was in hand when it was seen."""
    for name in ("one", "two"):
        call("submit", folder_of(tmp_path / name, 3, pages=30), "--home", home, "--batch", name)
    worker(engine="HangingEngine", PAGEPACK_MAX_WAITING_PAGES="20", PAGEPACK_INGEST_PROCESSES="1")
    pages = "SELECT count(*) FROM pages"
    wait_until(lambda: rows(home, pages)[0][0] >= 20)
    most = 0
    for _ in range(15):  # each turn another document would be drawn
        most = max(most, int(rows(home, pages)[0][0]))
        time.sleep(0.2)
    assert most <= 20 + 2 * 16 + 16, most


def test_a_reader_of_one_prompt_leaves_the_other_to_its_successor(tmp_path: Path, home: Path, worker: Starter) -> None:
    """A batch that any model may read: nothing fails for having met a reader that cannot."""
    folder = folder_of(tmp_path / "in", 2, pages=3)
    call("submit", folder, "--home", home, "--prompt", "ocr", "--prompt", "describe")
    first = worker(engine="OcrOnlyEngine", PAGEPACK_LEASE_SECONDS="6")
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_text WHERE prompt = 'ocr'") == [(6,)])
    assert rows(home, "SELECT count(*) FROM failures") == [(0,)]
    first.terminate()
    first.wait(600)
    worker()
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_text WHERE prompt = 'describe'") == [(6,)])
    assert rows(home, "SELECT DISTINCT model FROM page_text WHERE prompt = 'describe'") == [("instant/1",)]


def test_a_run_on_a_broker_that_others_share_leaves_their_messages_alone(
    tmp_path: Path, home: Path, broker: str
) -> None:
    app = make_app(broker)
    enqueue_documents(app, [7])
    enqueue_pages(app, [7])
    ran = pagepack("run", folder_of(tmp_path / "in", 1), "--home", home, PAGEPACK_BROKER_URL=broker)
    assert ran.returncode == 0, ran.stderr
    stopped = make_app(broker, own=".run.stopped")  # one that Ctrl-C ended
    enqueue_pages(stopped, [1, 2])
    delete_queues(stopped)
    assert queue_depth(app, INGEST_QUEUE) == queue_depth(app, READ_QUEUE) == 1
    with app.connection_for_read() as connection:
        assert not connection.default_channel.client.keys("pagepack.*.run.*")


# When the last page of the small one was answered, how many of the big one's had been since pages of both waited.
ANSWERED_MEANWHILE = """
  WITH of_small AS (
    SELECT min(p.created_at) AS come, max(a.id) AS last_answer FROM batches b
      JOIN documents d ON d.batch_id = b.id JOIN pages p ON p.document_id = d.id
      JOIN answer_versions a ON a.image_hash = p.image_hash WHERE b.name = 'small')
  SELECT count(*) FROM of_small, answer_versions a JOIN pages p ON p.image_hash = a.image_hash
    JOIN documents d ON d.id = p.document_id JOIN batches b ON b.id = d.batch_id
    WHERE b.name = 'big' AND a.created_at > come AND a.id < last_answer"""


def test_a_small_batch_does_not_wait_behind_a_huge_one_which_is_paused_resumed_and_cancelled(
    tmp_path: Path, home: Path, worker: Starter
) -> None:
    big, small = folder_of(tmp_path / "big", 1, pages=160), folder_of(tmp_path / "small", 1, pages=4)
    of_big = "SELECT {} FROM batch_summary WHERE name = 'big'"
    call("submit", big, "--home", home, "--batch", "big")
    slow = worker(engine="SlowerEngine")
    wait_until(lambda: rows(home, "SELECT count(*) > 4 FROM page_tasks WHERE state = 'done'") == [(1,)])
    pagepack("submit", small, "--home", home, "--batch", "small", "--wait", engine="SlowerEngine")
    assert rows(home, of_big.format("state")) == [("running",)]
    [(meanwhile,)] = rows(home, ANSWERED_MEANWHILE)
    assert meanwhile < 80

    assert call("pause", "big", "--home", home).returncode == 0
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_tasks WHERE state = 'leased'") == [(0,)])
    done = rows(home, of_big.format("pages_done"))
    assert call("pause", "big", "--home", home).returncode == 0, "it may be repeated"
    assert rows(home, of_big.format("state")) == [("paused",)]
    assert rows(home, of_big.format("pages_done")) == done != [(160,)]
    assert call("resume", "big", "--home", home).returncode == 0
    wait_until(lambda: rows(home, of_big.format("pages_done")) > done)
    assert call("cancel", "big", "--home", home).returncode == 0
    assert rows(home, of_big.format("state")) == [("cancelled",)]
    assert rows(home, "SELECT DISTINCT cause FROM failures") == [("cancelled",)]
    slow.terminate()
    slow.wait(600)
    worker()
    again = pagepack("submit", big, "--home", home, "--batch", "big", "--wait")
    assert again.returncode == 0, again.stderr
    assert rows(home, of_big.format("state, pages_done, pages_failed")) == [("finished", 160, 0)]
    reconciles(home)


def test_a_higher_priority_goes_first(tmp_path: Path, home: Path, worker: Starter) -> None:
    """Pages of both wait before any is read; those of the urgent one, submitted last, are read first."""
    big, small = folder_of(tmp_path / "big", 1, pages=24), folder_of(tmp_path / "small", 1, pages=24)
    call("submit", big, "--home", home, "--batch", "big")
    call("submit", small, "--home", home, "--batch", "small", "--priority", "5")
    ingest = worker("--role", "ingest")
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_tasks") == [(48,)])
    ingest.terminate()
    assert ingest.wait(600) == 0
    worker("--role", "read", engine="SlowEngine")
    wait_until(lambda: rows(home, "SELECT state FROM batch_summary WHERE name = 'small'") == [("finished",)])
    [(meanwhile,)] = rows(home, ANSWERED_MEANWHILE)
    assert meanwhile < 20


def test_anyone_asks_for_a_document_in_a_message_and_is_told_of_each(
    tmp_path: Path, home: Path, worker: Starter, broker: str
) -> None:
    path = write_pdf(tmp_path / "asked.pdf", 5)
    call("db", "upgrade", "--home", home)
    worker(PAGEPACK_BROKER_URL=broker)
    stranger = Celery("stranger", broker=broker)

    def ask(**message: object) -> None:
        stranger.send_task("pagepack.submit_document", kwargs=message, queue="pagepack.ingest")

    ask(location=str(path), batch="by message", pages="2-3", prompts=["ocr", "describe"])
    ask(location=str(tmp_path / "gone.pdf"), batch="by message")
    ask(location=str(path), batch="nonsense", prompts=["no such prompt"])
    ask(location=str(path), batch="of tomorrow", version=2)
    ask(location=str(path), batch="no number of the database", priority=2**40)
    ask(location=str(path), batch="no name" * 500)
    stranger.send_task("pagepack.read_page", kwargs={"page": "one"}, queue="pagepack.read")
    wait_until(lambda: rows(home, "SELECT count(*) FROM page_text") == [(4,)])
    assert make_app(broker, events=True).control.ping(timeout=1.5) == [], "without PAGEPACK_CELERY_EVENTS"
    pages = rows(home, "SELECT page_number, prompt FROM page_text ORDER BY 1, 2")
    assert pages == [(2, "describe"), (2, "ocr"), (3, "describe"), (3, "ocr")]
    causes = "SELECT b.name, f.cause FROM failures f JOIN batch_summary b USING (batch_id) ORDER BY 1"
    wait_until(lambda: rows(home, causes) == [("by message", "missing"), ("nonsense", "message")])
    assert rows(home, "SELECT DISTINCT name FROM batch_summary ORDER BY 1") == [("by message",), ("nonsense",)]
    for wrong in (("--priority", str(2**40)), ("--batch", "no name" * 500)):
        refused = call("submit", path, "--home", home, *wrong)
        assert refused.returncode == 2 and wrong[0] in refused.stderr and "Traceback" not in refused.stderr

    folder = folder_of(tmp_path / "docs", 3, pages=2)
    asked = call("submit", folder, "--home", home, "--notify", "mine.document_done@mine")
    assert asked.returncode == 0, asked.stderr
    wait_until(lambda: rows(home, "SELECT count(*) FROM notices WHERE sent_at IS NOT NULL") == [(3,)])
    told = set()
    with Celery("mine", broker=broker).connection_for_read() as connection:
        queue = connection.SimpleQueue("mine")
        while len(told) < 3:
            message = queue.get(timeout=600)
            message.ack()
            assert message.headers["task"] == "mine.document_done"
            told.add(message.payload[1]["document_id"])
    asked_for = "SELECT DISTINCT document_id FROM files WHERE source_path LIKE '%/docs/%'"
    assert told == {row for (row,) in rows(home, asked_for)}
    assert call("submit", folder, "--home", home, "--notify", "no task").returncode == 2


def test_a_worker_without_a_broker_of_its_own_says_what_is_wrong(home: Path) -> None:
    nobody = pagepack("worker", "--home", home, PAGEPACK_BROKER_URL="redis://user:secret@127.0.0.1:1/0")
    assert nobody.returncode == 4 and "redis://user:***@127.0.0.1:1/0 does not answer" in nobody.stderr
    nonsense = pagepack("worker", "--home", home, PAGEPACK_BROKER_URL="gopher://x")
    assert nonsense.returncode == 2 and "PAGEPACK_BROKER_URL gopher://x" in nonsense.stderr
    assert "secret" not in nobody.stderr + nobody.stdout


def test_there_is_a_process_slot_for_each_device() -> None:
    assert [slot.name for slot in process_slots("both", "0, 2")] == ["read-0", "read-2", "ingest"]
    assert [slot.name for slot in process_slots("ingest", None)] == ["ingest"]
    for role, devices in (("read", "0,0"), ("read", "zero"), ("ingest", "0")):
        with pytest.raises(UsageError, match="--devices"):
            process_slots(role, devices)
