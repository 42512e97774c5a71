"""Pages a second from claim to stored answer, with an engine that answers at once: what everything but reading costs.

    python -m benchmarks.bench_pipeline --sizes 1000 10000 100000 1000000 [--database sqlite|postgresql] [--seconds 100]

Real parts: a Valkey server on its own socket, a PostgreSQL server from its wheel with its durable defaults (fsync and
synchronous_commit on), Celery read workers as `pagepack` starts them, and a process with the dispatcher of `pagepack
worker`. Pages are rasterized before: every page has a tiny image of its own in the store,
for a page whose image was read before would only be given its old answer. An answer has `--words` words, of a
vocabulary of 5,000, and is indexed for search. Time counts from the first message to the last stored answer; the
workers have read 200 other pages before.

A size that takes longer than `--seconds` is measured for so long, with all its rows in the tables.

Per size: CPU milliseconds a page of each kind of process, resident memory near the end (of PostgreSQL's processes
without what they share), the broker's peak, and what the database grew by a page. Ends in one line of JSON.

Over 300 lines: one measurement, its parts and its weighing in the order in which they run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image

from pipeline.blobs.page_images import ImageStore
from pipeline.blobs.png import encode
from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.delivery.broker import enqueue_pages, make_app
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.settings import Settings, load_settings
from pipeline.store.batches import open_batch
from pipeline.store.fleet import workers
from pipeline.store.progress import what_is_open
from schemas.columns import utc_now, uuid7
from schemas.prompts import OCR, Prompt
from schemas.tables import Page, PageTask
from tests.postgres import PostgresServer
from workers.engines import Answer, Engine

MODEL = "bench/1"
PAGES_A_DOCUMENT = 1_000
WARM = 200  # pages that are read before the time counts: workers run for days
_rng = random.Random(1)
VOCABULARY = ["".join(_rng.choices("abcdefghijklmnopqrstuvwxyz", k=_rng.randint(2, 11))) for _ in range(5_000)]


class BenchEngine(Engine):
    """Answers at once; which words is drawn by the image's hash."""

    name = "instant"
    model = MODEL
    capacity = int(os.environ.get("BENCH_CAPACITY", "64"))

    def supports(self, prompt: Prompt) -> bool:
        return True

    def submit(
        self, image_hash: str, pixels: NDArray[np.uint8], prompts: Sequence[Prompt], deadline: float | None = None
    ) -> list[Future[Answer]]:
        words = random.Random(image_hash).choices(VOCABULARY, k=int(os.environ.get("BENCH_WORDS", "200")))
        futures: list[Future[Answer]] = []
        for _ in prompts:
            future: Future[Answer] = Future()
            future.set_result(Answer(" ".join(words), "stop", 0.0))
            futures.append(future)
        return futures

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def prepare(db: Database, images: ImageStore, count: int, real: int) -> int:
    """A batch of `count` pages that wait, in documents of 1,000; its id. The first `real` of them have their images."""
    batch = open_batch(
        db,
        key=f"bench {count} {uuid7()}",
        name="bench",
        prompts=[OCR],
        engine="instant",
        model=MODEL,
        text_layer="keep",
    )
    first = 0
    with db.read() as connection:
        first = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(Page.id), 0))) or 0
    for start in range(0, min(count, real), PAGES_A_DOCUMENT):
        numbers = range(first + start, first + min(start + PAGES_A_DOCUMENT, count, real))
        with db.write() as connection:
            document = connection.exec_driver_sql(
                "INSERT INTO documents (public_id, content_hash, kind, size_bytes, page_count, batch_id, state, token, "
                f"attempts, crashes, next_attempt_at) VALUES ('{uuid7()}', '{uuid7()}', 'pdf', 1, {len(numbers)}, "
                f"{batch.id}, 'ready', 0, 0, 0, 0) RETURNING id"
            ).scalar()
            pages = [
                {
                    "document_id": document,
                    "page_index": index,
                    "image_hash": images.put(encode(_image(number))),
                    "width_px": 16,
                    "height_px": 16,
                    "created_at": utc_now(),
                }
                for index, number in enumerate(numbers)
            ]
            connection.execute(sa.insert(Page), pages)
            waiting = sa.select(
                Page.id,
                sa.literal(OCR.version),
                sa.literal(MODEL),
                sa.literal(batch.id),
                sa.literal("pending"),
                *[sa.literal(0)] * 4,
            ).where(Page.document_id == document)
            columns = ["page_id", "prompt_version", "model", "batch_id", "state", "token", "attempts", "crashes"]
            connection.execute(sa.insert(PageTask).from_select([*columns, "next_attempt_at"], waiting))
    with db.write() as connection:
        for statement in _rest(count - real, batch.id) if count > real else []:
            connection.execute(sa.text(statement))
        connection.exec_driver_sql("ANALYZE")
    if db.dialect == "postgresql":  # what so many rows at once leave to do is no page's time either
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("CHECKPOINT")
    return batch.id


