"""Processes with a model over two devices, for tests that end them, forked from one that has imported torch.

    test process ──order──> warm_start.py ──fork──> first process ──fork──> second process

The first process tells the test what it has found, a line of JSON each, on its standard output.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from schemas.prompts import OCR
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start
from workers.pixtral.pair import first
from workers.pixtral.pair.backend import PairBackend
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.worst_step import measured_sizes

MEMORY_BYTES = 2_000_000_000


class FirstProcess:
    """One that runs `act(model, …)`; what it says to people is kept."""

    def __init__(self, folder: Path, act: Callable[..., None], model: Path, *given: Any) -> None:
        from tests.running import environment, start_module  # of which the process itself needs nothing

        order = folder / "order"
        order.write_bytes(pickle.dumps((act, model, *given)))
        self.process = start_module(__name__, [order], environment("", PAGEPACK_MODEL=str(model)))

    def hear(self) -> Any:
        """What it tells next; EOFError where it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(self.end())
        return json.loads(line)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, when it has ended."""
        try:
            _, said = self.process.communicate(timeout=600)
            return self.process.returncode, said
        finally:
            self.process.kill()


class ForkedSecond(subprocess.Popen[bytes]):
    """`python -P -m workers second`, forked from one that has imported all of it: 1.4 s of processor time less."""

    def __init__(self, command: Sequence[str], stdin: int) -> None:
        assert command == [sys.executable, "-P", "-m", "workers", "second"] and threading.active_count() == 1
        self.args, self.returncode = command, None
        self.stdin = self.stdout = self.stderr = None
        self._child_created, self._waitpid_lock = True, threading.Lock()  # what `wait` and `kill` look at
        self.pid = os.fork()
        if self.pid == 0:
            _become_second(stdin)


def _become_second(stdin: int) -> NoReturn:
    try:
        os.dup2(stdin, 0)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2:
                with suppress(OSError):
                    os.close(descriptor)  # among them the first process's end of the line
        logging.getLogger().handlers.clear()
        sys.argv = ["workers", "second"]
        runpy.run_module("workers", run_name="__main__", alter_sys=True)
    finally:
        os._exit(1)


def run(order: Path) -> None:
    logging.basicConfig(format="%(levelname)s %(message)s")
    if sys.platform == "linux":
        first.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=ForkedSecond, TimeoutExpired=subprocess.TimeoutExpired
        )
    act, *given = pickle.loads(order.read_bytes())
    act(*given)


def tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


def _engine(model: Path, **how: Any) -> tuple[PixtralEngine, PairBackend]:
    engine = PixtralEngine(model, "cpu+cpu", memory_bytes=MEMORY_BYTES, **how)
    (second,) = psutil.Process().children()
    tell(second.pid)
    backend = engine._built.engine.executor.backend
    assert isinstance(backend, PairBackend)
    return engine, backend


def read(model: Path, pages: list[NDArray[np.uint8]], dtype: str, most_tokens: int) -> None:
    """Tell their texts, and wait for the end: nothing goes over the sockets then."""
    engine, _ = _engine(model, dtype=dtype, most_tokens=most_tokens)
    answers = [engine.submit(str(number), page, [OCR])[0] for number, page in enumerate(pages)]
    tell([answer.result(120).text for answer in answers])
    time.sleep(600)


def read_with(model: Path, fault: Callable[[PairBackend], None]) -> None:
    """A page, with a fault in either process."""
    engine, backend = _engine(model)
    fault(backend)
    engine.submit("page", np.zeros((64, 64, 3), np.uint8), [OCR])[0].result()


def measure_with(model: Path, fault: Callable[[PairBackend], None]) -> None:
    """The worst step, with a fault in either process; tells if it was measured after all."""
    cpu = torch.device("cpu")
    second = first.Second(cpu)
    tell(second.process.pid)
    second.hear()
    half = second.load(model, cpu, torch.float32)
    fit = start.fit_of(half, MEMORY_BYTES, cpu)

    def make(*given: Any) -> PairBackend:
        backend = second.make_backend(*given, narrow_cache=False, drafts=False)
        assert isinstance(backend, PairBackend)
        fault(backend)
        return backend

    measured_sizes(half, fit, MEMORY_BYTES, _Memory(), make)
    tell("it was measured")


class _Memory:
    """Of a GPU; the CPU counts none."""

    def allocated(self) -> int:
        return 10**9

    def peak(self) -> int:
        return 10**9

    def reset_peak(self) -> None:
        pass


def no_step(backend: PairBackend) -> None:
    """The first process cannot run one."""
    backend.own.run = None  # type: ignore[assignment, method-assign]


def no_step_there(backend: PairBackend) -> None:
    """The second cannot, while the first is in none: only its watch tells it."""
    backend.order("run", None)
    time.sleep(600)


def no_memory(backend: PairBackend) -> None:
    """A step does not fit the first process's memory."""

    def run(*step: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation for more")

    backend.own.run = run  # type: ignore[method-assign]


def no_memory_there(backend: PairBackend) -> None:
    """More blocks than any memory has."""
    backend.order("make", Limits(1, 64, 64, 400), 2**30, 64, None, False, False)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
