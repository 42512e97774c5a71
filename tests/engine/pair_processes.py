"""Processes with a model over two devices, for tests that end them: forked from one that has imported torch."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from schemas.prompts import OCR
from workers.engines.pixtral import PixtralEngine
from workers.pixtral import start
from workers.pixtral.pair.backend import PairBackend
from workers.pixtral.pair.first import Second
from workers.pixtral.plan.scheduler import Limits
from workers.pixtral.worst_step import measured_sizes

MEMORY_BYTES = 2_000_000_000
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload([__name__, "workers.pixtral.text.processor"])


class FirstProcess:
    """One that runs `act(line, …)`, and by that line tells what it has found; what it says to people is kept."""

    def __init__(self, folder: Path, act: Callable[..., None], *given: Any) -> None:
        self.log = folder / "log"
        self._line, theirs = _FORKED.Pipe()
        self.process = _FORKED.Process(target=_run, args=(self.log, act, theirs, *given))
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """What it tells next; EOFError where it ended."""
        return self._line.recv()

    def end(self) -> tuple[int | None, str]:
        """Its exit code and what it said, when it has ended."""
        self.process.join(600)
        self._line.close()
        return self.process.exitcode, self.log.read_text()


def _run(log: Path, act: Callable[..., None], *given: Any) -> None:
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    logging.basicConfig(format="%(levelname)s %(message)s")
    act(*given)


def _engine(line: Connection, model: Path, **how: Any) -> tuple[PixtralEngine, PairBackend]:
    engine = PixtralEngine(model, "cpu+cpu", memory_bytes=MEMORY_BYTES, **how)
    (second,) = psutil.Process().children()
    line.send(second.pid)
    backend = engine._built.engine.executor.backend
    assert isinstance(backend, PairBackend)
    return engine, backend


def read(line: Connection, model: Path, pages: list[NDArray[np.uint8]], dtype: str, most_tokens: int) -> None:
    """Tell their texts, and wait for the end: nothing goes over the sockets then."""
    engine, _ = _engine(line, model, dtype=dtype, most_tokens=most_tokens)
    answers = [engine.submit(str(number), page, [OCR])[0] for number, page in enumerate(pages)]
    line.send([answer.result(120).text for answer in answers])
    time.sleep(600)


def read_with(line: Connection, model: Path, fault: Callable[[PairBackend], None]) -> None:
    """A page, with a fault in either process."""
    engine, backend = _engine(line, model)
    fault(backend)
    engine.submit("page", np.zeros((64, 64, 3), np.uint8), [OCR])[0].result()


def measure_with(line: Connection, model: Path, fault: Callable[[PairBackend], None]) -> None:
    """The worst step, with a fault in either process; tells if it was measured after all."""
    cpu = torch.device("cpu")
    second = Second(cpu)
    line.send(second.process.pid)
    second.hear()
    half = second.load(model, cpu, torch.float32)
    fit = start.fit_of(half, MEMORY_BYTES, cpu)

    def make(*given: Any) -> PairBackend:
        backend = second.make_backend(*given, narrow_cache=False, drafts=False)
        assert isinstance(backend, PairBackend)
        fault(backend)
        return backend

    measured_sizes(half, fit, MEMORY_BYTES, _Memory(), make)
    line.send("it was measured")


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
