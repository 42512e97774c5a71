"""The first workers of `pagepack run` and `pagepack worker`, forked before there are threads, connections or locks.

A fresh worker imports for 0.7 s of processor time what the run has imported already (SQLAlchemy, Celery, the tables); a
forked one has it, and shares the memory. It waits in a session of its own until it is told what it shall be:

    run     fork · fork · lock, database, broker ──order──> writes one line, keeps the pipe open
    worker  waits on its standard input                     environment, log, then as `python -m workers ROLE`

The pipe's end tells a worker that the run is gone, before its order and after it. A worker that dies is followed by a
fresh process: by then the run has threads, and may not fork. So does a host, whose start a week ago is no good ground
for what it starts today.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from pipeline.telemetry import metrics

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Forked:
    """A child of this process, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, write_end: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = os.fdopen(write_end, "wb", buffering=0)  # open while this process lives; its end ends the worker

    def begin(self, role: str, environment: Mapping[str, str], log: Path | None) -> None:
        """Let it be the worker of a role; without a log it writes where this process writes."""
        order = {"role": role, "environment": dict(environment), "log": None if log is None else str(log)}
        left = memoryview(json.dumps(order).encode() + b"\n")
        with suppress(BrokenPipeError):  # it is dead, which is seen as of any other
            while left:
                left = left[self.stdin.write(left) :]

    def ask(self, role: str, environment: Mapping[str, str]) -> tuple[int, str]:
        """Let it be a role that answers and ends: its exit code and words, in memory, for a disk may be full."""
        with os.fdopen(os.memfd_create(role), "r", encoding="utf-8", errors="replace") as said:
            self.begin(role, environment, Path(f"/proc/{os.getpid()}/fd/{said.fileno()}"))
            code = self.wait()
            self.stdin.close()
            return code, said.read()

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        code = self._wait(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@contextmanager
def fork_ahead(count: int) -> Iterator[list[Forked]]:
    """Workers that wait for their orders; whoever takes one out of the list has it, the rest ends with the block.

    None where forking a process with loaded libraries is not safe: on macOS, or from among threads.
    """
    spare: list[Forked] = []
    if sys.platform == "linux" and threading.active_count() == 1:
        gc.freeze()  # else the first collection in each would copy the pages of all objects
        spare += [_fork() for _ in range(count)]
    try:
        yield spare
    finally:
        for process in spare:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()


def _fork() -> Forked:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else both would write what is in the buffer
    read_end, write_end = os.pipe()
    closed_read, closed_write = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid == 0:
        _run_child(read_end, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(read_end)
    os.close(closed_write)
    os.read(closed_read, 1)  # until it has closed all: from then on it is a group of its own, which can be killed
    os.close(closed_read)
    return Forked(pid, write_end)


def _run_child(read_end: int, mask: set[int | signal.Signals]) -> NoReturn:
    """The forked process, to its end; nothing of the run's own stack may go on in it."""
    code = 1
    try:
        os.setsid()  # Ctrl-C is the run's to handle
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # drops one that waits since before: it was for the run's group
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.dup2(read_end, 0)
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # among them pipes of those forked before
            if descriptor > 2:
                with suppress(OSError):
                    os.close(descriptor)
        _become_worker(_read_order())
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _read_order() -> Mapping[str, object]:
    """The line that `Forked.begin` writes; not one byte more is read, and where there is none the run has ended."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    order: Mapping[str, object] = json.loads(line)
    return order


def _become_worker(order: Mapping[str, object]) -> None:
    if order["log"] is not None:
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)
    else:
        os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    metrics.look_again()
    if not sys.flags.safe_path:
        del sys.path[0]  # as -P does: a folder named `workers` where the user stands is not taken for ours
    sys.argv = ["workers", str(order["role"])]
    runpy.run_module("workers", run_name="__main__", alter_sys=True)
