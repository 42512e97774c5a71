"""pagepack as a user starts it, for tests: real processes, what they left in the database, and how to wait for it."""

from __future__ import annotations

import io
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pymupdf

from tests.warm_start import WarmStart

PAGEPACK = [sys.executable, "-P", "-m", "pipeline"]
ROOT = Path(__file__).parent.parent
WARM = WarmStart("MINE")  # of docs/consumer.py
# What tests in this process put into its variables: torch, and a model over two devices.
_LEFT_BEHIND = ("TORCHINDUCTOR_CACHE_DIR", "GLOO_SOCKET_IFNAME")
HANGS_AFTER_SECONDS = 600.0
"""What takes longer hangs; a busy machine needs minutes where an idle one needs seconds."""


def environment(engine: str, **variables: str) -> dict[str, str]:
    """The tests' engines are found by name; leases are short, so that a test need not wait a minute."""
    return (
        variables_around()
        | {
            "PAGEPACK_INTERNAL_ENGINE": f"tests.stand_ins:{engine}",
            "PYTHONPATH": str(ROOT),
            "PAGEPACK_GRACE_SECONDS": "5",
        }
        | variables
    )


def variables_around() -> dict[str, str]:
    """Those of this process but for pagepack's, with which one is forked as `warm_start.py` says."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PAGEPACK_", *_LEFT_BEHIND))}


def pagepack(
    *arguments: str | Path, engine: str = "InstantEngine", fresh: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command to its end, in a process of its own; unless `fresh`, as `warm_start.py` says."""
    words, given = [*map(str, arguments)], environment(engine, **variables)
    if not fresh:
        done = WARM.run(words, given, HANGS_AFTER_SECONDS)
        if done is not None:
            return done
    return subprocess.run(
        [*PAGEPACK, *words],
        env=given,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_SECONDS,
    )


