"""`pagepack run`, `ask`, `submit`, `worker` for tests, forked from a process with their imports: half of each start.

So are workers themselves, `python -m workers ROLE`. What they say to SQLite is compiled there, too (`rehearsal.py`).

    test process ──order: words, environment, folder──> this process ──fork──> python -m pipeline …
                 <──its number, then its exit code──

One that the test does not wait for has a process between it and this one, which tells of its end:

    test process ──order──> this process ──fork──> waits for its end ──fork──> python -m pipeline …
                 <──its number, then its exit code, in a pipe of its own──

An order with `--model`, or for a worker or module that loads the model of its variables at once, is for the packed
engine: before the first of them this process imports torch, too.

The forked process is one of its own: its words, variables, streams and end are those of a fresh one, and so is all that
it starts. Not for what Python reads from its environment when it starts, nor where signals or streams are the point.
"""

from __future__ import annotations

import atexit
import gc
import importlib
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

from pipeline.telemetry import metrics

ROOT = Path(__file__).parent.parent
_COMMAND = [sys.executable, "-P", "-m", "tests.warm_start"]
# What a reader with a model imports: two seconds of processor time.
_OF_MODELS = ("workers.engines.pixtral", "workers.pixtral.start", "mistral_common.tokens.tokenizers.mistral", "cv2")
_ASK_MODELS = (["doctor"], ["verify"], ["converse"])

_OF_STORAGE = ("s3fs",)  # 0.3 s in each process that opens a bucket


