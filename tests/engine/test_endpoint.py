"""The engine `endpoint` against a real server on this machine, well-behaved and otherwise."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.endpoints import pace
from pipeline.errors import EndpointGone, PageFailed, PagepackError, Unavailable
from pipeline.settings import Settings
from schemas.prompts import DESCRIBE, OCR
from tests.model_server import ModelServer, closed, half, half_stream, hang, huge, ok, raw, says, status
from tests.running import pagepack, reconciles, rows, write_pdf
from workers.engines import Answer
from workers.engines.endpoint import EndpointEngine

PAGE = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 96, 3))
KEY = "sk-not-to-be-seen"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.01)


def engine(server: ModelServer, **settings: object) -> EndpointEngine:
    given = {"endpoint_url": server.url, "endpoint_model": "small", "endpoint_key": KEY} | settings
    return EndpointEngine(Settings(**given))


def read(server: ModelServer, seconds: float = 60.0, prompts=(OCR,), **settings: object) -> list[Answer | Exception]:
    """One page's outcomes."""
    reader = engine(server, **settings)
    try:
        futures = reader.submit("hash", PAGE, prompts, time.monotonic() + seconds)
        return [future.exception() or future.result() for future in futures]
    finally:
        reader.close()


def failure(server: ModelServer, **how) -> PagepackError:
    (error,) = read(server, **how)
    assert isinstance(error, PagepackError), error
    assert KEY not in str(error)
    return error


def test_a_page_is_asked_about_with_its_image_and_the_answer_is_what_the_server_said() -> None:
    with ModelServer(ok("Dear Sir", reason="length"), ok("a letter")) as server:
        first, second = read(server, prompts=(OCR, DESCRIBE))
        bodies = sorted((exchange.body for exchange in server.exchanges), key=lambda body: body["max_tokens"])
        assert {exchange.path for exchange in server.exchanges} == {"/v1/chat/completions"}
        assert {exchange.headers["authorization"] for exchange in server.exchanges} == {f"Bearer {KEY}"}
    assert {first.text, second.text} == {"Dear Sir", "a letter"}
    assert {first.finish_reason, second.finish_reason} == {"length", "stop"}
    assert (first.prompt_tokens, first.output_tokens) == (1000, 200)
    assert [body["max_tokens"] for body in bodies] == [DESCRIBE.max_tokens, OCR.max_tokens]
    image, text = bodies[1]["messages"][0]["content"]
    assert text == {"type": "text", "text": OCR.text}
    sent = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(sent), PAGE)


def test_a_run_reads_through_the_server_into_the_database(tmp_path: Path) -> None:
    document = write_pdf(tmp_path / "a.pdf", 12)
    with ModelServer(ok("what it says")) as server:
        where = ("--endpoint-url", server.url, "--endpoint-model", "small")
        done = pagepack(
            *("run", document, "--home", tmp_path / "home", "--engine", "endpoint", *where),
            PAGEPACK_INTERNAL_ENGINE="",
            PAGEPACK_ENDPOINT_KEY=KEY,
        )
    assert done.returncode == 0, done.stderr
    assert "engine endpoint" in done.stderr
    found = rows(tmp_path / "home", "SELECT DISTINCT engine, text, prompt_tokens, output_tokens FROM page_text")
    assert found == [("endpoint", "what it says", 1000, 200)]
    assert rows(tmp_path / "home", "SELECT count(*) FROM page_text") == [(12,)]
    reconciles(tmp_path / "home")
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert left == [] and KEY not in done.stderr + done.stdout


def test_what_passes_is_tried_again() -> None:
    with ModelServer(closed, half, status(500), status(429, Retry_After="0"), ok("at last")) as server:
        (answer,) = read(server)
        assert len(server.exchanges) == 5
    assert isinstance(answer, Answer), answer
    assert answer.text == "at last" and answer.details["tries"] == 5


