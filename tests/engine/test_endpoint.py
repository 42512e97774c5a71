"""The engine `endpoint` against a real server on this machine, well-behaved and otherwise."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.endpoints import pace
from pipeline.errors import EndpointGone, PageFailed, PagepackError, Unavailable, UsageError
from pipeline.settings import Settings, load_settings
from schemas.prompts import DESCRIBE, OCR
from tests.model_server import Exchange, ModelServer, closed, half, half_stream, hang, huge, ok, raw, says, status
from tests.running import call, pagepack, reconciles, rows, wait_until, write_pdf
from workers.choose import choose_engine
from workers.doctor import check_engines
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


def sent_image(part: dict) -> Image.Image:
    kind, _, data = part["image_url"]["url"].removeprefix("data:image/").partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    return image


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
    assert np.array_equal(np.asarray(sent_image(image).convert("RGB")), PAGE)


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


@pytest.mark.parametrize("before", [0, 180, 185])  # characters; words of a server are cut after 200
@pytest.mark.parametrize("number", [200, 400, 401])
def test_no_message_has_a_key_that_the_server_says_nor_a_part_of_it(
    number: int, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"{'x' * before} {KEY} is not known here"
    with caplog.at_level("INFO"), ModelServer(status(number, words)) as server:
        said = f"{failure(server)}\n{caplog.text}"
    assert "***" in said and KEY[:6] not in said


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


def test_another_model_in_the_middle_is_said_once_and_its_answers_are_versions_of_their_own(caplog) -> None:
    answers = [ok("one", model="small-2506"), ok("two", model="large"), ok("three", model="large"), ok("four")]
    with ModelServer(*answers) as server, caplog.at_level("INFO", "pagepack.endpoint"):
        reader = engine(server)
        try:
            read = [reader.submit("h", PAGE, [OCR], time.monotonic() + 60)[0].result() for _ in answers]
        finally:
            reader.close()
    assert [answer.model for answer in read] == [None, f"{reader.model}=large", f"{reader.model}=large", None]
    assert [answer.details["served_model"] for answer in read] == ["small-2506", "large", "large", "small"]
    assert [record.getMessage().partition("/v1 ")[2] for record in caplog.records] == [
        "was asked for small, and answers as small-2506",
        "answered as small-2506 until now, and as large from here on",
        "answered as large until now, and as small from here on",
    ]


def test_log_probabilities_are_the_confidence_and_a_server_without_them_is_asked_without() -> None:
    entries = [{"token": "a", "logprob": -0.1}, {"token": "é", "bytes": [195, 169], "logprob": -1.5}]
    refuses = says({"detail": [{"type": "extra_forbidden", "loc": ["body", "logprobs"], "msg": "not permitted"}]}, 422)
    with ModelServer(ok("aé", logprobs={"content": entries}), refuses, ok("ab"), ok("ab")) as server:
        reader = engine(server)
        try:
            read = [reader.submit("h", PAGE, [OCR], time.monotonic() + 60)[0].result() for _ in range(3)]
        finally:
            reader.close()
        asked = [exchange.body.get("logprobs") for exchange in server.exchanges]
    assert read[0].confidence == pytest.approx(np.exp(-0.8))
    assert read[0].lowest_confidence == pytest.approx(np.exp(-1.5))
    assert read[0].details["doubts"] == [[1, 2, 0.2231, "é"]]
    assert [answer.confidence for answer in read[1:]] == [None, None]
    assert asked == [True, True, None, None]


def test_an_answer_that_a_filter_cut_is_worth_a_look_and_an_empty_one_is_the_readers_to_judge() -> None:
    printed = np.full((400, 300, 3), 255, np.uint8)
    printed[100:110, 50:200:4] = 0
    with ModelServer(ok("the first half", reason="content_filter"), ok(""), ok("")) as server:
        reader = engine(server)
        try:
            pages = [printed, printed, np.full_like(printed, 255)]
            read = [reader.submit("h", page, [OCR], time.monotonic() + 60)[0].result() for page in pages]
        finally:
            reader.close()
    assert [answer.review_reason for answer in read] == ["filtered", None, None]
    assert read[0].finish_reason == "content_filter" and read[0].text == "the first half"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ENDPOINT_URL", "ftp://host", "is no URL like https://host/v1"),
        ("ENDPOINT_URL", "https://me:secret@host/v1", "holds a password"),
        ("ENDPOINT_KEY", "secret\nkey", "is there a space or a line end in it?"),
        ("ENDPOINT_BODY", "[secret", "no JSON object"),
        ("ENDPOINT_PROFILE", "olmocrr", "did you mean olmocr?"),
        ("ENDPOINT_MODEL", None, "--endpoint-model NAME"),
    ],
)
def test_a_setting_that_does_not_fit_is_named_without_what_is_secret(monkeypatch, variable, value, words) -> None:
    for name in list(os.environ):
        if name.startswith("PAGEPACK_"):
            monkeypatch.delenv(name)
    given = {"ENDPOINT_URL": "http://127.0.0.1:1/v1", "ENDPOINT_MODEL": "small", "ENGINE": "endpoint", variable: value}
    for name, text in given.items():
        if text is not None:
            monkeypatch.setenv(f"PAGEPACK_{name}", text)
    with pytest.raises(UsageError) as error:
        choose_engine(load_settings())
    assert words in str(error.value)
    assert value is None or "secret" not in value or "secret" not in str(error.value) or variable == "ENDPOINT_BODY"


def test_the_key_is_shown_by_no_command(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    done = call("config", PAGEPACK_ENDPOINT_KEY_FILE=str(tmp_path / "key"))
    assert "endpoint_key" in done.stdout and KEY not in done.stdout + done.stderr


UNTURNED = {"PAGEPACK_TURN_PAGES": "false"}  # spares a whole run the models that look how pages lie
AT_FIRST = 4  # requests at once before the first answer (`pace.py`)
PRICES = UNTURNED | {"PAGEPACK_ENDPOINT_INPUT_PRICE": "2", "PAGEPACK_ENDPOINT_OUTPUT_PRICE": "10"}  # 0.004 an answer


@pytest.fixture(scope="module")
def refused_then_paid(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One batch of seven pages: a run whose key is refused, one whose budget is for five of them, a retry, and a run
    without a budget. Nor has the first one: pages would be read one at a time until a first cost is known."""
    folder = tmp_path_factory.mktemp("refused")
    document, home = write_pdf(folder / "a.pdf", 7), folder / "home"
    found = SimpleNamespace(home=home)

    def refuse_several(exchange: Exchange) -> None:
        if exchange.method == "POST":
            wait_until(lambda: exchange.server.most_at_once >= AT_FIRST)
        status(401, f"{KEY} is not known here")(exchange)

    with ModelServer(refuse_several) as server:
        words = ["--engine", "endpoint", "--endpoint-url", server.url, "--endpoint-model", "small", "--batch", "b"]
        variables = {"PAGEPACK_INTERNAL_ENGINE": "", "PAGEPACK_ENDPOINT_KEY": KEY, "PAGEPACK_LOG_LEVEL": "DEBUG"}
        found.refused = pagepack("run", document, "--home", home, *words, **variables, **PRICES)
        found.states = rows(home, "SELECT DISTINCT state FROM page_tasks")
        found.asked_in_vain = sum(exchange.method == "POST" for exchange in server.exchanges)
        server.behaviours = [ok("what it says")]
        budget = ("--max-cost", "0.0205")
        found.paid = pagepack("run", document, "--home", home, *words, *budget, **variables, **PRICES)
        found.asked = sum(exchange.method == "POST" for exchange in server.exchanges) - found.asked_in_vain
        reconciles(home)
        found.failures = rows(home, "SELECT count(*), count(DISTINCT reason), min(cause), min(reason) FROM failures")
        found.retried = call("retry", "--home", home, "--cause", "budget")
        found.read_for_it = rows(home, "SELECT count(*), round(sum(cost), 6) FROM page_text")
        found.states_then = rows(home, "SELECT state, count(*) FROM page_tasks GROUP BY 1")
        found.cost_then = rows(home, "SELECT round(sum(cost), 6) FROM attempts")
        found.whole = pagepack("run", document, "--home", home, *words, **variables, **PRICES)
    reconciles(home)
    return found


