"""A RabbitMQ server as the broker: `pytest tests/rabbitmq.py`, where Debian's package rabbitmq-server is installed.

Not among the tests that run always: no wheel holds this server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from celery import Celery

from pipeline.delivery.broker import enqueue_pages, make_app, queue_depth, read_queue
from pipeline.errors import Unavailable
from schemas.messages import INGEST_QUEUE, READ_QUEUE
from tests.running import done_pages, free_port, pagepack, reconciles, rows, start, wait_until, write_pdf

_BINARIES = Path("/usr/lib/rabbitmq/bin")


class RabbitMQ:
    """A node of its own in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        assert (_BINARIES / "rabbitmq-server").exists(), "install Debian's package rabbitmq-server"
        self.folder = folder
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._environment = os.environ | {
            "RABBITMQ_NODENAME": f"pagepack{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "plugins"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "HOME": str(folder),
        }
        self.start()

    def start(self) -> None:
        with (self.folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [_BINARIES / "rabbitmq-server"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

        def answers() -> bool:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), timeout=1)):
                return True
            return False

        wait_until(answers)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def lose_everything(self) -> None:
        self.kill()
        shutil.rmtree(self.folder / "data")
        self.start()

    def list(self, what: str, *columns: str) -> list[dict[str, object]]:
        words = [_BINARIES / "rabbitmqctl", "--quiet", "--formatter", "json", f"list_{what}", *columns]
        said = subprocess.run(words, env=self._environment, capture_output=True, text=True, check=True)
        return list(json.loads(said.stdout))


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbit"))
    yield server
    server.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_run_reads_and_leaves_no_queue_of_its_own(rabbit: RabbitMQ, tmp_path: Path, home: Path) -> None:
    done = pagepack("run", write_pdf(tmp_path / "a.pdf", 5), "--home", home, PAGEPACK_BROKER_URL=rabbit.url)
    assert done.returncode == 0, done.stderr
    assert rows(home, "SELECT count(*) FROM page_text") == [(5,)]
    names = [str(row["name"]) for kind in ("queues", "exchanges") for row in rabbit.list(kind, "name")]
    assert not [name for name in names if ".run." in name], names


def test_what_a_killed_run_leaves_goes_by_itself(rabbit: RabbitMQ, tmp_path: Path, home: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", 60)
    run = start("run", path, "--home", home, engine="SlowEngine", PAGEPACK_BROKER_URL=rabbit.url)
    wait_until(lambda: done_pages(home) > 0)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    queues = [row for row in rabbit.list("queues", "name", "arguments") if ".run." in str(row["name"])]
    assert len(queues) == 2 and all("x-expires" in str(row["arguments"]) for row in queues), queues
    exchanges = [row for row in rabbit.list("exchanges", "name", "auto_delete") if ".run." in str(row["name"])]
    assert all(row["auto_delete"] for row in exchanges), exchanges
    again = pagepack("run", path, "--home", home, PAGEPACK_BROKER_URL=rabbit.url)
    assert again.returncode == 0, again.stderr
    reconciles(home)


def test_a_broker_that_lost_everything_costs_nothing_but_time(rabbit: RabbitMQ, tmp_path: Path, home: Path) -> None:
    """Messages and notices alike. Who asked declares the queue again, as a Celery worker does."""
    path = write_pdf(tmp_path / "a.pdf", 80)
    asked = pagepack("submit", path, "--home", home, "--notify", "mine.done@mine", PAGEPACK_BROKER_URL=rabbit.url)
    assert asked.returncode == 0, asked.stderr
    worker = start("worker", "--home", home, engine="SlowEngine", PAGEPACK_BROKER_URL=rabbit.url)
    app = make_app(rabbit.url)

    def is_told() -> bool:
        with suppress(Unavailable):  # it is still coming up
            return queue_depth(app, "mine") == 1
        return False

    try:
        wait_until(lambda: done_pages(home) > 10)
        rabbit.lose_everything()
        wait_until(lambda: rows(home, "SELECT state FROM batch_summary") == [("finished",)])
        wait_until(is_told)
        rabbit.lose_everything()
        wait_until(is_told)
    finally:
        worker.terminate()
        _, errors = worker.communicate()
        print(errors)
    assert worker.returncode == 0, errors
    reconciles(home)
    left = {kind: rabbit.list(kind, "name", "arguments") for kind in ("queues", "exchanges")}
    for kind, found in left.items():
        marks = [row for row in found if str(row["name"]).startswith("pagepack.memory.")]
        assert len(marks) <= 1, f"{kind} of marks pile up: {marks}"
    alarms = [row for row in left["queues"] if str(row["name"]).startswith("pagepack.alarm.")]
    assert all("x-expires" in str(row["arguments"]) for row in alarms), alarms


def test_anyone_asks_for_a_document(rabbit: RabbitMQ, tmp_path: Path, home: Path) -> None:
    pagepack("db", "upgrade", "--home", home)
    worker = start("worker", "--home", home, engine="InstantEngine", PAGEPACK_BROKER_URL=rabbit.url)
    try:
        message = {"location": str(write_pdf(tmp_path / "a.pdf", 2)), "batch": "by message"}
        stranger = Celery("stranger", broker=rabbit.url)
        stranger.send_task("pagepack.submit_document", kwargs=message, queue="pagepack.ingest")
        wait_until(lambda: rows(home, "SELECT count(*) FROM page_text") == [(2,)])
    finally:
        worker.terminate()
        worker.communicate()


def test_what_is_enqueued_in_the_queue_of_a_model_is_there_alone(rabbit: RabbitMQ) -> None:
    app = make_app(rabbit.url)
    queue = read_queue(app, "m/1")
    enqueue_pages(app, range(3), queue)
    enqueue_pages(app, range(2))
    assert (queue_depth(app, queue), queue_depth(app, READ_QUEUE), queue_depth(app, INGEST_QUEUE)) == (3, 2, 0)


def test_a_wrong_password_is_said(rabbit: RabbitMQ, tmp_path: Path, home: Path) -> None:
    url = rabbit.url.replace("guest:guest", "guest:s3cret")
    wrong = pagepack("run", write_pdf(tmp_path / "a.pdf", 1), "--home", home, PAGEPACK_BROKER_URL=url)
    assert wrong.returncode == 2 and "refuses us" in wrong.stderr and "s3cret" not in wrong.stderr, wrong.stderr
