"""The client of such servers, asked without an engine: connections, certificates, proxies, and when it gives up."""

from __future__ import annotations

import gzip
import json
import resource
import ssl
import threading
import time
from pathlib import Path

import pytest

from pipeline.endpoints import pace
from pipeline.endpoints.chat import chat_body, complete
from pipeline.endpoints.client import Client, Server
from pipeline.endpoints.words import error_words, one_line, shown_url
from pipeline.errors import EndpointGone, PageFailed, PagepackError
from pipeline.evaluation.judge import judge_of
from pipeline.settings import Settings
from pipeline.supervisor.server_warnings import ServerWarnings
from tests.certificate import make_certificate
from tests.model_server import Behaviour, Exchange, ModelServer, completion, ok, status
from tests.running import free_port

BODY = chat_body("small", [{"role": "user", "content": "Score this from 1 to 10."}], max_tokens=64)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.01)


def ask(server: Server, seconds: float = 60.0) -> str:
    client = Client(server)
    try:
        return client.start(complete(client, BODY, time.monotonic() + seconds)).result().text
    finally:
        client.close()


def refusal(server: Server, seconds: float = 60.0) -> PagepackError:
    with pytest.raises(PagepackError) as error:
        ask(server, seconds)
    assert "\n" not in str(error.value)
    return error.value


def test_words_are_asked_and_answered_without_an_image() -> None:
    with ModelServer(ok("[[7]]")) as server:
        assert ask(Server(server.url)) == "[[7]]"
        (exchange,) = server.exchanges
    assert exchange.body == BODY and "authorization" not in exchange.headers


@pytest.mark.parametrize(
    "behaviour, way_out",
    [
        (status(401, "no such key"), "is PAGEPACK_JUDGE_KEY its key?"),
        (
            status(404, "no such model"),
            "look at PAGEPACK_JUDGE_URL, which ends in /v1 mostly, and at PAGEPACK_JUDGE_MODEL",
        ),
        (status(308, Location="http://127.0.0.1:9/"), "is that PAGEPACK_JUDGE_URL?"),
    ],
)
def test_a_judge_that_refuses_all_is_named_by_its_own_settings(behaviour: Behaviour, way_out: str) -> None:
    with ModelServer(behaviour) as there:
        server, _ = judge_of(Settings(judge_url=there.url, judge_model="j", judge_key="sk-judge"))
        error = str(refusal(server))
    assert way_out in error and "PAGEPACK_ENDPOINT" not in error


def test_a_server_that_is_not_there_is_gone_after_a_while_and_not_before() -> None:
    started = time.monotonic()
    error = refusal(Server(f"http://127.0.0.1:{free_port()}/v1", gone_seconds=0.5))
    assert 0.5 <= time.monotonic() - started < 30
    assert isinstance(error, EndpointGone) and "has not answered anything for" in str(error)


def test_a_server_that_fails_for_all_is_gone_and_not_the_page_to_blame() -> None:
    with ModelServer(status(503, "loading the model")) as server:
        error = refusal(Server(server.url, gone_seconds=0.3))
    assert isinstance(error, EndpointGone) and "503: loading the model" in str(error)


def test_a_server_that_comes_up_in_time_is_asked_again() -> None:
    with ModelServer(*[status(503, "loading the model")] * 6, ok("ready")) as server:
        assert ask(Server(server.url, gone_seconds=30.0)) == "ready"


def test_a_certificate_that_nobody_signed_is_not_trusted_and_one_of_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ModelServer(ok("over TLS"), tls=context) as server:
        error = refusal(Server(server.url))
        assert isinstance(error, EndpointGone) and "certificate" in str(error) and "SSL_CERT_FILE" in str(error)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert ask(Server(server.url)) == "over TLS"


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(ok("through the proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask(Server("http://model.example/v1")) == "through the proxy"
        assert proxy.exchanges[0].path == "http://model.example/v1/chat/completions"


def test_a_redirect_to_another_host_takes_no_key_there() -> None:
    with ModelServer(ok("stolen")) as other, ModelServer(status(308, Location=other.url)) as server:
        error = refusal(Server(server.url, "sk-key"))
        assert other.exchanges == []
    assert isinstance(error, EndpointGone) and "not followed" in str(error)


def test_403_refuses_all_at_first_and_a_page_alone_where_others_were_answered() -> None:
    with ModelServer(status(403, "your region"), ok("fine"), status(403, "this page")) as server:
        assert isinstance(refusal(Server(server.url)), EndpointGone)
        client = Client(Server(server.url))
        try:
            assert client.start(complete(client, BODY)).result().text == "fine"
            error = client.start(complete(client, BODY)).exception()
        finally:
            client.close()
    assert isinstance(error, PageFailed) and error.cause == "refused" and "this page" in str(error)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}', "body.seed: not permitted"),
        (b"<html><style>p {}</style><body><h1>502</h1>\n<p>Bad gateway", "502 Bad gateway"),
        (b"plain words\x1b[31m\r\n", "plain words [31m"),
        (b"", ""),
        (b"\xff\xfe", "��"),
        (b'{"error": {"code": 3}}', '{"error": {"code": 3}}'),
    ],
)
def test_what_a_server_says_is_one_line(body: bytes, words: str) -> None:
    assert error_words(body) == words


