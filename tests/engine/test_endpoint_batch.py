"""Pages in jobs of a batch API: gathered, followed, fetched, and paid for once whatever dies in between."""

from __future__ import annotations

import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from pipeline.database.engine import Database
from pipeline.endpoints import mistral_batch, pace
from pipeline.endpoints.client import Client, Server
from pipeline.errors import EndpointGone, PageFailed, PagepackError, Unavailable
from pipeline.settings import Settings
from pipeline.store.endpoint_jobs import JobBook, KnownJob
from schemas.columns import utc_now
from schemas.prompts import OCR
from schemas.worker_tables import EndpointJob
from tests.mistral_server import MistralServer, _line, _page
from tests.model_server import Exchange
from tests.running import pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf
from workers.choose import make_engine
from workers.engines import endpoint_jobs
from workers.engines.endpoint import EndpointEngine
from workers.engines.upright import Upright

DATABASES = ("sqlite", "postgresql")
UNTURNED = {"PAGEPACK_TURN_PAGES": "false"}  # spares a whole run the models that look how pages lie
PAGE = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(endpoint_jobs, "GATHER_SECONDS", 0.1)
    monkeypatch.setattr(endpoint_jobs, "POLL_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(endpoint_jobs, "ALIVE_SECONDS", 0.3)


def engine(server: MistralServer, db: Database, **settings: object) -> EndpointEngine:
    given = {"endpoint_kind": "mistral-batch", "endpoint_model": "mistral-ocr-latest", "endpoint_page_price": 1.0}
    made = EndpointEngine(Settings(endpoint_url=server.url, endpoint_key="sk-key", **given | settings))
    made.keep_jobs_in(JobBook(db))
    return made


def submit(reader: EndpointEngine, *names: str):
    return [reader.submit(name, PAGE, [OCR], time.monotonic() + 600)[0] for name in names]


def id_of(name: str) -> str:
    return f"{name}-{OCR.version}"


@pytest.fixture
def server():
    with MistralServer() as there:
        yield there


def test_pages_go_into_one_job_and_each_has_its_own_answer(server: MistralServer, db: Database) -> None:
    server.says = lambda custom_id: {
        id_of("bad"): (422, "the image is too large"),
        id_of("busy"): (500, "try again"),
        id_of("lost"): None,
    }.get(custom_id, f"text of {custom_id}")
    server.is_finished.set()
    reader = engine(server, db)
    try:
        names = ["a", "b", "a", "bad", "busy", "lost"]  # one image twice
        futures = submit(reader, *names)
        first, second, again = (future.result(60) for future in futures[:3])
        errors = [future.exception(60) for future in futures[3:]]
        assert [first.text, second.text, again.text] == [f"text of {id_of(name)}" for name in "aba"]
        assert first.cost == 0.001 and first.details["served_model"] == "mistral-ocr-2505" and first.model is None
        assert [type(error) for error in errors] == [PageFailed, Unavailable, Unavailable]
        assert "too large" in str(errors[0]) and "ended without this page (SUCCESS)" in str(errors[2])
        assert len(server.jobs) == 1 and sorted(server.paid) == sorted(map(id_of, {*names}))
        server.says = lambda custom_id: "now"
        assert [future.result(60).text for future in submit(reader, "busy", "lost")] == ["now", "now"]
    finally:
        reader.close()
    assert len(server.jobs) == 2 and sorted(server.paid[-2:]) == [id_of("busy"), id_of("lost")]


def test_a_job_is_full_at_once_and_the_rest_is_another(server: MistralServer, db: Database) -> None:
    server.is_finished.set()
    reader = engine(server, db, endpoint_batch_pages=3)
    try:
        assert reader.capacity == 3
        futures = submit(reader, *(f"page {number}" for number in range(7)))
        assert len({future.result(60).text for future in futures}) == 7
    finally:
        reader.close()
    assert len(server.paid) == 7 and max(len(job["lines"]) for job in server.jobs.values()) <= 3


def test_a_reader_that_dies_between_create_and_fetch_finds_its_job_again(server: MistralServer, db: Database) -> None:
    before = engine(server, db)
    pending = submit(before, "a", "b")
    wait_until(lambda: len(server.jobs) == 1 and server.jobs["job-0"]["status"] == "RUNNING")
    before.close()
    assert all(isinstance(future.exception(60), Unavailable) for future in pending)
    server.is_finished.set()
    after = engine(server, db)
    try:
        assert [future.result(60).text for future in submit(after, "b", "a", "c")] == [
            f"text of {id_of(name)}" for name in "bac"
        ]
        assert [future.result(60).text for future in submit(after, "a")] == [f"text of {id_of('a')}"]
    finally:
        after.close()
    assert sorted(server.paid) == [id_of("a"), id_of("b"), id_of("c")]


def test_a_job_whose_making_was_not_heard_of_is_found_by_its_key(server: MistralServer, db: Database) -> None:
    server.loses_next_job = True
    server.is_finished.set()
    reader = engine(server, db)
    try:
        assert [future.result(60).text for future in submit(reader, "a")] == [f"text of {id_of('a')}"]
    finally:
        reader.close()
    assert server.paid == [id_of("a")]


def test_a_reader_that_dies_while_a_job_is_made_asks_the_server_for_it(server: MistralServer, db: Database) -> None:
    """One was made and not written down, of another nothing came."""
    book = JobBook(db)
    reader = engine(server, db)
    model = reader.model
    book.begin("1" * 32, model, [id_of("made")])
    book.begin("2" * 32, model, [id_of("not made")])
    server.files["file-0"] = b'{"custom_id": "%s", "body": {}}\n' % id_of("made").encode()
    server.jobs["job-0"] = {
        **{"id": "job-0", "status": "RUNNING", "metadata": {"pagepack": "1" * 32}, "errors": []},
        **{"lines": [{"custom_id": id_of("made")}], "output_file": None, "error_file": None},
    }
    server.is_finished.set()
    try:
        texts = [future.result(60).text for future in submit(reader, "made", "not made")]
    finally:
        reader.close()
    assert texts == [f"text of {id_of('made')}", f"text of {id_of('not made')}"]
    assert server.paid == [id_of("not made")]


def test_pages_that_are_asked_for_again_while_their_job_is_made_are_paid_for_once(
    server: MistralServer, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this worker and by another: both wait for the job, for its maker says that it is alive."""
    monkeypatch.setattr(endpoint_jobs, "ALIVE_SECONDS", 1.5)

    class WatchedBook(JobBook):
        looks = 0

        def find(self, model: str, pages: Collection[str]) -> dict[str, KnownJob]:
            self.looks += 1
            return super().find(model, pages)

    book = WatchedBook(db)
    goes_on = threading.Event()
    (at_once,) = server.behaviours

    def slowly(exchange: Exchange) -> None:
        assert goes_on.wait(60)
        at_once(exchange)

    server.behaviours = [slowly, at_once]
    server.is_finished.set()
    one, other = engine(server, db), engine(server, db)
    other.keep_jobs_in(book)
    try:
        futures = submit(one, "a", "b")
        wait_until(lambda: len(server.exchanges) == 1)
        with db.write() as connection:  # its first word is an hour old
            connection.execute(sa.update(EndpointJob).values(created_at=utc_now() - timedelta(hours=1)))
        wait_until(lambda: _heard_seconds(db, other.model) < 1)
        futures += submit(one, "a") + submit(other, "b")
        wait_until(lambda: book.looks >= 3)
        assert [exchange.method for exchange in server.exchanges].count("POST") == 1
        goes_on.set()
        assert [future.result(60).text for future in futures] == [f"text of {id_of(name)}" for name in "abab"]
    finally:
        goes_on.set()
        one.close()
        other.close()
    assert sorted(server.paid) == sorted(map(id_of, "ab"))


def _heard_seconds(db: Database, model: str) -> float:
    return JobBook(db).find(model, [id_of("b")])[id_of("b")].heard_seconds


def test_of_a_job_that_was_never_made_each_page_is_taken_once(db: Database) -> None:
    book = JobBook(db)
    assert book.begin("1" * 32, "m", ["a", "b", "c"]) == {"a", "b", "c"}
    assert book.begin("2" * 32, "m", ["a", "b"], instead_of="1" * 32) == {"a", "b"}
    assert book.begin("3" * 32, "m", ["b", "c"], instead_of="1" * 32) == {"c"}
    assert {page: job.key[0] for page, job in book.find("m", ["a", "b", "c"]).items()} == {"a": "2", "b": "2", "c": "3"}


def test_answers_are_understood_line_by_line_and_no_more_is_kept(server: MistralServer) -> None:
    """Twenty answers of a megabyte; one of them is wanted, and one that is not fills more than a part."""
    server.files["file-0"] = b"no JSON\n" + b"".join(_line(str(one), 200, _page("x" * 2**20)) for one in range(20))
    server.files["file-1"] = _line("bad", 422, {"message": "too large"}).strip()  # its last line has no end
    job = mistral_batch.Job("job-0", "SUCCESS", ("file-0", "file-1", "forgotten"), "")
    client = Client(Server(server.url, "sk-key"))

    def understood(body: dict[str, Any]) -> int:
        return len(body["pages"][0]["markdown"])

    tracemalloc.start()
    try:
        found = client.start(mistral_batch.answers(client, job, {"7", "bad", "none"}, understood)).result(60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        client.close()
    assert found.pop("7") == 2**20
    assert isinstance(error := found.pop("bad"), PageFailed) and "too large" in str(error) and found == {}
    assert peak < 10 * 2**20


def test_a_job_that_ends_without_answers_leaves_its_pages_to_another(server: MistralServer, db: Database) -> None:
    server.says, server.status = lambda custom_id: None, "TIMEOUT_EXCEEDED"
    server.is_finished.set()
    reader = engine(server, db)
    try:
        (error,) = (future.exception(60) for future in submit(reader, "a"))
        assert isinstance(error, PagepackError) and error.retryable and "TIMEOUT_EXCEEDED" in str(error)
        server.says, server.status = lambda custom_id: "in time", "SUCCESS"
        assert submit(reader, "a")[0].result(60).text == "in time"
    finally:
        reader.close()


def test_a_job_that_the_server_forgot_is_made_anew(server: MistralServer, db: Database) -> None:
    reader = engine(server, db)
    try:
        JobBook(db).begin("1" * 32, reader.model, [id_of("a")])
        JobBook(db).made("1" * 32, "job-of-last-year")
        server.is_finished.set()
        assert submit(reader, "a")[0].result(60).text == f"text of {id_of('a')}"
    finally:
        reader.close()
    assert server.paid == [id_of("a")]


def test_a_wrong_key_stops_the_reading_and_makes_no_job(server: MistralServer, db: Database) -> None:
    server.behaviours = [lambda exchange: exchange.send_json({"message": "Unauthorized"}, 401)]
    reader = engine(server, db)
    try:
        assert isinstance(submit(reader, "a")[0].exception(60), EndpointGone)
    finally:
        reader.close()
    assert server.jobs == {}


def test_a_reader_that_sets_pages_upright_still_knows_that_they_wait_for_a_day(server: MistralServer) -> None:
    where = {"endpoint_url": server.url, "endpoint_model": "mistral-ocr-latest", "endpoint_kind": "mistral-batch"}
    reader = make_engine(Settings(engine="endpoint", **where))
    try:
        assert isinstance(reader, Upright)
        assert reader.least_page_seconds == 25 * 3600 and callable(reader.keep_jobs_in)
        with pytest.raises(AttributeError):
            _ = reader.what_no_engine_has
    finally:
        reader.close()


@pytest.mark.only("sqlite")
def test_a_run_that_is_killed_while_its_job_waits_is_paid_for_once(server: MistralServer, tmp_path: Path) -> None:
    document, home = write_pdf(tmp_path / "a.pdf", 6), tmp_path / "home"
    words = ["--engine", "endpoint", "--endpoint-url", server.url, "--endpoint-model", "mistral-ocr-latest"]
    variables = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_ENDPOINT_KIND": "mistral-batch"} | UNTURNED
    arguments = ["run", str(document), "--home", str(home), *words]
    first = start(*arguments, engine="", **variables)
    wait_until(lambda: len(server.paid) == 6 or first.poll() is not None)
    assert first.poll() is None, first.communicate()[1]
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: processes_of(home) == [])
    server.is_finished.set()
    second = pagepack(*arguments, **variables)
    assert second.returncode == 0, second.stderr
    assert rows(home, "SELECT count(*), count(DISTINCT text) FROM page_text") == [(6, 6)]
    assert len(server.paid) == 6
    reconciles(home)
