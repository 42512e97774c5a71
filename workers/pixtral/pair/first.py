"""One model on two devices, by two processes (`--devices 0+1`): what the first of them does beside reading.

    first     scheduler, vision tower, half of each layer, head, drawing of tokens
                  │ each step's numbers, by a pipe            ▲ two sums a layer, by torch.distributed
                  ▼                                           ▼
    second    half of each layer, its half of the cache

The second process has the same backend over its half, and runs what the first runs, in the same order. Device tensors
that a step begins with, image features and the last tokens, are broadcast. If either process dies, the other ends: the
second when the first does, the first with one line, so that its supervisor gives its leases back and starts both anew.
Where the worst step, measured before the first page, does not fit one of them, that is a wrong setting: exit code 2.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence as AbstractSequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed

from pipeline.errors import Unavailable, UsageError
from workers.pixtral import start
from workers.pixtral.device_errors import is_out_of_memory
from workers.pixtral.executor import Backend
from workers.pixtral.model.config import read_config
from workers.pixtral.model.half import DEVICES, half_of
from workers.pixtral.model.load import DTYPES, empty_model_of, load_model, weight_bytes
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.pair.backend import PairBackend
from workers.pixtral.plan.scheduler import Limits

logger = logging.getLogger(__name__)

NO_MEMORY = errno.ENOMEM
"""Exit code of the second process where a step does not fit its device; it has said first what did not."""
_NEWS_SECONDS = 5.0  # in which a process that died is seen to have died
_CLOSE_SECONDS = 10.0
_WAYS_OUT = (
    "free some on both, take larger ones or a smaller checkpoint, or narrower weights, with which one device alone "
    "reads: --quantize int8 or int4"
)
Device = torch.device


def build_pair(
    folder: Path,
    devices: AbstractSequence[Device],
    dtype: str | None = None,
    memory_bytes: int | None = None,
    *,
    drafts: bool = True,
    narrow_cache: bool = False,
) -> start.Built:
    """`start.build_engine` over two `devices`; `memory_bytes` are those of each.

    Raises:
        UsageError: as `start.build_engine`, or the heads are not to be shared.
        Unavailable: the second process ended before it was ready.
    """
    from workers.pixtral.text.processor import Processor

    config = read_config(folder)
    half_of(config, folder)
    processor = Processor(folder, config)
    second = Second(devices[1])
    try:
        free = second.hear(), available_each(devices[0])
        granted = memory_bytes or min(free)
        chosen = DTYPES[dtype] if dtype else start.choose_dtype(folder, devices[0], granted)
        empty = empty_model_of(folder, half=True).to(chosen)
        start.fit_of(empty, granted, devices[0], narrow_cache=narrow_cache)  # said before minutes of loading
        start.check_kernels(empty.config, devices[0], chosen)
        model = second.load(folder, devices[0], chosen)
        own, theirs = weight_bytes(model) / 1e9, second.weight_bytes / 1e9
        logger.info("two processes: %.3g GB of weights on %s, %.3g on %s", own, devices[0], theirs, devices[1])
        engine = start.start_engine(
            model, processor, granted, drafts=drafts, narrow_cache=narrow_cache, make=second.make_backend
        )
        second.is_reading = True
    except BaseException:
        second.close()
        raise
    return start.Built(engine, processor, second.close)


def available_each(device: Device) -> int:
    """What each of the two may take: a CPU's memory is shared by both."""
    return start.available_bytes(device) // (DEVICES if device.type == "cpu" else 1)