def test_a_budget_ends_the_reading_and_what_is_left_waits_for_a_larger_one(refused_then_paid: SimpleNamespace) -> None:
    found = refused_then_paid
    assert found.paid.returncode == 1, found.paid.stderr
    assert found.asked == 5
    assert "the batch has cost 0.02, by the prices that were set" in found.paid.stdout
    assert found.read_for_it == [(5, 0.02)]
    (failures,) = found.failures
    assert failures[:3] == (2, 1, "budget") and "0.02 of the 0.0205" in failures[3]
    said = found.retried.stdout
    assert "2 pages wait again" in said and "--max-cost 0.0205" in said, said
    assert found.states_then == [("done", 5), ("pending", 2)] and found.cost_then == [(0.02,)]


def test_a_budget_without_prices_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    words = ["--engine", "endpoint", "--endpoint-url", "http://127.0.0.1:1/v1", "--endpoint-model", "small"]
    document = write_pdf(tmp_path / "a.pdf", 1)
    done = pagepack(
        "run", document, "--home", tmp_path / "home", *words, "--max-cost", "1", PAGEPACK_INTERNAL_ENGINE=""
    )
    assert done.returncode == 2 and "PAGEPACK_ENDPOINT_INPUT_PRICE" in done.stderr


def test_an_answer_of_no_use_has_its_price_too() -> None:
    with ModelServer(ok(None, reason="content_filter")) as server:
        error = failure(server, endpoint_input_price=2.0, endpoint_output_price=10.0)
    assert error.cause == "filtered" and error.cost == pytest.approx(0.004)


