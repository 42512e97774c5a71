"""A broker with a user, a password and TLS: real servers; what is wrong is said, and never with the password."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from billiard.context import ForkProcess
from celery import Celery
from celery.backends.base import DisabledBackend
from kombu.transport.redis import Channel as RedisChannel

from pipeline.database.engine import Database
from pipeline.delivery.alarms import heard_alarm, raise_alarm
from pipeline.delivery.broker import (
    check_broker,
    delete_mark,
    depth_if_there,
    enqueue_pages,
    make_app,
    put_mark,
    queue_depth,
)
from pipeline.delivery.embedded_broker import EmbeddedBroker, server_binary
from pipeline.delivery.redis_acks import gather_acknowledgements
from pipeline.errors import PagepackError, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.store.task_counts import progress
from pipeline.supervisor import supervisor
from schemas.messages import READ_QUEUE
from tests.certificate import make_certificate
from tests.running import free_port, pagepack, rows, wait_until, write_pdf
from tests.worker_processes import submit, workers

USER, PASSWORD = "packer", "s3cret-of-the-broker"


def start_server(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], int]:
    binary = server_binary()
    assert binary is not None
    port = free_port()
    words = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
            return process, port
        time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that knows one user, who may touch pagepack's and kombu's keys only, and no other."""
    rules = ["--user", "default", "off", "--user", USER, "on", f">{PASSWORD}", "~pagepack*", "~_kombu*", "~unacked*"]
    process, port = start_server(tmp_path_factory.mktemp("guarded"), *rules, "&*", "+@all", "-@admin", "-@dangerous")
    yield port
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def encrypted(guarded: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The same server behind TLS (the wheel's is built without), and the certificate to trust."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError):  # a client that does not trust the certificate
                    outer = context.wrap_socket(plain, server_side=True)
                    inner = socket.create_connection(("127.0.0.1", guarded))
                    for pair in ((outer, inner), (inner, outer)):
                        threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1], certificate
    listener.close()


def test_a_user_with_few_rights_and_tls_suffice(guarded: int, encrypted: tuple[int, Path]) -> None:
    port, certificate = encrypted
    for number, url in enumerate(
        (
            f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded}/0",
            f"rediss://{USER}:{PASSWORD}@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}",
        ),
        start=1,
    ):
        app = make_app(url)
        check_broker(app)
        enqueue_pages(app, [number])
        assert queue_depth(app, READ_QUEUE) == number


def test_workers_with_few_rights_read_beside_celerys_events(
    guarded: int, settings: Settings, db: Database, tmp_path: Path
) -> None:
    """A worker's inbox is a key named after it, which such a user may touch."""
    url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{guarded}/1"
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 2).parent
    with workers(settings, url, "ingest", "read", PAGEPACK_CELERY_EVENTS="true") as running:
        submit(db, url, settings, folder)
        wait_until(lambda: progress(db, 1).tasks_done == 2)
        said = "".join(one.log.read_text() for one in running.values())
    assert "NOPERM" not in said and "permission" not in said, said


def client_of(url: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=url.removeprefix("redis+socket://").partition("?")[0])


def num_connections(url: str) -> int:
    """That the server has taken since it started, but for the one that asks."""
    with client_of(url) as client:
        return int(client.info("stats")["total_connections_received"]) - 1


def ids_of_clients(url: str) -> set[str]:
    """All but the one that asks."""
    with client_of(url) as client:
        return {str(row["id"]) for row in client.client_list() if row["cmd"] != "client|list"}


def look_at_all(app: Celery) -> None:
    assert queue_depth(app, READ_QUEUE) == 1 and depth_if_there(app, "pagepack.nobody's") == 0
    put_mark(app, "pagepack.memory.1")
    assert queue_depth(app, "pagepack.memory.1") == 1
    delete_mark(app, "pagepack.memory.1")
    assert queue_depth(app, "pagepack.memory.1") == 0
    raise_alarm(app, "disk-full", "no room")
    alarms = [heard_alarm(app, "pagepack.alarm") for _ in range(2)]
    assert alarms == [{"cause": "disk-full", "reason": "no room"}, None]


def test_looks_at_the_broker_share_a_connection(broker: str) -> None:
    """There were 7 a second where nothing was to be done, and 15 where something was; behind TLS each shakes hands."""
    app = make_app(broker)
    enqueue_pages(app, [1])
    look_at_all(app)
    before = num_connections(broker)
    for _ in range(20):
        look_at_all(app)
    assert num_connections(broker) == before + 1, "that of the count before"


def test_a_forked_child_has_a_connection_of_its_own(broker: str) -> None:
    """On one of its parent's, each would read the answers to the other's questions."""
    app = make_app(broker)
    enqueue_pages(app, [1])
    look_at_all(app)
    before, count = ids_of_clients(broker), num_connections(broker)

    def look() -> None:
        for _ in range(200):
            assert queue_depth(app, READ_QUEUE) == 1

    child = ForkProcess(target=look)
    child.start()
    look()
    child.join(60)
    assert child.exitcode == 0 and before <= ids_of_clients(broker), "it closed none of its parent's"
    assert num_connections(broker) > count + 2, "but for those that counted"


def test_looks_go_on_after_the_broker_was_started_again(tmp_path: Path) -> None:
    server = EmbeddedBroker(tmp_path)
    server.start()
    app = make_app(server.url, silence_seconds=5)
    try:
        enqueue_pages(app, [1])
        look_at_all(app)
        server.stop()
        with pytest.raises(Unavailable):
            queue_depth(app, READ_QUEUE)
        server.start()
        assert queue_depth(app, READ_QUEUE) == 0, "the first look finds the new one"
        enqueue_pages(app, [1])
        look_at_all(app)
        server.stop()
        server.start()  # and nobody looked in between
        assert queue_depth(app, READ_QUEUE) == 0
    finally:
        server.stop()


