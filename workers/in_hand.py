"""What a read worker knows of a page between its claim and its end."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.errors import EndpointGone
from pipeline.store.claims import PageClaim, TaskClaim
from pipeline.store.results import Outcome
from pipeline.telemetry.stage_timing import stage
from workers.engines import Answer


@dataclass(slots=True, eq=False)
class PageInHand:
    """A page from its claim to its end."""

    claim: PageClaim
    outcomes: dict[int, Outcome] | None = None  # by task id, of what has ended; none: the worker stopped first
    asked: list[TaskClaim] = field(default_factory=list)  # what the engine has
    futures: list[Future[Answer]] = field(default_factory=list)
    overdue_at: float = 0.0
    timed: stage | None = None
    has_ended: bool = False

    def is_open(self) -> bool:
        return not all(future.done() for future in self.futures)

    def gone(self) -> EndpointGone | None:
        """Why a server that reads cannot be reached, where it was that."""
        return next((one for one in (self.outcomes or {}).values() if isinstance(one, EndpointGone)), None)