def call(*arguments: str | Path, engine: str = "InstantEngine", **variables: str) -> subprocess.CompletedProcess[str]:
    """As `pagepack`, but in this process, which spares a second of imports: for commands that only look or write rows.

    Not for what starts processes, or where streams, signals or the end of a process are the point. A worker that says
    what it finds, and ends, is forked as `warm_start.py` says, where that process is there already.
    """
    from pipeline.cli import main
    from pipeline.supervisor import forked

    words = [*PAGEPACK, *map(str, arguments)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept = {number: os.dup(number) for number in (1, 2)}
    code: Any = 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        told = io.TextIOWrapper(errors, encoding="utf-8", errors="backslashreplace", write_through=True)
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            with (
                mock.patch.dict(os.environ, environment(engine, **variables), clear=True),
                mock.patch.object(sys, "argv", ["pagepack", *words[len(PAGEPACK) :]]),
                mock.patch.object(forked, "fork_ahead", lambda count: nullcontext([])),  # not with a test's open files
                mock.patch.object(subprocess, "run", _worker_asked(subprocess.run)),
                redirect_stdout(sys.stdout),  # put back: the command puts its own there
                redirect_stderr(told),
            ):
                try:
                    main.main()
                except SystemExit as ended:
                    code = ended.code
                sys.stdout.flush()
        finally:
            for number, file in kept.items():
                os.dup2(file, number)
                os.close(file)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = []
        for file in (out, errors):
            file.seek(0)
            said.append(file.read().decode().replace("\r\n", "\n"))  # as `pagepack` reads it
        told.detach()
    return subprocess.CompletedProcess(words, code, *said)


def _worker_asked(run: Callable[..., Any]) -> Callable[..., Any]:
    """`subprocess.run`, by which a command asks `python -m workers ROLE`: 0.5 s of imports, or 2 with torch."""
    from pipeline.supervisor.processes import WORKERS

    def run_or_fork(command: Sequence[str], **how: Any) -> Any:
        if tuple(command[:-1]) == WORKERS and how.get("stdin") == subprocess.DEVNULL and WARM.is_there():
            done = WARM.run(command[-1:], how["env"], HANGS_AFTER_SECONDS, module="workers")
            if done is not None:
                return done
        return run(command, **how)

    return run_or_fork


def start(
    *arguments: str | Path,
    engine: str,
    fresh: bool = False,
    forked: bool = False,
    folder: Path | None = None,
    **variables: str,
) -> subprocess.Popen[str]:
    """A command that the test does not wait for; unless `fresh`, jobs and workers as `warm_start.py` says.

    Others, too, where `forked` says that the test asks nothing of how Python starts. It works in the folder, or in the
    test's own.
    """
    words, given = [*map(str, arguments)], environment(engine, **variables)
    if (forked or words[0] in ("run", "ask", "submit", "worker")) and not fresh:
        started = WARM.start(words, given, folder=folder)
        if started is not None:
            return started
    return subprocess.Popen(
        [*PAGEPACK, *words],
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def start_into(
    out: Path, errors: Path, words: Sequence[str | Path], given: dict[str, str], module: str = "pipeline"
) -> subprocess.Popen[Any]:
    """A command, or a module's, that writes into two files, which may be one; forked as `warm_start.py` says."""
    told = [*map(str, words)]
    with out.open("ab") as standard, errors.open("ab") as error:
        return WARM.start(told, given, module, out, errors) or subprocess.Popen(
            [sys.executable, "-P", "-m", module, *told],
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=standard,
            stderr=error,
            start_new_session=True,
        )


def start_module(
    module: str, words: Sequence[str | Path], given: dict[str, str], takes_words: bool = False
) -> subprocess.Popen[str]:
    """A module's process with pipes, to its standard input too if it `takes_words`; forked as `warm_start.py` says."""
    told = [*map(str, words)]
    return WARM.start(told, given, module, takes_words=takes_words) or subprocess.Popen(
        [sys.executable, "-P", "-m", module, *told],
        env=given,
        stdin=subprocess.PIPE if takes_words else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_host(home: Path, given: dict[str, str], log: Path) -> subprocess.Popen[Any]:
    """`pagepack worker`, which writes into its log."""
    return start_into(log, log, ["worker", "--home", home], given)


def start_worker(role: str, given: dict[str, str], log: Path) -> subprocess.Popen[Any]:
    """`python -m workers ROLE` as a supervisor starts it; it writes into its log."""
    return start_into(log, log, [role], given, "workers")


def write_pdf(path: Path, pages: int, dark: int | None = None, height_pt: float = 40) -> Path:
    """A PDF whose pages all differ; page index `dark` is black. Strips, as they are drawn with 1,024 pixels a line."""
    path.parent.mkdir(exist_ok=True)
    with pymupdf.open() as document:
        for index in range(pages):
            page = document.new_page(width=200, height=height_pt)
            if index == dark:
                page.draw_rect(page.rect, fill=(0, 0, 0))
            page.insert_text((20, 24), f"{path.stem} {index}")
        document.save(path)
    return path


def rows(home: Path, statement: str) -> list[tuple[Any, ...]]:
    kept: dict[Path, sqlite3.Connection] | None = getattr(_WAITING, "connections", None)
    if kept is None:
        with closing(_connection(home)) as connection:
            return connection.execute(statement).fetchall()
    if home not in kept:
        kept[home] = _connection(home)
    try:
        return kept[home].execute(statement).fetchall()
    except sqlite3.Error:
        kept.pop(home).close()
        raise


def _connection(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / "pagepack.db", timeout=30, isolation_level=None)


_WAITING = threading.local()
"""Connections of a thread that waits: to read the schema takes 4 ms, twenty times a second."""


def wait_until(condition: Callable[[], bool], seconds: float = HANGS_AFTER_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    around, _WAITING.connections = getattr(_WAITING, "connections", None), {}
    try:
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.05)
    finally:
        for connection in _WAITING.connections.values():
            connection.close()
        _WAITING.connections = around


def done_pages(home: Path) -> int:
    try:
        return int(rows(home, "SELECT count(*) FROM page_tasks WHERE state = 'done'")[0][0])
    except sqlite3.OperationalError:  # not migrated yet
        return 0


def processes_of(home: Path | str) -> list[psutil.Process]:
    """Every process that has this home in its command line or environment: workers, their children, the broker.

    From /proc, which takes 3 ms; psutil, which makes objects of all, takes 8.
    """
    sought, found = os.fsencode(home), []
    for folder in Path("/proc").glob("[1-9]*"):
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            if b"tests.warm_start" in words:  # what was forked from it has its words; a worker's log lies in the home
                words += b"\0".join(open_files(folder / "fd"))
            if sought in words and int(folder.name) != os.getpid():
                found.append(psutil.Process(int(folder.name)))
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def open_files(descriptors: Path) -> Iterator[bytes]:
    """The paths behind /proc/PID/fd. One that is closed meanwhile is left out, and hides no other."""
    for one in os.scandir(descriptors):
        with suppress(OSError):
            yield os.fsencode(os.readlink(one))


def reconciles(home: Path) -> None:
    """After whatever happened: nothing is left open, nothing is counted twice, the history is sound."""
    counts = "SELECT files_seen, files_done, files_failed, files_rejected FROM batch_summary"
    for seen, done, failed, rejected in rows(home, counts):
        assert seen == done + failed + rejected
    assert rows(home, "SELECT count(*) FROM page_tasks WHERE state NOT IN ('done', 'failed')") == [(0,)]
    assert rows(home, "SELECT count(*) FROM page_tasks WHERE owner IS NOT NULL") == [(0,)]
    answered = "SELECT task_id, count(*) FROM task_attempts WHERE error IS NULL GROUP BY task_id HAVING count(*) > 1"
    assert rows(home, answered) == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