def test_a_run_reads_through_them(encrypted: tuple[int, Path], tmp_path: Path) -> None:
    port, certificate = encrypted
    url = f"rediss://{USER}:{PASSWORD}@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
    home, path = tmp_path / "home", write_pdf(tmp_path / "a.pdf", 5)
    done = pagepack("run", path, "--home", home, PAGEPACK_BROKER_URL=url)
    assert done.returncode == 0 and rows(home, "SELECT count(*) FROM page_text") == [(5,)], done.stderr
    logs = "".join(log.read_text() for log in (home / "logs").iterdir())
    assert PASSWORD not in logs + done.stderr + done.stdout


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("redis://packer:wrong-s3cret@127.0.0.1:{plain}/0", UsageError, "refuses us"),
        ("redis://127.0.0.1:{plain}/0", UsageError, "refuses us"),
        ("redis://packer:s3cret-of-the-broker@127.0.0.1:{nobody}/0", Unavailable, "does not answer"),
        ("rediss://packer:s3cret-of-the-broker@127.0.0.1:{tls}/0?ssl_cert_reqs=required", PagepackError, "certificate"),
        ("amqp://packer:s3cret-of-the-broker@127.0.0.1:{nobody}//", Unavailable, "does not answer"),
        ("gopher://packer:s3cret-of-the-broker@127.0.0.1", UsageError, "PAGEPACK_BROKER_URL gopher://packer:***@"),
    ],
)
def test_what_is_wrong_with_a_broker_is_said_without_its_password(
    guarded: int, encrypted: tuple[int, Path], url: str, error: type[PagepackError], words: str
) -> None:
    app = make_app(url.format(plain=guarded, tls=encrypted[0], nobody=free_port()))
    with pytest.raises(error) as raised:
        check_broker(app)
    assert words in str(raised.value) and "s3cret" not in str(raised.value)


def test_no_installed_package_is_asked_for_a_backend_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> None:
        raise AssertionError("each start would look through all of them")

    monkeypatch.setattr("celery.app.backends.load_extension_class_names", look)
    assert isinstance(make_app("redis://127.0.0.1/0").backend, DisabledBackend)


def test_a_full_broker_costs_messages_and_nothing_else(tmp_path: Path) -> None:
    process, port = start_server(tmp_path, "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    try:
        app = make_app(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(Unavailable, match=r"OOM|maxmemory"):
            enqueue_pages(app, range(3))
    finally:
        process.kill()
        process.wait()


def test_one_slow_answer_of_the_broker_ends_no_start(
    tmp_path: Path, db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is busy: what is too slow for a loop that shall hear SIGTERM is no broker that is away."""
    monkeypatch.setattr(supervisor, "_SILENCE_SECONDS", 0.2)
    server, port = start_server(tmp_path)
    there = settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{port}/0"})
    goes_on = threading.Timer(2.0, server.send_signal, [signal.SIGCONT])
    try:
        server.send_signal(signal.SIGSTOP)
        goes_on.start()
        supervisor.Supervisor(db, there, [], lambda _: None).connect()
    finally:
        goes_on.join()
        server.kill()
        server.wait()


def test_acknowledgements_go_out_together_and_none_stays(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisChannel, "QoS", RedisChannel.QoS)  # back as it was, after this
    room: list[bool] = [True]
    gather_acknowledgements(lambda: room[0])
    app, taken = make_app(broker), list[Any]()
    enqueue_pages(app, range(6))
    with make_app(broker).connection_for_read() as watching, app.connection_for_read() as connection:
        noted = partial(watching.default_channel.client.hlen, "unacked")
        channel = connection.channel()
        consumer = app.amqp.TaskConsumer(channel, queues=[app.amqp.queues[READ_QUEUE]])
        consumer.register_callback(lambda _, message: taken.append(message))
        consumer.consume()

        def take(count: int) -> None:
            while len(taken) < count:
                connection.drain_events(timeout=600)

        take(3)
        taken[0].ack()
        taken[1].ack()
        assert noted() == 3 and channel.qos.can_consume()
        take(4)
        assert noted() == 2, "in the round trip that notes the fourth"
        room[0] = False
        assert not channel.qos.can_consume(), "who has no room for pages takes no message"
        room[0] = True
        taken[2].ack()
        time.sleep(0.5)
        assert channel.qos.can_consume() and noted() == 1, "no other came"
        take(6)
        for message in taken[3:5]:
            message.ack()
        consumer.cancel()
        channel.close()
        assert noted() == 0 and queue_depth(app, READ_QUEUE) == 1, "what was acknowledged is gone, the rest is back"


def test_a_message_whose_acknowledgement_was_lost_holds_up_no_other(tmp_path: Path) -> None:
    """Celery's consumer asks this before it takes a message; an ingest worker holds one at a time."""
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    app = make_app(broker.url)
    try:
        with app.connection_for_write() as connection:
            connection.SimpleQueue("q").put({})
            channel = connection.channel()
            channel.basic_qos(0, 1, False)
            message = channel.basic_get("q")
            assert not channel.qos.can_consume()
            broker.stop()
            with pytest.raises(connection.connection_errors):
                message.ack()
            assert channel.qos.can_consume()
    finally:
        app.close()
        broker.stop()