class Started(subprocess.Popen[str]):
    """A process that is no child of this one, as `subprocess.Popen` shows a child."""

    def __init__(self, words: Sequence[str], streams: Sequence[int], told: int, to_it: int | None = None) -> None:
        self._child_created = False  # there is none to wait for
        self._told = os.fdopen(told, "rb", buffering=0)
        self._said: tuple[str, str] | None = None
        self.args, self.returncode = words, None
        self.stdin = None if to_it is None else os.fdopen(to_it, "w", encoding="utf-8")
        self.stdout, self.stderr = (os.fdopen(one, encoding="utf-8") for one in streams) if streams else (None, None)
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        """To its end; asked again, the same words."""
        if self._said is not None:
            return self._said
        assert input is None and self.stdout is not None and self.stderr is not None
        said: dict[IO[str], str] = {}
        streams = (self.stdout, self.stderr)
        threads = [threading.Thread(target=lambda s=one: said.update({s: s.read()}), daemon=True) for one in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        for stream in streams:
            stream.close()
        self.wait(timeout)
        self._said = said[self.stdout], said[self.stderr]
        return self._said

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


class WarmStart:
    """The process to fork from, started at the first order and again where one failed. One order at a time."""

    def __init__(self, *may_differ: str) -> None:
        """Variables whose names begin so may differ from one order to the next: nothing reads them while imported.

        LD_LIBRARY_PATH is read when a process starts, but what changes it here is OpenCV, for itself, when a test
        imports it: no command of the tests after that one would be forked.
        """
        always = ("PAGEPACK_", "PYTEST_", "AWS_", "OTEL_", "PROMETHEUS_", "TMPDIR", "LD_LIBRARY_PATH")
        self._may_differ = (*always, *may_differ)
        self._process: subprocess.Popen[bytes] | None = None
        self._around: dict[str, str] = {}
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        seconds: float,
        folder: Path | None = None,
        among: Mapping[str, str] | None = None,
        module: str = "pipeline",
    ) -> subprocess.CompletedProcess[str] | None:
        """As `subprocess.run`; None where it is not to be had: another order runs, or Python's own variables differ.

        `among` are variables to be imported among, where those of the command do not matter.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if not self._serves(environment if among is None else among):
                return None
            with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as errors:
                streams = [out.name, errors.name]
                order = {"module": module, "words": words, "environment": environment, "streams": streams}
                code = self._order(order | {"folder": _name(folder)}, seconds)
                said = [file.read().decode().replace("\r\n", "\n") for file in (out, errors)]
            return subprocess.CompletedProcess(words, code, *said)
        finally:
            self._lock.release()

    def start(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        module: str = "pipeline",
        log: Path | None = None,
        errors: Path | None = None,
        folder: Path | None = None,
        among: Mapping[str, str] | None = None,
        takes_words: bool = False,
    ) -> subprocess.Popen[str] | None:
        """As `subprocess.Popen` with a session of its own, and pipes where no log is given; None as of `run`.

        Where `errors` is given, the log has no errors. With `takes_words` its standard input is a pipe.
        """
        if sys.platform != "linux" or not self._lock.acquire(blocking=False):
            return None
        try:
            if not self._serves(environment if among is None else among):
                return None
            pipes = [os.pipe() for _ in range(3 if log is None else 1)]
            *streams, told = (f"/proc/{os.getpid()}/fd/{write_end}" for _, write_end in pipes)
            streams = streams or [str(log), str(errors or log)]
            order = {"module": module, "words": words, "environment": environment, "streams": streams, "told": told}
            its_end, to_it = os.pipe() if takes_words else (None, None)
            stdin = os.devnull if its_end is None else f"/proc/{os.getpid()}/fd/{its_end}"
            self._send(order | {"folder": _name(folder), "stdin": stdin})
            *read_ends, of_told = (read_end for read_end, _ in pipes)
            started = Started(words, read_ends, of_told, to_it)  # it has them open when it says its number
            for end in (*(write_end for _, write_end in pipes), *([] if its_end is None else [its_end])):
                os.close(end)
            return started
        finally:
            self._lock.release()

    def is_there(self) -> bool:
        """Whether it was started: an order costs a start no more."""
        return self._process is not None

    def _serves(self, environment: Mapping[str, str]) -> bool:
        """Start it where it is not; False where it was imported among other variables."""
        around = {name: value for name, value in environment.items() if not name.startswith(self._may_differ)}
        if self._process is None:
            self._process = subprocess.Popen(
                _COMMAND, env=around, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._around = around
        return around == self._around

    def stop(self) -> None:
        if self._process is not None:
            try:
                self._process.communicate(timeout=10)  # the end of its orders is its own
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def _order(self, order: dict[str, Any], seconds: float) -> int:
        assert self._process is not None and self._process.stdout is not None
        pid = None
        try:
            self._send(order)
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


def _name(folder: Path | None) -> str:
    return os.getcwd() if folder is None else str(folder)


def _take_orders(orders: IO[bytes], answers: IO[bytes]) -> dict[str, Any] | None:
    """Fork for each order; returns in the forked process, and here at the end of the orders."""
    for line in orders:
        _reap()
        order: dict[str, Any] = json.loads(line)
        if "--model" in order["words"] or _asks_a_model(order):
            _import_once(*_OF_MODELS)
        if "AWS_ENDPOINT_URL" in order["environment"]:
            _import_once(*_OF_STORAGE)
        pid = os.fork()
        if pid == 0:
            if "told" in order:
                _fork_and_tell(order, orders, answers)
            return order
        if "told" in order:
            continue
        answers.write(b"%d\n" % pid)
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))
        answers.flush()
    _reap()
    return None


def _asks_a_model(order: Mapping[str, Any]) -> bool:
    """Whether it loads the model that its variables name."""
    module = order.get("module", "pipeline")
    loads_it = module.startswith(("benchmarks.", "tests.engine.")) or order["words"][:1] in _ASK_MODELS
    return "PAGEPACK_MODEL" in order["environment"] and loads_it


def _import_once(*names: str) -> None:
    """As at the start: what is imported lives to the end, and the children share it."""
    if missing := [name for name in names if name not in sys.modules]:
        gc.disable()
        for name in missing:
            importlib.import_module(name)
        gc.enable()
        gc.freeze()


def _reap() -> None:
    """What has ended, so that its processor time is counted as a child's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork_and_tell(order: dict[str, Any], *inherited: IO[bytes]) -> None:
    """Returns in the process that shall become the command; the one between stays here until its end."""
    told = os.open(order["told"], os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        order["told"] = told
        return
    for number in (0, 1, 2, *(file.fileno() for file in inherited)):
        os.close(number)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # nobody asks
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(order: Mapping[str, Any]) -> None:
    """The command, whose end is this process's."""
    words = os.open(order.get("stdin", os.devnull), os.O_RDONLY)
    out, errors = (os.open(name, os.O_WRONLY | os.O_APPEND) for name in order["streams"])
    for number, opened in enumerate((words, out, errors)):
        os.dup2(opened, number)
        os.close(opened)
    if "told" in order:
        os.write(order["told"], b"%d\n" % os.getpid())
        os.close(order["told"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    tempfile.tempdir = None  # as the variables say now
    metrics.look_again()
    gc.unfreeze()
    module = order.get("module", "pipeline")
    sys.argv = [module, *order["words"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    gc.disable()  # what is imported lives to the end
    import celery.app.amqp
    import celery.app.control
    import celery.app.log
    import celery.apps.worker
    import celery.backends.base
    import celery.concurrency.prefork
    import celery.concurrency.thread
    import celery.fixups.django
    import celery.worker
    import celery.worker.autoscale
    import celery.worker.components
    import celery.worker.consumer
    import celery.worker.control
    import celery.worker.loops
    import celery.worker.pidbox
    import celery.worker.strategy  # noqa: F401
    import cffi.cparser  # noqa: F401
    import fsspec.utils  # noqa: F401
    import kombu.matcher  # noqa: F401
    import numpy.typing  # noqa: F401
    import PIL.Image
    import rich._emoji_codes
    import rich.console  # noqa: F401

    import pipeline.cli.main
    import pipeline.cli.progress_bar
    import pipeline.cli.summary
    import pipeline.database.migrate
    import pipeline.planning.brief
    import pipeline.query.batch_status
    import pipeline.query.sql_sqlite
    import pipeline.supervisor.local_run
    import pipeline.supervisor.worker_host  # noqa: F401
    import schemas.evaluation_tables
    import schemas.worker_tables  # noqa: F401
    import workers.choose
    import workers.serve  # noqa: F401
    from tests.rehearsal import rehearse

    PIL.Image.preinit()
    rehearse()
    gc.enable()
    gc.freeze()  # else the first collection in each child would copy the pages of all objects
    with os.fdopen(os.dup(0), "rb", buffering=0) as orders, os.fdopen(os.dup(1), "wb") as answers:
        order = _take_orders(orders, answers)
    if order is not None:
        _become(order)
