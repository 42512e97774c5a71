"""docs/consumer.py as a user runs it: other processes ask by message and are told, through a real broker."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.delivery.embedded_broker import server_binary
from tests.running import ROOT, environment, pagepack, rows, start_host, wait_until, write_pdf


@dataclass
class Place:
    """A home, a broker of its own, and the processes around them."""

    folder: Path
    broker_url: str = ""
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PAGEPACK_BROKER_URL": self.broker_url,
            "PAGEPACK_HOME": str(self.home),
            "MINE": str(self.folder / "mine.db"),
        }

    def start(self, *command: str) -> None:
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=environment("InstantEngine", **self.variables),
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def letters(self) -> list[tuple[Any, ...]]:
        """What the consumer noted."""
        with sqlite3.connect(self.folder / "mine.db", timeout=60) as mine:
            if not mine.execute("SELECT * FROM sqlite_master WHERE name = 'letters'").fetchall():
                return []
            return mine.execute("SELECT document_id, words, state FROM letters ORDER BY document_id").fetchall()

    def ask(self, *paths: Path) -> None:
        command = [sys.executable, "-m", "docs.consumer", *map(str, paths)]
        subprocess.run(command, env=environment("", **self.variables), cwd=ROOT, check=True, timeout=600)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def place(tmp_path: Path, migrated: Path) -> Iterator[Place]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = Place(tmp_path, f"redis://127.0.0.1:{port}/0")
    binary = server_binary()
    assert binary is not None
    with ExitStack() as stack:
        stack.callback(place.stop)
        place.start(binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path))
        with redis.Redis(port=port, retry=None) as client:
            wait_until(lambda: answers(client))
        place.home.mkdir()
        shutil.copy(migrated, place.home)  # nobody has to wait until the host has made it
        place.processes.append(
            start_host(place.home, environment("InstantEngine", **place.variables), tmp_path / "host.log")
        )
        yield place


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def consume(place: Place) -> None:
    place.start(
        sys.executable, "-m", "celery", "--app", "docs.consumer", "worker", "--queues", "mine", "--pool", "solo"
    )


def test_a_consumer_asks_by_message_and_is_told_of_each_document_and_of_each_that_failed(
    place: Place, tmp_path: Path
) -> None:
    consume(place)
    place.ask(write_pdf(tmp_path / "a.pdf", 3), write_pdf(tmp_path / "b.pdf", 1))
    wait_until(lambda: len(place.letters()) == 2)
    pages = dict(rows(place.home, "SELECT document_id, count(*) FROM page_text GROUP BY 1"))
    assert place.letters() == [(document, 3 * pages[document], "done") for document in sorted(pages)]
    assert rows(place.home, "SELECT name, files_done FROM batch_summary") == [("letters", 2)]
    wait_until(lambda: rows(place.home, "SELECT count(*) FROM notices WHERE sent_at IS NULL") == [(0,)])

    damaged = tmp_path / "damaged.pdf"
    damaged.write_bytes(b"%PDF-1.7 cut short")
    place.ask(damaged, tmp_path / "nothing here.pdf")
    wait_until(lambda: sorted(state for *_, state in place.letters()) == ["done", "done", "rejected"])
    wait_until(lambda: len(rows(place.home, "SELECT cause FROM failures")) == 2)
    assert sorted(rows(place.home, "SELECT cause FROM failures")) == [("damaged",), ("missing",)]


def test_who_was_away_or_is_told_twice_has_each_document_once(place: Place, tmp_path: Path) -> None:
    submitted = pagepack(
        "submit", write_pdf(tmp_path / "a.pdf", 2), "--notify", "mine.document_done@mine", "--wait", **place.variables
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: rows(place.home, "SELECT count(*) FROM notices WHERE sent_at IS NOT NULL") == [(1,)])
    with sqlite3.connect(place.home / "pagepack.db", timeout=60) as database:  # as if the sender had died before this
        database.execute("UPDATE notices SET sent_at = NULL")
    wait_until(lambda: rows(place.home, "SELECT count(*) FROM notices WHERE sent_at IS NOT NULL") == [(1,)])
    with redis.Redis.from_url(place.broker_url) as client:
        assert client.llen("mine") == 2
        consume(place)
        wait_until(lambda: client.llen("mine") == 0 and len(place.letters()) == 1)
    assert [words for _, words, _ in place.letters()] == [6]


def test_one_refused_notice_holds_up_no_other_and_who_may_ask_may_do_nothing_else(place: Place, tmp_path: Path) -> None:
    """The second of the broker's user as documented."""
    with redis.Redis.from_url(place.broker_url) as client:
        client.set("blocked", "no queue")
        for name, target in (("a", "theirs.done@blocked"), ("b", "mine.done@mine")):
            document = write_pdf(tmp_path / f"{name}.pdf", 1)
            done = pagepack("submit", document, "--notify", target, "--wait", **place.variables)
            assert done.returncode == 0, done.stderr
        wait_until(lambda: client.llen("mine") == 1)
        wait_until(lambda: rows(place.home, "SELECT count(*) FROM notices WHERE sent_at IS NULL") == [(1,)])
        client.delete("blocked")
        wait_until(lambda: client.llen("blocked") == 1)
        assert client.llen("mine") == 1

    (words,) = re.findall(r"ACL (SETUSER .*)", (ROOT / "docs" / "consumers.md").read_text())
    with redis.Redis.from_url(place.broker_url) as client:
        client.execute_command("ACL", *words.split())
    place.broker_url = place.broker_url.replace("//", "//letters:PASSWORD@")
    place.ask(write_pdf(tmp_path / "c.pdf", 1))
    wait_until(lambda: rows(place.home, "SELECT files_done FROM batch_summary WHERE name = 'letters'") == [(1,)])
    with redis.Redis.from_url(place.broker_url) as client:
        for forbidden in (["LPUSH", "pagepack.read", "x"], ["BRPOP", "pagepack.ingest", "1"], ["KEYS", "*"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)


def test_the_example_needs_nothing_of_pagepack() -> None:
    code = "import sys, docs.consumer; sys.exit(bool({'pipeline', 'schemas', 'workers'} & set(sys.modules)))"
    given = {**os.environ, "PAGEPACK_BROKER_URL": "redis://127.0.0.1:1/0"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, timeout=600).returncode == 0
