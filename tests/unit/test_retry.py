"""What workers keep while a server is away."""

from __future__ import annotations

import pytest

from pipeline.database.retry import insist
from pipeline.errors import DiskFull, Unavailable


class Away:
    """Does not answer a few times, then does."""

    def __init__(self, times: int, error: Unavailable) -> None:
        self.calls = 0
        self._times = times
        self._error = error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "stored"


def test_an_answer_waits_for_the_database() -> None:
    away = Away(2, Unavailable("the server is being restarted"))
    assert insist(away, lambda: False) == "stored" and away.calls == 3


def test_nobody_waits_who_is_told_to_stop_or_for_a_full_disk() -> None:
    stopping, full = Away(9, Unavailable("away")), Away(9, DiskFull("full"))
    with pytest.raises(Unavailable):
        insist(stopping, lambda: True)
    with pytest.raises(DiskFull):
        insist(full, lambda: False)
    assert stopping.calls == full.calls == 1
