"""The second process of a model on two devices: `python -m workers second`, started by `pair/first.py` alone.

Its standard input is a socket of `multiprocessing`, by which the first process says what to do: where it is, what to
load, how large the cache is, and then each step. It ends with the socket, and with the process that started it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from workers.pixtral.device_errors import is_out_of_memory
from workers.pixtral.model.load import load_model, weight_bytes
from workers.pixtral.model.vision import Pixtral
from workers.pixtral.pair.first import NO_MEMORY, available_each, meet
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.scheduler import Limits, Step
from workers.pixtral.start import make_backend

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run() -> None:
    """Until the first process says so, or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first
    if sys.platform == "linux":  # on a GPU it may wait for the first where no closed socket is seen
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    line = Connection(os.dup(0))
    try:
        _serve(line)
    except (EOFError, ConnectionError):
        return
    except RuntimeError as error:
        if is_out_of_memory(error):  # it may be in the middle of a sum, which nothing but its end breaks off
            with suppress(OSError):
                line.send(str(error).partition("\n")[0])
            os._exit(NO_MEMORY)
        if not has_ended(line):
            raise


def has_ended(line: Connection) -> bool:
    """Whether the first process is gone, which would explain a failed sum; steps that it sent ahead say nothing."""
    try:
        while line.poll(1.0):
            line.recv()
    except (EOFError, ConnectionError):
        return True
    return False


def _serve(line: Connection) -> None:
    place, meeting = line.recv()
    device = torch.device(place)
    line.send(available_each(device))
    folder, dtype = line.recv()
    model = load_model(folder, device, dtype, rank=1)
    line.send(weight_bytes(model))
    meet(device, Path(meeting), rank=1)
    half = SecondHalf(model)
    while (message := line.recv())[0] != "part":
        getattr(half, message[0])(*message[1:])
    torch.distributed.destroy_process_group()


class SecondHalf:
    """A backend over the second half; each method is told by the one of the same name in the first process."""

    def __init__(self, model: Pixtral) -> None:
        self.model = model

    def make(
        self,
        limits: Limits,
        num_blocks: int,
        block_size: int,
        prefill_tile: int | None,
        narrow_cache: bool,
        drafts: bool,
    ) -> None:
        """Its cache, in the place of the one before."""
        self.backend = None
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.last_tokens = torch.zeros(limits.max_sequences, dtype=torch.int64, device=self.model.device)
        sizes = (limits, num_blocks, block_size, prefill_tile)
        self.backend = make_backend(self.model, *sizes, narrow_cache=narrow_cache, drafts=drafts)
        self.backend.enter()

    @torch.inference_mode()
    def run(self, step: Step, layout: Layout) -> None:
        assert self.backend is not None
        if step.copies:
            self.backend.cache.copy_blocks(step.copies)
        features = None
        if count := len(layout.feature_rows):
            features = torch.empty(count, self.model.config.dim, dtype=self.model.dtype, device=self.model.device)
            torch.distributed.broadcast(features, 0)
        torch.distributed.broadcast(self.last_tokens, 0)
        self.backend.run(step, layout, features, self.last_tokens)

    @torch.inference_mode()
    def clear(self, slots: NDArray[np.int64]) -> None:
        assert self.backend is not None
        self.backend.clear(slots)

    def make_room(self) -> None:
        assert self.backend is not None
        self.backend.make_room()
