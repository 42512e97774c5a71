"""A thread that ends takes nobody with it, and nobody hears of it: an exception in each loop, and it goes on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.daemons import start_daemon
from pipeline.delivery import dispatcher as dispatch
from pipeline.delivery.dispatcher import Dispatcher
from pipeline.errors import Unavailable, UsageError
from pipeline.ingest import ingester as ingest
from pipeline.ingest.ingester import Ingester
from pipeline.settings import Settings
from pipeline.store import leases
from pipeline.store.claims import claim_document
from pipeline.supervisor import health
from pipeline.supervisor.health import serve
from pipeline.supervisor.queue_metrics import _Looker
from pipeline.supervisor.worker_host import WorkerHost
from tests.conftest import LIMITS, Archive
from tests.processes.test_watch import get, well
from tests.running import environment, wait_until
from tests.stand_ins import InstantEngine
from workers import reader
from workers import serve as worker
from workers.reader import Reader
from workers.writer import Writer


class Faulty:
    """Raises at its first `times` calls, as code does that has a fault; then it is what it stands for."""

    def __init__(self, real: Callable[..., Any], times: int = 1, error: BaseException | None = None) -> None:
        self.calls = 0
        self._real, self._times = real, times
        self._error = error or KeyError("a fault of ours")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return self._real(*args, **kwargs)


@contextmanager
def said_with_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.ERROR)
    yield
    assert any(record.exc_info for record in caplog.records), "nobody heard of it"


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """A heartbeat each quarter of a second."""
    return settings.model_copy(update={"lease_seconds": 1.0})


def test_a_thread_goes_on_after_any_exception_and_rests_longer_each_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr("pipeline.daemons.time.sleep", rests.append)
    done, steps = threading.Event(), iter([ValueError(), SystemExit(), KeyError(), None, OSError()])

    def step() -> None:
        error = next(steps, None)
        if error is not None:
            raise error
        if len(rests) == 4:
            done.set()

    with said_with_traceback(caplog):
        thread = start_daemon("test", step, longest_seconds=2.0, is_over=done.is_set)
        thread.join(60)
    assert done.is_set() and not thread.is_alive()
    assert rests == [1, 2, 2, 1]


class WithoutFigures(InstantEngine):
    """Its figures cannot be had, whoever asks."""

    asked = 0
    is_broken = True

    def stats(self) -> dict[str, float]:
        self.asked += 1
        if self.is_broken:
            raise KeyError("a figure")
        return {}


def lease_until(archive: Archive, table: str) -> float:
    return float(archive.scalar(f"SELECT max(lease_until) FROM {table} WHERE state = 'leased'"))


def held_by(reader: Reader, archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    claim = archive.claim(page)
    assert claim is not None
    reader._hold(claim)
    archive.execute("UPDATE page_tasks SET lease_until = 1")


def test_an_engine_without_figures_keeps_its_leases(
    archive: Archive, quick: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    engine = WithoutFigures()
    with said_with_traceback(caplog):
        held_by(Reader(archive.db, engine, quick, "read/1"), archive)
        wait_until(lambda: lease_until(archive, "page_tasks") > time.time() - 10)
        before, asked = lease_until(archive, "page_tasks"), engine.asked
        wait_until(lambda: lease_until(archive, "page_tasks") > before and engine.asked > asked)
    engine.is_broken = False  # its thread outlives this test


def test_a_reader_renews_after_an_exception(
    archive: Archive, quick: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "renew_tasks", Faulty(reader.renew_tasks))
    with said_with_traceback(caplog):
        held_by(Reader(archive.db, InstantEngine(), quick, "read/1"), archive)
        wait_until(lambda: lease_until(archive, "page_tasks") > time.time() - 10)


def test_an_ingester_renews_after_an_exception(
    archive: Archive, quick: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "renew_document", Faulty(leases.renew_document))
    document_id = archive.see("/in/a.pdf") or 0
    ingester = Ingester(archive.db, quick, "ingest/1", lambda: False)
    with said_with_traceback(caplog):
        ingester._claim = claim_document(archive.db, document_id, "ingest/1", 60)
        archive.execute("UPDATE documents SET lease_until = 1")
        wait_until(lambda: lease_until(archive, "documents") > time.time() - 10)


def test_a_worker_says_that_it_is_there_after_an_exception(
    archive: Archive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    still_there = Faulty(worker.still_there, times=0)
    monkeypatch.setattr(worker, "still_there", still_there)
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.05)
    with said_with_traceback(caplog):
        worker._enlist(lambda: archive.db, "h:read-1", "read", 4)
        still_there._times = still_there.calls + 1
        archive.execute("UPDATE worker_processes SET seen_at = 1")
        wait_until(lambda: still_there.calls > still_there._times)
        wait_until(lambda: archive.scalar("SELECT seen_at FROM worker_processes") > time.time() - 10)


def test_the_writer_serves_on_after_an_exception(archive: Archive) -> None:
    """Of two pages that were claimed together the second cannot be taken in hand: the first one was given out."""
    first, second, third = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1", "2"])
    hold = Faulty(lambda claim: None, times=0)

    def take(claim: Any) -> None:
        hold._times = 1 if claim.page_id == second else 0
        hold.calls = 0
        hold(claim)

    never: Callable[[], bool] = lambda: False  # noqa: E731
    writer = Writer(
        archive.db,
        "read/1",
        ["m1"],
        "m1",
        LIMITS,
        hold=take,
        held=set,
        is_stopping=never,
        is_over=never,
        most_in_hand=3,
    )
    found: dict[int, object] = {}

    def claim(page: int) -> None:
        try:
            found[page] = writer.claim(page, False).pages[page].page_id
        except KeyError as error:
            found[page] = error

    writer._begun = time.monotonic() + 3600  # so that both are of one group, in this order
    threads = [threading.Thread(target=claim, args=(page,), daemon=True) for page in (first, second)]
    threads[0].start()
    wait_until(lambda: bool(writer._wishes))
    threads[1].start()
    for thread in threads:
        thread.join(60)
    claim(third)
    assert found[first] == first and isinstance(found[second], KeyError) and found[third] == third


def test_figures_are_served_after_an_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Faulty(lambda: None)
    monkeypatch.setattr(health._Server, "service_actions", lambda self: broken())
    with (
        said_with_traceback(caplog),
        serve("127.0.0.1", 0, is_alive=well, readiness=well, folder=tmp_path) as port,
    ):
        wait_until(lambda: broken.calls > 1)
        assert get(port, "/healthz")[0] == 200


@pytest.mark.parametrize("error", [KeyError("a fault"), SystemExit("a library's")])
def test_the_backlog_is_asked_again_after_an_exception(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    looker = _Looker(Faulty(lambda: 7, error=error))
    with said_with_traceback(caplog):
        assert "a " in str(looker.look())
    looker._again_at = 0.0
    wait_until(lambda: looker.look() == 7)


def test_page_images_are_swept_again_after_an_exception(
    archive: Archive, settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Faulty(lambda *_: 0)
    monkeypatch.setattr(dispatch, "sweep_images", sweep)
    monkeypatch.setattr(dispatch, "_IMAGE_SWEEP_SECONDS", 0.0)
    said: list[str] = []
    dispatcher = Dispatcher(archive.db, settings, said.append)
    with said_with_traceback(caplog):
        for calls in (1, 2):
            dispatcher.sweep()
            dispatcher._image_sweep.join(60)
            assert sweep.calls == calls
    assert said == ["page images were not freed: KeyError: 'a fault of ours'"]


class Supervisor:
    """Of a host; a tick raises what it is told to."""

    is_busy = False

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.children = self

    def tick(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def hear_alarm(self) -> None:
        pass

    def are_ready(self) -> bool:
        return False


def test_a_fault_in_a_tick_ends_no_host(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    host = WorkerHost(settings, [], said.append)
    supervisor: Any = Supervisor(KeyError("a fault"), AssertionError("another"), Unavailable("the broker is away"))
    with said_with_traceback(caplog):
        rests = [host._step(supervisor) for _ in range(4)]
    assert rests[0] < rests[1] and rests[3] < rests[0], rests
    assert said == ["the broker is away", "all is back"]
    unfit: Any = Supervisor(UsageError("settings do not fit"))
    with pytest.raises(UsageError):
        host._step(unfit)


def test_a_worker_that_cannot_hear_its_parent_ends(tmp_path: Path) -> None:
    """Nothing guards it any more, and nothing would end it. What is open for writing alone gives an error when read."""
    code = "from workers.__main__ import _die_with_parent; import time; _die_with_parent(); time.sleep(100)"
    unreadable = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    guarded = environment("InstantEngine", PAGEPACK_INTERNAL_GUARD="1")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=guarded,
        stdin=unreadable,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(unreadable)
    _, said = process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL and "standard input cannot be read" in said, said