def pages(reader: EndpointEngine, count: int, seconds: float = 120.0) -> list[Answer]:
    futures = [reader.submit(str(n), PAGE, [OCR], time.monotonic() + seconds)[0] for n in range(count)]
    return [future.result() for future in futures]


def test_many_pages_are_in_flight_and_fewer_where_the_server_refuses(caplog) -> None:
    """A server that has room for five at once and says 429 to more: all pages are read, and it is asked less."""
    room = threading.Semaphore(5)

    def five_at_once(exchange) -> None:
        if not room.acquire(blocking=False):
            return status(429, "too many requests")(exchange)
        try:
            exchange.server.leaving.wait(0.02)  # it takes its time
            ok("read")(exchange)
        finally:
            room.release()

    with ModelServer(five_at_once) as server:
        reader = engine(server, endpoint_concurrency=64)
        try:
            assert {answer.text for answer in pages(reader, 120)} == {"read"}
            stats = reader.stats()
        finally:
            reader.close()
        refused = len(server.exchanges) - 120
    assert server.most_at_once > 5, "it was never pressed beyond its room"
    assert stats["room"] < 16 and 0 < refused < 120, (stats, refused)
    assert sum("trying again" in record.getMessage() for record in caplog.records) == 1


def test_a_pause_that_the_server_asks_for_holds_all_requests_back() -> None:
    started = []

    def note(exchange) -> None:
        started.append(time.monotonic())
        first = len(started) == 1
        (status(429, "wait", Retry_After="1") if first else ok("read"))(exchange)

    with ModelServer(note) as server:
        reader = engine(server, endpoint_concurrency=1)
        try:
            assert len(pages(reader, 4)) == 4
        finally:
            reader.close()
    assert min(started[1:]) - started[0] >= 0.99


def test_a_page_that_is_cancelled_leaves_its_request_and_closing_ends_the_rest() -> None:
    with ModelServer(hang) as server:
        reader = engine(server)
        first, second = (reader.submit(str(n), PAGE, [OCR], time.monotonic() + 600)[0] for n in range(2))
        wait_until(lambda: len(server.exchanges) == 2)
        assert first.cancel()
        wait_until(lambda: reader.stats()["in_flight"] == 1)
        reader.close()
        assert isinstance(second.exception(), Unavailable)
        (late,) = reader.submit("late", PAGE, [OCR])
        assert isinstance(late.exception(), Unavailable)


