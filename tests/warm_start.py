"""`pagepack run`, `ask` and `submit` for tests, forked from a process that has their imports: half of each start.

    test process ──order: words, environment, folder──> this process ──fork──> python -m pipeline …
                 <──its number, then its exit code──

The forked process is one of its own: its words, variables, streams and end are those of a fresh one, and so is all that
it starts. Not for what Python reads from its environment when it starts, nor where signals or streams are the point.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
_COMMAND = [sys.executable, "-P", "-m", "tests.warm_start"]


class WarmStart:
    """The process to fork from, started at the first order and again where one failed. One order at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._around: dict[str, str] = {}
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str] | None:
        """As `subprocess.run`; None where it is not to be had: another order runs, or Python's own variables differ."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            around = _around(environment)
            if self._process is None:
                self._process = subprocess.Popen(
                    _COMMAND, env=around, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                self._around = around
            elif around != self._around:
                return None
            with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as errors:
                streams = [out.name, errors.name]
                code = self._order({"words": words, "environment": environment, "streams": streams}, seconds)
                said = [file.read().decode().replace("\r\n", "\n") for file in (out, errors)]
            return subprocess.CompletedProcess(words, code, *said)
        finally:
            self._lock.release()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _order(self, order: dict[str, Any], seconds: float) -> int:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        pid = None
        try:
            self._process.stdin.write(json.dumps(order | {"folder": os.getcwd()}).encode() + b"\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(order["words"], seconds)
            return int(self._process.stdout.readline())
        except BaseException:
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.stop()
            raise


def _around(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python and the libraries may read while they are imported."""
    return {name: value for name, value in environment.items() if not name.startswith(("PAGEPACK_", "PYTEST_"))}


def _take_orders(orders: IO[bytes], answers: IO[bytes]) -> dict[str, Any] | None:
    """Fork for each order; returns in the forked process, and here at the end of the orders."""
    for line in orders:
        pid = os.fork()
        if pid == 0:
            order: dict[str, Any] = json.loads(line)
            return order
        answers.write(b"%d\n" % pid)
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))
        answers.flush()
    return None


def _become(order: Mapping[str, Any]) -> None:
    """The command, whose end is this process's."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    out, errors = (os.open(name, os.O_WRONLY | os.O_APPEND) for name in order["streams"])
    for number, opened in enumerate((nothing, out, errors)):
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    gc.unfreeze()
    sys.argv = ["pipeline", *order["words"]]
    runpy.run_module("pipeline", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import alembic.command  # noqa: F401
    import rich.console  # noqa: F401

    import pipeline.cli.main
    import pipeline.cli.progress_bar
    import pipeline.database.migrate
    import pipeline.supervisor.local_run  # noqa: F401

    gc.collect()
    gc.freeze()  # else the first collection in each child would copy the pages of all objects
    with os.fdopen(os.dup(0), "rb", buffering=0) as orders, os.fdopen(os.dup(1), "wb") as answers:
        order = _take_orders(orders, answers)
    if order is not None:
        _become(order)