def test_urls_are_shown_without_what_may_be_secret_and_long_words_are_cut() -> None:
    assert shown_url("https://me:secret@host:8/v1?key=secret#x") == "https://host:8/v1"
    assert len(one_line("word " * 1000)) <= 201


def drip(chunks: int) -> Behaviour:
    """A whole answer, byte by byte at first, then the rest; or, with more chunks than it has bytes, never."""

    def behave(exchange: Exchange) -> None:
        content = json.dumps(completion("in the end")).encode()
        exchange.handler.send_response(200)
        exchange.handler.send_header("Content-Type", "application/json")
        exchange.handler.send_header("Content-Length", str(len(content)))
        exchange.handler.end_headers()
        for index in range(min(chunks, len(content) - 1)):
            exchange.handler.wfile.write(content[index : index + 1])
            exchange.handler.wfile.flush()
            if exchange.server.leaving.wait(0.02):
                return exchange.close()
        if chunks < len(content):
            exchange.handler.wfile.write(content[chunks:])
        else:
            exchange.server.leaving.wait()
            exchange.close()
        return None

    return behave


def test_a_slow_answer_is_waited_for_and_one_that_never_ends_is_asked_for_again() -> None:
    with ModelServer(drip(10)) as server:
        assert ask(Server(server.url)) == "in the end"
        assert len(server.exchanges) == 1
    with ModelServer(drip(10_000), ok("the second time")) as server:
        assert ask(Server(server.url, request_seconds=0.3)) == "the second time"


def test_a_server_that_hangs_is_told_of_once_and_long_before_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.endpoints.client.SILENT_SECONDS", 0.1)
    told = threading.Event()
    monkeypatch.setattr("pipeline.endpoints.client.log.warning", lambda *words: told.set() or said.append(words))
    said: list[tuple[object, ...]] = []
    with ModelServer(lambda exchange: told.wait(30) and ok("late")(exchange)) as server:
        client = Client(Server(server.url, request_seconds=60))
        try:
            asked = [client.start(complete(client, BODY)) for _ in range(3)]
            assert [one.result(30).text for one in asked] == ["late"] * 3
        finally:
            client.close()
    ((words, name, seconds, most),) = said
    assert "has not answered for" in str(words) and "after %g s (PAGEPACK_ENDPOINT_SECONDS)" in str(words)
    assert name == shown_url(server.url) and float(str(seconds)) < 30 and most == 60


def test_a_run_says_what_its_readers_logs_say_of_a_server(tmp_path: Path) -> None:
    log = tmp_path / "read.log"
    log.write_text("2026-11-29T18:00:00.000Z WARNING pagepack.endpoint of an earlier run\n")
    said: list[str] = []
    warnings = ServerWarnings(tmp_path, said.append)
    with log.open("a") as file:
        file.write("2026-11-29T19:00:00.000Z INFO pagepack.endpoint WARNING is a word\n")
        file.write("2026-11-29T19:00:00.000Z WARNING pagepack.endpoint http://host/v1 has not answered for 10 s\n")
        file.write('{"time": "x", "level": "WARNING", "logger": "pagepack.endpoint", "message": "it answers again"}\n')
        file.write("2026-11-29T19:00:01.000Z WARNING pagepack.endpoint half a li")
    warnings.look()
    assert said == ["http://host/v1 has not answered for 10 s", "it answers again"]
    with log.open("a") as file:
        file.write("ne\n2026-11-29T19:00:01.000Z WARNING pagepack.worker another matter\n")
    warnings.look()
    warnings.look()
    assert said[2:] == ["half a line"]


def test_what_cannot_be_decompressed_is_no_answer() -> None:
    def broken(exchange: Exchange) -> None:
        exchange.send(200, b"\x1f\x8b no gzip at all", Content_Encoding="gzip")

    with ModelServer(broken) as server:
        error = refusal(Server(server.url))
    assert error.cause == "bad-answer" and "decompressed" in str(error)


def test_a_bomb_of_a_few_bytes_is_not_unpacked_to_its_end() -> None:
    bomb = gzip.compress(bytes(256 * 2**20), 1)

    def explode(exchange: Exchange) -> None:
        exchange.send(200, bomb, Content_Encoding="gzip")

    with ModelServer(explode) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        error = refusal(Server(server.url))
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert error.cause == "bad-answer" and "more than 32 MiB" in str(error)
    assert grown_kib < 200 * 1024
