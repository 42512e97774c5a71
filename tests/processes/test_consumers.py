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

pytestmark = pytest.mark.xdist_group("consumers")


@dataclass
class Place:
    """Where a test asks and is told: a home and a broker that all tests share, and a consumer's notes of its own."""

    folder: Path
    home: Path
    broker_url: str
    notices_before: int
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PAGEPACK_BROKER_URL": self.broker_url,
            "PAGEPACK_HOME": str(self.home),
            "MINE": str(self.folder / "mine.db"),
        }

    def consume(self) -> None:
        words = ["celery", "--app", "docs.consumer", "worker", "--queues", "mine", "--pool", "solo"]
        with (self.folder / "consumer.log").open("wb") as log:
            command = [sys.executable, "-m", *words]
            given = environment("InstantEngine", **self.variables)
            self.processes.append(
                subprocess.Popen(command, env=given, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
            )

    def letters(self) -> list[tuple[Any, ...]]:
        """What the consumer noted."""
        with sqlite3.connect(self.folder / "mine.db", timeout=60) as mine:
            if not mine.execute("SELECT * FROM sqlite_master WHERE name = 'letters'").fetchall():
                return []
            return mine.execute("SELECT document_id, words, state FROM letters ORDER BY document_id").fetchall()

    def notices(self, are_sent: bool) -> int:
        """How many of this test's."""
        of_these = f"id > {self.notices_before} AND sent_at IS {'NOT NULL' if are_sent else 'NULL'}"
        return int(rows(self.home, f"SELECT count(*) FROM notices WHERE {of_these}")[0][0])

    def ask(self, *paths: Path) -> None:
        command = [sys.executable, "-m", "docs.consumer", *map(str, paths)]
        subprocess.run(command, env=environment("", **self.variables), cwd=ROOT, check=True, timeout=600)


def stop(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[tuple[Path, str]]:
    """A home with workers, and a broker of its own on a port: (home, the broker's URL)."""
    folder = tmp_path_factory.mktemp("consumers")
    home = folder / "home"
    home.mkdir()
    shutil.copy(migrated, home)  # nobody has to wait until the host has made it
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"redis://127.0.0.1:{port}/0"
    binary = server_binary()
    assert binary is not None
    with ExitStack() as stack:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        broker = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        stack.callback(stop, broker)
        with redis.Redis(port=port, retry=None) as client:
            wait_until(lambda: answers(client))
        variables = {"PAGEPACK_BROKER_URL": url, "PAGEPACK_HOME": str(home), "PAGEPACK_INGEST_PROCESSES": "1"}
        host = start_host(home, environment("InstantEngine", **variables), folder / "host.log")
        stack.callback(stop, host)
        yield home, url


@pytest.fixture
def place(installation: tuple[Path, str], tmp_path: Path) -> Iterator[Place]:
    home, url = installation
    place = Place(tmp_path, home, url, rows(home, "SELECT coalesce(max(id), 0) FROM notices")[0][0])
    yield place
    for process in place.processes:
        stop(process)
    with redis.Redis.from_url(url) as client:
        client.delete("blocked")  # a test that failed may leave a key there to which no notice can be sent
        wait_until(lambda: rows(home, "SELECT count(*) FROM notices WHERE sent_at IS NULL") == [(0,)])
        client.delete("mine", "blocked")  # the next test finds its queues empty


def test_a_consumer_asks_by_message_and_is_told_of_each_document_and_of_each_that_failed(
    place: Place, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.pdf"
    damaged.write_bytes(b"%PDF-1.7 cut short")
    place.consume()
    sound = write_pdf(tmp_path / "long.pdf", 3), write_pdf(tmp_path / "short.pdf", 1)
    place.ask(*sound, damaged, tmp_path / "nothing here.pdf")
    wait_until(lambda: len(place.letters()) == 3)
    here = f"source_path LIKE '{tmp_path}/%'"
    pages = dict(rows(place.home, f"SELECT document_id, count(*) FROM page_text WHERE {here} GROUP BY 1"))
    assert len(pages) == 2
    (rejected,) = {document for document, *_ in place.letters()} - pages.keys()
    told = [(document, 3 * count, "done") for document, count in pages.items()]
    assert place.letters() == sorted([*told, (rejected, 0, "rejected")])
    wait_until(lambda: len(rows(place.home, f"SELECT cause FROM failures WHERE {here}")) == 2)
    assert sorted(rows(place.home, f"SELECT cause FROM failures WHERE {here}")) == [("damaged",), ("missing",)]
    states = (
        f"SELECT name, files.state FROM files JOIN batch_summary USING (batch_id) WHERE {here} AND files.state = 'done'"
    )
    assert rows(place.home, states) == [("letters", "done")] * 2
    wait_until(lambda: place.notices(are_sent=True) == 3)
    (batch,) = rows(place.home, f"SELECT DISTINCT batch_id FROM files WHERE {here}")[0]
    (missed,) = re.findall(r"```sql\n(.*?)\n```", (ROOT / "docs" / "consumers.md").read_text(), re.DOTALL)
    found = {document for (document,) in rows(place.home, missed.replace("0195…", batch))}
    assert {document for document, *_ in place.letters()} <= found and None not in found


def test_who_was_away_or_is_told_twice_has_each_document_once(place: Place, tmp_path: Path) -> None:
    document = write_pdf(tmp_path / "twice.pdf", 2)
    submitted = pagepack("submit", document, "--notify", "mine.document_done@mine", "--wait", **place.variables)
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: place.notices(are_sent=True) == 1)
    with sqlite3.connect(place.home / "pagepack.db", timeout=60) as database:  # as if the sender had died before this
        database.execute("UPDATE notices SET sent_at = NULL WHERE id > ?", [place.notices_before])
    wait_until(lambda: place.notices(are_sent=True) == 1)
    with redis.Redis.from_url(place.broker_url) as client:
        assert client.llen("mine") == 2
        place.consume()
        wait_until(lambda: client.llen("mine") == 0 and len(place.letters()) == 1)
    assert [words for _, words, _ in place.letters()] == [6]


def test_one_refused_notice_holds_up_no_other_and_who_may_ask_may_do_nothing_else(place: Place, tmp_path: Path) -> None:
    """The second of the broker's user as documented."""
    with redis.Redis.from_url(place.broker_url) as client:
        client.set("blocked", "no queue")
        for name, target in (("theirs", "theirs.done@blocked"), ("mine", "mine.done@mine")):
            document = write_pdf(tmp_path / f"{name}.pdf", 1)
            done = pagepack("submit", document, "--notify", target, "--wait", **place.variables)
            assert done.returncode == 0, done.stderr
        wait_until(lambda: client.llen("mine") == 1)
        wait_until(lambda: place.notices(are_sent=False) == 1)
        client.delete("blocked")
        wait_until(lambda: client.llen("blocked") == 1)
        assert client.llen("mine") == 1

    (words,) = re.findall(r"ACL (SETUSER .*)", (ROOT / "docs" / "consumers.md").read_text())
    with redis.Redis.from_url(place.broker_url) as client:
        client.execute_command("ACL", *words.split())
    place.broker_url = place.broker_url.replace("//", "//letters:PASSWORD@")
    asked = write_pdf(tmp_path / "asked.pdf", 1)
    place.ask(asked)
    wait_until(lambda: rows(place.home, f"SELECT state FROM files WHERE source_path = '{asked}'") == [("done",)])
    with redis.Redis.from_url(place.broker_url) as client:
        for forbidden in (["LPUSH", "pagepack.read", "x"], ["BRPOP", "pagepack.ingest", "1"], ["KEYS", "*"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)


def test_the_example_needs_nothing_of_pagepack() -> None:
    code = "import sys, docs.consumer; sys.exit(bool({'pipeline', 'schemas', 'workers'} & set(sys.modules)))"
    given = {**os.environ, "PAGEPACK_BROKER_URL": "redis://127.0.0.1:1/0"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, timeout=600).returncode == 0