class Second:
    """The process that holds the other half. One thread at a time tells it what to do."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.weight_bytes = 0
        self.is_reading = False  # before that a step is one that is measured, and too large at each start
        self._first: Device | None = None
        self._limits: Limits | None = None
        self._is_closing = False
        self._losing = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="pagepack-pair-")
        self._line, theirs = multiprocessing.Pipe()
        with theirs:
            self.process = subprocess.Popen([sys.executable, "-P", "-m", "workers", "second"], stdin=theirs.fileno())
        self.tell(str(device), Path(self._folder.name) / "meeting")

    def tell(self, *message: Any) -> None:
        """What to do next. Raises Unavailable: it is gone."""
        try:
            self._line.send(message)
        except OSError as error:
            raise self._gone() from error

    def hear(self) -> int:
        """Its answer. Raises Unavailable: it is gone. UsageError: half of the weights does not fit its memory."""
        try:
            answer: int | str = self._line.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if isinstance(answer, str):
            raise UsageError(f"half of the model does not fit the memory of {self.device} ({answer}); {_WAYS_OUT}")
        return answer

    def load(self, folder: Path, device: Device, dtype: torch.dtype) -> Pixtral:
        """Both halves, at the same time; the one on `device` is given. From now on one process ends with the other.

        Raises:
            UsageError: as `load_model`. Unavailable: it is gone.
        """
        self.tell(folder, dtype)
        self._first, model = device, load_model(folder, device, dtype, rank=0)
        self.weight_bytes = self.hear()
        threading.Thread(target=self._watch, name="second", daemon=True).start()
        meet(device, Path(self._folder.name) / "meeting", rank=0)
        return model

    def order(self, *message: Any) -> None:
        """`tell`, once both read: one that is gone ends this process."""
        try:
            self._line.send(message)
        except OSError as error:
            self.lose(error)

    def make_backend(
        self,
        model: Pixtral,
        limits: Limits,
        num_blocks: int,
        block_size: int,
        prefill_tile: int | None,
        *,
        narrow_cache: bool,
        drafts: bool,
    ) -> Backend:
        """`start.make_backend` in both processes."""
        sizes = (limits, num_blocks, block_size, prefill_tile)
        self._limits = limits
        self.tell("make", *sizes, narrow_cache, drafts)
        own = start.make_backend(model, *sizes, narrow_cache=narrow_cache, drafts=drafts)
        return PairBackend(own, self.order, self.lose)

    def lose(self, error: BaseException | None = None) -> NoReturn:
        """End this process with one line, or wait for who does so already.

        Half a model reads nothing, and what waits for the other half on a GPU waits for ever: no exception gets there.
        """
        self._losing.acquire()
        is_here = isinstance(error, Exception) and is_out_of_memory(error)
        code = self._end(0.0 if is_here else _NEWS_SECONDS)
        exit_code = Unavailable.exit_code
        if is_here or code == NO_MEMORY:
            exit_code = self._say_no_memory(f"{self._first} ({_first_line(error)})" if is_here else self._last_words())
        elif code is not None:
            logger.critical("%s; the process of its other half ends, too", _ended(self.device, code))
        else:
            what = f"{type(error).__name__}: {error}"
            logger.critical("a step over two devices failed (%s); both processes end", what, exc_info=error)
        self._folder.cleanup()
        os._exit(exit_code)

    def _say_no_memory(self, where: str) -> int:
        """What did not fit, and the way out; the exit code that ends this process."""
        assert self._limits is not None  # both know it before the first step
        step = f"{self._limits.token_budget:,} tokens of prompts and {self._limits.max_sequences} sequences"
        fact = f"over two devices a step of {step} does not fit the memory of {where}"
        if not self.is_reading:
            logger.critical("%s; %s", fact, _WAYS_OUT)
            return UsageError.exit_code
        logger.critical("%s, and both processes end; if it happens again, %s", fact, _WAYS_OUT)
        return Unavailable.exit_code

    def _last_words(self) -> str:
        with suppress(EOFError, OSError):
            if self._line.poll():
                return f"{self.device} ({self._line.recv()})"
        return str(self.device)

    def close(self) -> None:
        """Both part; nothing is to be told afterwards."""
        self._is_closing = True
        with suppress(OSError):
            self._line.send(("part",))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self._line.close()
        self._end(_CLOSE_SECONDS)
        self._folder.cleanup()

    def _end(self, seconds: float) -> int | None:
        """Its exit code; None if it lived on for so long and was killed."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.process.kill()
        self.process.wait()
        return None

    def _watch(self) -> None:
        self.process.wait()
        if not self._is_closing:
            self.lose()

    def _gone(self) -> Unavailable:
        said = _ended(self.device, self._end(_NEWS_SECONDS))
        return Unavailable(f"{said} before it was ready; its log says why")


def _first_line(error: BaseException | None) -> str:
    """torch goes on for many."""
    return str(error).partition("\n")[0]


def _ended(device: Device, code: int | None) -> str:
    how = "said no more" if code is None else f"ended with exit code {code}"
    if code is not None and code < 0:
        how = f"was killed by signal {-code}"
    return f"the process of half of the model, on {device}, {how}"


def meet(device: Device, meeting: Path, rank: int) -> None:
    """The two processes find each other by a file, and their collectives run from now on: on GPUs by NCCL."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # else it looks for this host's name, which may lead nowhere
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=DEVICES,
        device_id=device if on_gpu else None,
    )
