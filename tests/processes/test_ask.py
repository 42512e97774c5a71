"""`pagepack ask` where somebody reads already: answered by them or beside them, it does not wait for their end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import done_pages, pagepack, processes_of, rows, start, wait_until, write_pdf

LONG = 90  # pages, at one a second; more than are read while a question is answered, on a slow machine too
READERS = "SELECT worker FROM attempts WHERE prompt LIKE 'ask: %'"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextmanager
def going_on(home: Path, *arguments: str | Path, engine: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A run or worker, until the block ends; its readers are ready."""
    process = start(*arguments, "--home", home, engine=engine, **variables)
    try:
        wait_until(lambda: process.poll() is not None or readers(home) != [])
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=600)


def readers(home: Path) -> list[str]:
    if not (home / "pagepack.db").exists() or not rows(
        home, "SELECT 1 FROM sqlite_master WHERE name = 'worker_processes'"
    ):
        return []
    return [owner for (owner,) in rows(home, "SELECT owner FROM worker_processes WHERE role != 'ingest'")]


def test_a_run_in_the_same_home_answers_with_its_own_readers(tmp_path: Path, home: Path) -> None:
    long, asked = write_pdf(tmp_path / "long.pdf", LONG), write_pdf(tmp_path / "asked.pdf", 2)
    few = {"PAGEPACK_MAX_WAITING_PAGES": "4"}  # most of them are never drawn
    with going_on(home, "run", long, engine="SlowestEngine", **few) as run:
        own = readers(home)
        answered = pagepack("ask", "Which?", asked, "--home", home, engine="BrokenEngine")  # its own would crash
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.count("ask: Which? of ") == 2
        assert "asking what reads here already: instant (instant/1)" in answered.stderr
        assert f"answers go to {home / 'pagepack.db'}" in answered.stderr.splitlines()
        assert run.poll() is None and done_pages(home) < LONG
        assert {worker for (worker,) in rows(home, READERS)} == set(own)
        again = pagepack("ask", "Which?", asked, "--home", home, engine="BrokenEngine")
        assert again.returncode == 0 and again.stdout == answered.stdout
        assert len(rows(home, READERS)) == 2


def test_a_worker_of_the_same_home_answers_and_devices_start_readers_of_ones_own(tmp_path: Path, home: Path) -> None:
    asked, other = write_pdf(tmp_path / "asked.pdf", 2), write_pdf(tmp_path / "other.pdf", 1)
    with going_on(home, "worker", engine="InstantEngine"):
        own = readers(home)
        answered = pagepack("ask", "Which?", asked, "--home", home, engine="BrokenEngine")
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.count("ask: Which? of ") == 2
        assert {worker for (worker,) in rows(home, READERS)} == set(own)
        beside = pagepack("ask", "Which?", other, "--home", home, "--devices", "0", engine="InstantEngine")
    assert beside.returncode == 0, beside.stderr
    assert "asking what reads here already" not in beside.stderr and "engine instant" in beside.stderr
    assert beside.stdout.count("ask: Which? of ") == 1  # by whichever of the two came first


def test_beside_a_run_that_answers_no_questions_it_has_readers_of_its_own(tmp_path: Path, home: Path) -> None:
    long, gate = write_pdf(tmp_path / "long.pdf", 10), tmp_path / "gate"
    with going_on(home, "run", long, engine="HeldOcrOnlyEngine", PAGEPACK_INTERNAL_GATE=str(gate)) as run:
        own = readers(home)
        answered = pagepack("ask", "Which?", long, "--pages", "2", "--home", home, engine="InstantEngine")
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.count("ask: Which? of ") == 1
        assert run.poll() is None and readers(home) == own
        before = done_pages(home)
        gate.touch()
        wait_until(lambda: done_pages(home) > before)
    assert not {worker for (worker,) in rows(home, READERS)} & set(own)
    assert list(home.glob("beside-*")) == [] and processes_of(home) == []
    assert rows(home, "SELECT count(*) FROM page_tasks WHERE state = 'leased'") == [(0,)]


def test_when_the_run_ends_before_the_answer_the_question_goes_on_here(tmp_path: Path, home: Path) -> None:
    long, asked = write_pdf(tmp_path / "long.pdf", 3), write_pdf(tmp_path / "asked.pdf", 2)
    with going_on(home, "run", long, engine="HangingEngine") as run:
        question = start("ask", "Which?", asked, "--home", home, engine="InstantEngine")
        wait_until(lambda: question.poll() is not None or len(rows(home, "SELECT 1 FROM batches")) == 2)
        os.killpg(run.pid, signal.SIGTERM)
        said, told = question.communicate(timeout=600)
    assert question.returncode == 0, told
    assert said.count("ask: Which? of ") == 2 and "its readers have ended" in told
    assert rows(home, "SELECT count(*) FROM batches") == [(2,)]
