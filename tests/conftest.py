"""A migrated database of its own for each test, and a small archive that is built by the store's own calls.

A module with `DATABASES = ("sqlite", "postgresql")` runs its tests on both; a test marked `only(...)` on one of them.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.errors import DocumentRejected
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer, ReusedAnswer
from pipeline.store.batch_end import finish_batch
from pipeline.store.batches import OpenBatch, open_batch
from pipeline.store.claims import PageClaim, claim_document, claim_pages
from pipeline.store.leases import Limits
from pipeline.store.pages import NewPage, add_pages, finish_document, set_page_count
from pipeline.store.results import Outcome, complete_pages
from pipeline.store.retries import retry_failures
from pipeline.store.sources import SeenFile, record_files
from schemas.prompts import OCR, Prompt
from tests.postgres import FAST, SHARED, TEMPLATE, DatabasePool, PostgresServer, shared_folder
from tests.statements import compile_once

# `make test` tries the same examples each time, `make fuzz` others and twenty times as many. Slowness is no fault.
_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]
for _name, _how in {"fixed": {"derandomize": True}, "fuzz": {"max_examples": 2_000, "print_blob": True}}.items():
    hypothesis_settings.register_profile(_name, deadline=None, suppress_health_check=_SLOW_IS_FINE, **_how)
hypothesis_settings.load_profile("fixed")

compile_once()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # test processes that it starts have its variables
        at_the_end = ExitStack()
        os.environ[SHARED] = str(at_the_end.enter_context(shared_folder()))
        config.add_cleanup(at_the_end.close)


gc.disable()  # while the tests are collected: what is imported now lives to the end


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # else each full collection of garbage would walk through torch and all tests
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        gc.unfreeze()  # extension modules count what is left of theirs at the end, and complain


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # all is told and torn down: to take such a heap apart takes a second or two
        os._exit(0)


LIMITS = Limits(lease_seconds=60.0, max_attempts=3, max_crashes=3)
NEVER = 9e9  # seconds after which an enqueued message is taken for lost: not in a test


def sha(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def answer(text: str, model: str = "m1", **given: Any) -> ReadAnswer:
    return ReadAnswer(**{"engine": "rapidocr", "model": model, "text": text, "finish_reason": "stop"} | given)


def claim_page(db: Database, page_id: int, owner: str, models: Sequence[str], lease_seconds: float) -> PageClaim | None:
    """Lease all waiting prompts of a page, a suspect too; None where nothing waits."""
    return claim_pages(db, [page_id], owner, models, lease_seconds, alone={page_id}).pages.get(page_id)


def complete_page(db: Database, claim: PageClaim, worker: str, outcomes: Mapping[int, Outcome], limits: Limits) -> int:
    """`complete_pages` of one; how many of its tasks were still ours."""
    return len(complete_pages(db, worker, [(claim, outcomes)], limits))


def reuse_answers(db: Database, claim: PageClaim, answers: Mapping[int, int]) -> None:
    """Settle claimed tasks with answers that exist already (task id → answer id), as a reader does."""
    complete_page(db, claim, "", {task_id: ReusedAnswer(answer_id) for task_id, answer_id in answers.items()}, LIMITS)


def examples(count: int) -> hypothesis_settings:
    """So many of them in `make test`, for what is slow or needs more than a hundred."""
    return hypothesis_settings(max_examples=count * hypothesis_settings().max_examples // 100)


@dataclass
class Archive:
    """Drives the store as ingest and read workers do, without their processes."""

    db: Database
    model: str = "m1"
    batches: dict[str, OpenBatch] = field(default_factory=dict)

    def batch(
        self,
        name: str = "b",
        prompts: Sequence[Prompt] = (OCR,),
        model: str | None = None,
        text_layer: str = "keep",
        detail: str = "auto",
    ) -> OpenBatch:
        self.batches[name] = open_batch(
            self.db,
            key=name,
            name=name,
            prompts=prompts,
            engine="rapidocr",
            model=model or self.model,
            text_layer=text_layer,
            detail=detail,
        )
        return self.batches[name]

    def see(self, path: str, content: str | None = None, batch: str = "b", rejection: str | None = None) -> int | None:
        """Record a file; its document's id."""
        content_hash = sha(content if content is not None else path)
        error = DocumentRejected(f"{path} is {rejection}", cause=rejection) if rejection else None
        what: dict[str, Any] = {"rejection": error} if error else {"kind": "pdf", "content_hash": content_hash}
        self._record(batch, [SeenFile(path, f"file://{sha(path)}", 10, 1, **what)])
        return None if rejection else self.scalar("SELECT id FROM documents WHERE content_hash = :h", h=content_hash)

    def see_all(self, paths: Sequence[str], batch: str = "b") -> None:
        """Record many files at once, which all differ."""
        what = [(path, sha(path)) for path in paths]
        self._record(batch, [SeenFile(path, f"file://{key}", 10, 1, "pdf", key) for path, key in what])

    def _record(self, batch: str, files: Sequence[SeenFile]) -> None:
        record_files(self.db, self.batches.get(batch) or self.batch(batch), files)

    def ingest(self, document_id: int, pages: Sequence[NewPage | str]) -> list[int]:
        """Claim a document and store its pages, of which a text stands for one with an image of that content.

        Ids of those that wait.
        """
        claim = claim_document(self.db, document_id, "ingest/1", LIMITS.lease_seconds)
        assert claim is not None
        set_page_count(self.db, claim, len(pages))
        new = [
            page if isinstance(page, NewPage) else NewPage(index, sha(page), 16, 32) for index, page in enumerate(pages)
        ]
        assert add_pages(self.db, claim, new) and finish_document(self.db, claim, len(pages))
        return self.waiting(document_id)

    def waiting(self, document_id: int) -> list[int]:
        """Ids of a document's pages of which a prompt waits."""
        waiting = "SELECT page_id FROM page_tasks WHERE state = 'pending'"
        pages = f"SELECT id FROM pages WHERE document_id = :id AND id IN ({waiting}) ORDER BY id"
        return [page_id for (page_id,) in self.rows(pages, id=document_id)]

    def claim(self, page_id: int, owner: str = "read/1", models: Sequence[str] = ("m1", "m2")) -> PageClaim | None:
        return claim_page(self.db, page_id, owner, models, LIMITS.lease_seconds)

    def read(self, page_id: int, outcome: str | Exception | Callable[[Prompt], Any], model: str = "m1") -> int:
        """Claim a page and answer each of its prompts."""
        claim = self.claim(page_id, models=[model])
        assert claim is not None
        said: Callable[[Prompt], Any] = outcome if callable(outcome) else lambda _: outcome
        said_of = {task.task_id: said(task.prompt) for task in claim.tasks}
        outcomes = {key: answer(value, model) if isinstance(value, str) else value for key, value in said_of.items()}
        return complete_page(self.db, claim, "read/1", outcomes, LIMITS)

    def file(self, path: str, texts: Sequence[str], batch: str = "b") -> None:
        """A whole document, seen, ingested and read."""
        document_id = self.see(path, batch=batch)
        assert document_id is not None
        waiting = self.ingest(document_id, [f"{path}#{index}" for index in range(len(texts))])
        for page_id, text in zip(waiting, texts, strict=True):
            self.read(page_id, text)

    def retry(self, where: str = "1 = 1", batch: str = "b") -> tuple[int, int]:
        """What `pagepack retry --where` does."""
        failures = f"SELECT DISTINCT source_path, page_number FROM failures WHERE batch_id = :id AND {where}"
        rows = self.rows(failures, id=self.batches[batch].public_id)
        return retry_failures(self.db, self.batches[batch].id, rows)

    def finish(self, batch: str = "b") -> bool:
        return finish_batch(self.db, self.batches[batch])

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.db.read() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def scalar(self, statement: str, **values: Any) -> Any:
        return self.rows(statement, **values)[0][0]

    def execute(self, statement: str, **values: Any) -> None:
        with self.db.write() as connection:
            connection.execute(sa.text(statement), values)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`backend` of each test: what its module names, unless a mark leaves one of them."""
    if "backend" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("backend", only.args if only else getattr(metafunc.module, "DATABASES", ("sqlite",)))


_LONGEST_FIRST = ("processes", "engine", "", "database", "unit")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Test processes get their tests in this order, so that short ones fill up the end: groups of modules come first.

    Those of an engine's module go to one process: their models and tokenizers are made once.
    """
    here = Path(__file__).parent
    ranks = {name: rank for rank, name in enumerate(_LONGEST_FIRST)}

    def order(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.parent.name if item.path.parent != here else ""
        return item.get_closest_marker("xdist_group") is None, ranks.get(folder, 2)

    items.sort(key=order)
    for item in items:
        if item.path.parent.name == "engine" and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    yield
    if getattr(config.option, "loadgroup", False):  # pytest-xdist's own hook has told the groups, or pytest is another
        for item in items:
            group = item.get_closest_marker("xdist_group")
            assert group is None or item.nodeid.endswith(f"@{group.args[0]}"), f"no group is told of {item.nodeid}"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database at head, made once and copied for each test."""
    home = tmp_path_factory.mktemp("migrated")
    database = open_database(Settings(home=home), create=True)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.dispose()
    return home / "pagepack.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; `pagepack_template` in it is at head."""
    with PostgresServer(**FAST, listen_addresses="127.0.0.1", port="0") as server:
        yield server


@pytest.fixture(scope="session")
def _server_to_stop() -> Iterator[PostgresServer]:
    with PostgresServer(**FAST | {"synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def server_to_stop(_server_to_stop: PostgresServer) -> PostgresServer:
    """One that a test may stop, and whose commits outlive that. Its tests are marked `STOPS`: one process has it."""
    if not (_server_to_stop.folder / "data" / "postmaster.pid").exists():
        _server_to_stop.start()
    return _server_to_stop


@pytest.fixture
def url_to_stop(server_to_stop: PostgresServer) -> str:
    """A database at head in it, of the test's own."""
    name = f"test_{uuid.uuid4().hex}"
    server_to_stop.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    return server_to_stop.url(name)


STOPS = pytest.mark.xdist_group("server to stop")


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Iterator[DatabasePool]:
    pool = DatabasePool(postgres, TEMPLATE)
    yield pool
    pool.close()


@pytest.fixture
def new_settings(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path, migrated: Path
) -> Iterator[Callable[[], Settings]]:
    """Makes a migrated database of its own at each call."""
    made: list[str] = []
    pool: DatabasePool | None = request.getfixturevalue("databases") if backend == "postgresql" else None

    def new() -> Settings:
        home = tmp_path / f"home{len(made) or ''}"
        home.mkdir()
        if pool is None:
            made.append("")
            shutil.copy(migrated, home / "pagepack.db")
            return Settings(home=home)
        made.append(pool.take())
        return Settings(home=home, database_url=request.getfixturevalue("postgres").url(made[-1]))

    yield new
    for name in made if pool else []:
        assert pool
        pool.give_back(name)


@pytest.fixture
def settings(new_settings: Callable[[], Settings]) -> Settings:
    return new_settings()


@pytest.fixture
def db(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Database]:
    if settings.database_url is None:
        database = open_database(settings)
        yield database
        database.dispose()
        return
    pool: DatabasePool = request.getfixturevalue("databases")
    yield pool.open(settings)
    pool.close_all_but_one(sa.make_url(settings.database_url).database or "")


@pytest.fixture
def archive(db: Database) -> Archive:
    return Archive(db)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A broker that is not the home's own."""
    server = EmbeddedBroker(tmp_path / "elsewhere")
    server.start()
    yield server.url
    server.stop()
