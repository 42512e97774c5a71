"""No process is to be had: no memory, too many of them, or the program's own file is gone."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.database.engine import Database
from pipeline.delivery.embedded_broker import EmbeddedBroker
from pipeline.errors import PagepackError, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.supervisor import doctor, engine_choice, processes
from pipeline.supervisor.processes import Children, ProcessSlot
from tests.running import wait_until

NOWHERE = ("/nowhere/python", "-m", "workers")
READ = ProcessSlot("read")
Supervisor = Callable[..., tuple[Children, list[str]]]


@pytest.fixture
def supervisor(db: Database, settings: Settings, tmp_path: Path) -> Supervisor:
    def make(*, gives_up: bool) -> tuple[Children, list[str]]:
        said: list[str] = []
        return Children(db, settings, [READ], said.append, gives_up=gives_up, logs=tmp_path / "logs"), said

    return make


def no_memory(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def test_a_host_without_memory_for_a_worker_tries_again_later_each_time(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, said = supervisor(gives_up=False)
    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", no_memory)
        watched._starts[READ] = 2_000  # for days
        watched.watch("redis://127.0.0.1:1/0")
        watched._starts[READ] = 0
        for _ in range(2):
            watched._next_start.clear()
            watched.watch("redis://127.0.0.1:1/0")
        watched.watch("redis://127.0.0.1:1/0")  # not due yet
    wait = "the read worker cannot be started: [Errno 12] Cannot allocate memory; trying again in"
    assert said == [f"{wait} 60 s", f"{wait} 2 s", f"{wait} 4 s"]
    watched._next_start.clear()
    watched.watch("redis://127.0.0.1:1/0")
    assert len(watched.owners()) == 1
    watched.stop(lambda: True)


def test_a_run_without_memory_for_a_worker_ends_as_stopped_by_the_machine(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, said = supervisor(gives_up=True)
    monkeypatch.setattr(subprocess, "Popen", no_memory)
    for _ in range(3):
        watched._next_start.clear()
        watched.watch("redis://127.0.0.1:1/0")
    watched._next_start.clear()
    with pytest.raises(Unavailable, match="Cannot allocate memory; free memory, processes or open files"):
        watched.watch("redis://127.0.0.1:1/0")
    assert len(said) == 3


def test_where_the_program_is_gone_a_run_ends_and_a_host_waits_for_its_return(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's upgrade takes it away for a moment."""
    monkeypatch.setattr(processes, "WORKERS", NOWHERE)
    watched, said = supervisor(gives_up=False)
    watched.watch("redis://127.0.0.1:1/0")
    assert "No such file or directory: '/nowhere/python'; trying again in 2 s" in said[0]
    ending, _ = supervisor(gives_up=True)
    with pytest.raises(UsageError, match="still installed"):
        ending.watch("redis://127.0.0.1:1/0")


def test_what_else_starts_a_process_says_what_is_wrong(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "WORKERS", NOWHERE)
    with pytest.raises(Unavailable, match="which engine reads here"):
        engine_choice.describe_engine(settings)
    assert [check.state for check in doctor._engines(settings)] == ["broken"]
    monkeypatch.setattr(doctor, "server_binary", lambda: NOWHERE[0])
    assert doctor._broker(settings).state == "broken"
    server, descriptors = EmbeddedBroker(tmp_path), len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", no_memory)
        with pytest.raises(PagepackError, match=r"embedded broker .* cannot be started: .* Cannot allocate memory"):
            server.start()
    assert len(os.listdir("/proc/self/fd")) == descriptors, "no pipe is left"
    server.start()
    wait_until(server.answers)
    server.stop()