def _rest(count: int, batch_id: int) -> list[str]:
    """Pages that wait behind the others and are never reached, so that the tables are as large as they would be."""
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
    return [
        "INSERT INTO documents (public_id, content_hash, kind, size_bytes, page_count, batch_id, state, token, "
        f"attempts, crashes, next_attempt_at) {numbers} SELECT 'rest' || i, 'rest' || i, 'pdf', 1, 1000, {batch_id}, "
        f"'ready', 0, 0, 0, 0 FROM n WHERE i <= {count // PAGES_A_DOCUMENT}",
        "INSERT INTO pages (document_id, page_index, image_hash, width_px, height_px, created_at) "
        f"{numbers} SELECT d.id, i % 1000, 'rest' || i, 16, 16, d0.started_at FROM n "
        f"JOIN documents d ON d.content_hash = 'rest' || (i / 1000) JOIN batches d0 ON d0.id = {batch_id}",
        "INSERT INTO page_tasks (page_id, prompt_version, model, batch_id, state, token, attempts, crashes, "
        f"next_attempt_at) SELECT p.id, '{OCR.version}', '{MODEL}', {batch_id}, 'pending', 0, 0, 0, 0 FROM pages p "
        "JOIN documents d ON d.id = p.document_id WHERE d.content_hash LIKE 'rest%' ORDER BY p.id",
    ]


def _image(number: int) -> Image.Image:
    """16 × 16 grey pixels that say the number."""
    return Image.frombytes("L", (16, 16), number.to_bytes(8, "big") * 32)


def enqueue(batch_id: int) -> None:
    """The dispatcher of `pagepack worker`, in a process of its own, until nothing is open."""
    settings = load_settings()
    db, app = open_database(settings), make_app(str(settings.broker_url))
    enqueue_pages(app, [0])  # there is none: what is imported for the first message is no page's time
    dispatcher = Dispatcher(db, settings, lambda said: print(said, file=sys.stderr))
    print("ready", flush=True)
    sys.stdin.readline()
    while what_is_open(db, batch_id):
        dispatcher.tick(app)
        time.sleep(0.1 if dispatcher.is_busy else 0.5)  # as `pagepack worker` does


@contextlib.contextmanager
def servers(database: str, home: Path) -> Iterator[tuple[Settings, EmbeddedBroker, PostgresServer | None]]:
    home.mkdir()
    broker = EmbeddedBroker(home)
    broker.start()
    try:
        if database == "sqlite":
            yield Settings(home=home, broker_url=broker.url), broker, None
            return
        with PostgresServer(shared_buffers="512MB", max_wal_size="4GB") as server:
            server.execute("CREATE DATABASE bench")
            yield Settings(home=home, broker_url=broker.url, database_url=server.url("bench")), broker, server
    finally:
        broker.stop()