def test_a_key_that_is_refused_stops_the_run_and_its_pages_wait_for_one_that_is_not(
    refused_then_paid: SimpleNamespace,
) -> None:
    found, home = refused_then_paid, refused_then_paid.home
    assert found.refused.returncode == 4, found.refused.stderr
    assert "refuses every request (401" in found.refused.stderr and "PAGEPACK_ENDPOINT_KEY" in found.refused.stderr
    assert found.states == [("pending",)] and AT_FIRST <= found.asked_in_vain <= 7
    assert found.whole.returncode == 0 and "engine endpoint" in found.whole.stderr, found.whole.stderr
    every = "SELECT engine, text, prompt_tokens, output_tokens, count(*) FROM page_text GROUP BY 1, 2, 3, 4"
    answers = rows(home, every)
    assert answers == [("endpoint", "what it says", 1000, 200, 7)]
    left = [path for path in home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    said = found.refused.stderr + found.paid.stderr + found.paid.stdout + found.whole.stderr + found.whole.stdout
    assert left == [] and KEY not in said


OCR_PAGE = {
    "pages": [{"index": 0, "markdown": "# Dear Sir\n\n|a|b|", "images": [], "dimensions": {"dpi": 200}}],
    "model": "mistral-ocr-2505-completion",
    "usage_info": {"pages_processed": 1, "doc_size_bytes": 20_000},
}


def test_mistrals_ocr_endpoint_reads_a_page_without_a_prompt_and_is_paid_by_the_page() -> None:
    kind = {"endpoint_kind": "mistral-ocr", "endpoint_model": "mistral-ocr-latest", "endpoint_page_price": 2.0}
    bad = {"model": "mistral-ocr-2505", "usage_info": {"pages_processed": 1}}
    with ModelServer(says(OCR_PAGE), says(bad), status(422, "image too large")) as server:
        (answer,) = read(server, **kind)
        errors = [failure(server, **kind) for _ in range(2)]
        body = server.exchanges[0].body
        assert {exchange.path for exchange in server.exchanges} == {"/v1/ocr"}
        reader = engine(server, **kind)
        assert reader.supports(OCR) and not reader.supports(DESCRIBE)
        reader.close()
    assert isinstance(answer, Answer) and answer.text == "# Dear Sir\n\n|a|b|" and answer.cost == 0.002
    assert answer.model is None, "the alias names the dated one"
    assert set(body) == {"model", "document", "include_image_base64"} and body["document"]["type"] == "image_url"
    assert [(error.cause, error.cost) for error in errors] == [("bad-answer", 0.002), ("refused", None)]


@pytest.mark.parametrize(
    ("behaviour", "model", "state", "words"),
    [
        (says({"data": [{"id": "small"}, {"id": "large"}]}), "small", "ok", "small is asked as"),
        (says({"data": [{"id": "large"}]}), "small", "broken", "has no model 'small'; it has large"),
        (says({"data": [{"id": "large"}]}), None, "ok", "--endpoint-model NAME chooses one of large"),
        (says({}), "olmocr", "ok", "lists no models; olmocr is asked as the catalogue says of olmocr"),
        (status(401, KEY), "small", "broken", "PAGEPACK_ENDPOINT_KEY"),
    ],
)
def test_doctor_says_whether_the_endpoint_answers(behaviour, model, state: str, words: str) -> None:
    with ModelServer(behaviour) as server:
        settings = Settings(endpoint_url=server.url, endpoint_model=model, endpoint_key=KEY)
        checks = {check["name"]: check for check in check_engines(settings)}
        assert [exchange.path for exchange in server.exchanges] == ["/v1/models"]
    assert checks["endpoint"]["state"] == state and words in checks["endpoint"]["fact"]
    assert KEY not in str(checks)
    assert "endpoint" not in {check["name"] for check in check_engines(Settings())}
