"""The backend of the first of two processes: what runs through the layers here, runs through the other halves there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from workers.pixtral.executor import Backend
from workers.pixtral.pair.numbers import numbers_of
from workers.pixtral.plan.batch import Layout
from workers.pixtral.plan.scheduler import Step


class PairBackend:
    """`executor.Backend` of the first process: what runs through the layers, runs in both."""

    def __init__(self, own: Backend, order: Callable[..., None], lose: Callable[[BaseException], NoReturn]) -> None:
        """`order` tells the second process what to run; `lose` ends both."""
        self.own, self.order, self._lose = own, order, lose
        self.model, self.cache, self.device, self.drafts = own.model, own.cache, own.device, own.drafts

    def enter(self) -> None:
        self.own.enter()

    def padded(self, num_rows: int) -> int:
        return self.own.padded(num_rows)

    def decode_rows(self, count: int) -> int:
        return self.own.decode_rows(count)

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        return self.own.encode(images)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.own.logits(hidden)

    def run(self, step: Step, layout: Layout, features: Tensor | None, last_tokens: Tensor) -> Tensor:
        """Whatever goes wrong here leaves the other process in the middle of a step: both end."""
        try:
            self.order("run", *numbers_of(step, layout))
            if features is not None:
                torch.distributed.broadcast(features, 0)
            torch.distributed.broadcast(last_tokens, 0)
            return self.own.run(step, layout, features, last_tokens)
        except Exception as error:
            self._lose(error)

    def clear(self, slots: NDArray[np.int64]) -> None:
        self.order("clear", slots)
        self.own.clear(slots)

    def make_room(self) -> None:
        self.order("make_room")
        self.own.make_room()