@pytest.mark.parametrize(
    ("behaviour", "cause", "words"),
    [
        (raw(b"<html><title>Log in</title><p>Please log in</html>", "text/html"), "bad-answer", "Please log in"),
        (raw(b'{"choices": [{"message"'), "bad-answer", "cut off or broken"),
        (raw(b"[1, 2]"), "bad-answer", "no object"),
        (raw(b""), "bad-answer", "nothing"),
        (raw(b"\x89PNG\r\n", "image/png"), "bad-answer", "image/png in place of JSON"),
        (raw(b"[" * 100_000), "bad-answer", "cut off or broken"),
        (half_stream, "bad-answer", "a stream, which was not asked for"),
        (huge, "bad-answer", "more than 32 MiB"),
        (says({"choices": []}), "bad-answer", "no choices"),
        (says({"error": {"message": "upstream gave up"}}), "bad-answer", "upstream gave up"),
        (says({"choices": [{"text": "old form"}]}), "bad-answer", "without a message"),
        (ok(7), "bad-answer", "content that is no text"),
        (ok(None, reason="content_filter"), "filtered", "filter"),
        (ok("", reason="error"), "endpoint", "broke the answer off"),
    ],
)
def test_an_answer_that_is_none_is_one_line_and_another_page_is_read(behaviour, cause: str, words: str) -> None:
    with ModelServer(behaviour, ok("another")) as server:
        reader = engine(server)
        try:
            (bad,) = reader.submit("bad", PAGE, [OCR], time.monotonic() + 60)
            error = bad.exception()
            (good,) = reader.submit("good", PAGE, [OCR], time.monotonic() + 60)
            assert good.result().text == "another"
        finally:
            reader.close()
    assert isinstance(error, PagepackError) and error.cause == cause
    assert words in str(error) and "\n" not in str(error) and len(str(error)) < 400
    assert error.retryable == (cause != "filtered")


def test_a_page_that_the_server_refuses_fails_with_its_words_shortened_and_without_the_key() -> None:
    words = f"the image of {KEY} is too large\n" + "very " * 1000
    with ModelServer(status(400, words)) as server:
        error = failure(server)
        assert len(server.exchanges) == 1
    assert isinstance(error, PageFailed) and error.cause == "refused" and not error.retryable
    assert "the image of *** is too large" in str(error) and len(str(error)) < 400


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (status(401, f"no such key {KEY}"), "PAGEPACK_ENDPOINT_KEY"),
        (status(404, "no model small"), "no model small"),
        (status(402), "credit"),
        (status(429, "insufficient_quota"), "quota"),
        (status(307, Location="http://elsewhere.example/v1?key=secret"), "http://elsewhere.example/v1, which is not"),
        (status(429, "slow down", Retry_After="3000"), "left alone"),
    ],
)
def test_a_server_that_serves_nobody_stops_the_reading(behaviour, words: str) -> None:
    with ModelServer(behaviour) as server:
        error = failure(server)
        assert len(server.exchanges) == 1
    assert isinstance(error, EndpointGone)
    assert words in str(error) and "secret" not in str(error)


def test_an_answer_that_does_not_come_in_time_ends_at_the_pages_deadline() -> None:
    with ModelServer(hang) as server:
        started = time.monotonic()
        error = failure(server, seconds=0.5)
        assert time.monotonic() - started < 30
    assert isinstance(error, PageFailed) and error.cause == "deadline"


def test_a_request_that_hangs_is_asked_for_again() -> None:
    with ModelServer(hang, ok("the second time")) as server:
        (answer,) = read(server, endpoint_seconds=0.3)
    assert isinstance(answer, Answer) and answer.text == "the second time"


def test_a_page_that_fails_while_others_are_answered_waits_for_its_next_attempt() -> None:
    def by_prompt(exchange) -> None:
        (status(500, "this one breaks me") if exchange.prompt == DESCRIBE.text else ok("fine"))(exchange)

    with ModelServer(by_prompt) as server:
        reader = engine(server)
        try:
            (bad,) = reader.submit("bad", PAGE, [DESCRIBE], time.monotonic() + 120)
            while not bad.done():
                (good,) = reader.submit("good", PAGE, [OCR], time.monotonic() + 60)
                assert good.result().text == "fine"
            error = bad.exception()
        finally:
            reader.close()
    assert isinstance(error, Unavailable) and not isinstance(error, EndpointGone)
    assert "this one breaks me" in str(error)