def measure(
    count: int, database: str, processes: int, capacity: int, words: int, most_seconds: float, work: Path
) -> dict[str, Any]:
    with servers(database, work / f"home{count}") as (settings, broker, server):
        db = open_database(settings, create=True)
        warm_id = prepare(db, ImageStore(settings.home / "images"), WARM, WARM)
        before_preparing = time.monotonic()
        real = round(1_000 * most_seconds)
        batch_id = prepare(db, ImageStore(settings.home / "images"), count, real)
        prepared = time.monotonic() - before_preparing
        environment = os.environ | {
            "PAGEPACK_INTERNAL_ENGINE": "benchmarks.bench_pipeline:BenchEngine",
            "PAGEPACK_HOME": str(settings.home),
            "PAGEPACK_BROKER_URL": broker.url,
            "BENCH_CAPACITY": str(capacity),
            "BENCH_WORDS": str(words),
        }
        if settings.database_url:
            environment["PAGEPACK_DATABASE_URL"] = settings.database_url
        with _started(["workers", "read"], processes, environment) as readers:
            while sum(worker.slots for worker in workers(db)) < processes * (capacity + 1):
                assert all(reader.poll() is None for reader in readers), "a worker did not come up"
                time.sleep(0.1)
            with _started(["benchmarks.bench_pipeline", "--enqueue", str(warm_id)], 1, environment) as (enqueuer,):
                enqueuer.communicate(b"go\n")
            size = _database_bytes(db, settings)
            watched = {
                "read worker": [psutil.Process(reader.pid) for reader in readers],
                "broker": _by_name("valkey", psutil.Process().children(recursive=True)),
            }
            if server:
                watched["postgresql"] = [psutil.Process(server.pid)]
            spent = {name: _cpu(some) for name, some in watched.items()}
            with _started(["benchmarks.bench_pipeline", "--enqueue", str(batch_id)], 1, environment) as (enqueuer,):
                assert enqueuer.stdout and enqueuer.stdin and enqueuer.stdout.readline()
                enqueuer_processes = psutil.Process(enqueuer.pid)
                watched["enqueuer"] = [enqueuer_processes]
                spent["enqueuer"] = _cpu([enqueuer_processes])
                began = time.monotonic()
                enqueuer.stdin.write(b"go\n")
                enqueuer.stdin.flush()
                enqueuer_resident = 0  # the last before it ends by itself
                while what_is_open(db, batch_id) and time.monotonic() < began + most_seconds:  # little: two cores read
                    assert all(reader.poll() is None for reader in readers), "a worker died"
                    enqueuer_resident = enqueuer_processes.memory_info().rss or enqueuer_resident
                    time.sleep(min(0.25, count / 20_000))  # of a small number the end would be seen late
                seconds = time.monotonic() - began
                spent = {name: _cpu(some) - spent[name] for name, some in watched.items()}
                read, distinct = (found - WARM for found in _answered(db))
                memory = {name: _resident(some) for name, some in watched.items()} | {"enqueuer": enqueuer_resident}
        assert read < real or count <= real, "pages without an image were read"
        assert read == distinct, f"{distinct} pages were read {read} times"
        with redis.Redis(unix_socket_path=broker.url.removeprefix("redis+socket://")) as client:
            peak = client.info("memory")["used_memory_peak"]
        grown = (_database_bytes(db, settings) - size) / read
        db.dispose()
    shutil.rmtree(work / f"home{count}")
    return {
        "pages": count,
        "pages_read": read,
        "pages_per_second": round(read / seconds, 1),
        "cpu_ms_a_page": {name: round(1e3 * cpu / read, 2) for name, cpu in spent.items()},
        "resident_mib": {name: round(size / 2**20, 1) for name, size in memory.items()},
        "broker_peak_mib": round(peak / 2**20, 1),
        "database_bytes_a_page": round(grown),
        "prepared_seconds": round(prepared, 1),
    }


def _answered(db: Database) -> tuple[int, int]:
    """Tries that gave an answer, and of how many pages."""
    with db.read() as connection:
        counts = "SELECT count(*), count(DISTINCT task_id) FROM task_attempts WHERE error IS NULL"
        tries, pages = connection.execute(sa.text(counts)).one()
    return int(tries), int(pages)


@contextlib.contextmanager
def _started(words: list[str], count: int, environment: dict[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", *words]
    errors = sys.stderr if os.environ.get("BENCH_SHOW") else subprocess.DEVNULL
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _by_name(name: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if name in " ".join(process.cmdline())]


def _cpu(processes: list[psutil.Process]) -> float:
    """Seconds of these and of what they started, also of what has ended."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    total += times.user + times.system + (times.children_user + times.children_system)
    return total


def _resident(processes: list[psutil.Process]) -> int:
    """The largest of several workers; of a server's processes, the sum of their memory without what they share."""
    largest = 0
    for process in processes:
        children = process.children(recursive=True) if process.is_running() else []
        total = 0
        for one in [process, *children]:
            with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's autovacuum comes and goes
                memory = one.memory_info()
                # Pages of shared buffers that no other process touched yet would be in what the kernel calls unique.
                total += memory.rss - memory.shared if children else memory.rss
        largest = max(largest, total)
    return largest


def _database_bytes(db: Database, settings: Settings) -> int:
    if settings.database_url is None:
        return (settings.home / "pagepack.db").stat().st_size
    with db.read() as connection:
        return int(connection.scalar(sa.text("SELECT pg_database_size(current_database())")) or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, help="one size; the same as --sizes N")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--processes", type=int, default=2, help="read workers")
    parser.add_argument("--capacity", type=int, default=64, help="pages that a worker holds at once")
    parser.add_argument("--words", type=int, default=200, help="of an answer")
    parser.add_argument("--seconds", type=float, default=100.0, help="of a larger size, measure so long")
    parser.add_argument("--enqueue", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.enqueue is not None:
        enqueue(given.enqueue)
        return
    work = Path(tempfile.mkdtemp(prefix="pagepack-bench-"))
    rows = []
    try:
        for count in [given.pages] if given.pages else given.sizes:
            row = measure(count, given.database, given.processes, given.capacity, given.words, given.seconds, work)
            rows.append(row)
            print(row, flush=True)
    finally:
        shutil.rmtree(work)
    conditions = {name: value for name, value in vars(given).items() if name not in ("enqueue", "pages", "sizes")}
    print(json.dumps({"pages_per_second": rows[-1]["pages_per_second"], **conditions, "rows": rows}))


if __name__ == "__main__":
    main()
