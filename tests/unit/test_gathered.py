"""What takes long is gathered beside the pages, which wait for it a moment only."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from pipeline.web.gathered import Gathered, Wait
from tests.running import wait_until


def test_what_is_quick_is_there_at_once_and_kept_while_it_is_fresh() -> None:
    gathered, calls = Gathered(), []

    def call(fresh_seconds: float) -> int | None:
        def gather() -> int:
            calls.append(1)
            return len(calls)

        return gathered.get("k", gather, fresh_seconds=fresh_seconds, wait_seconds=60).value

    assert [call(3600) for _ in range(3)] == [1, 1, 1]
    wait_until(lambda: call(0) == 2)  # after 20 times what it took


def test_nobody_waits_for_what_takes_long() -> None:
    gathered, go_on = Gathered(), threading.Event()
    assert gathered.get("slow", lambda: go_on.wait(60), wait_seconds=0.0).value is None
    assert gathered.get("slow", lambda: 1 / 0, wait_seconds=0.0).value is None  # the first is underway still
    go_on.set()
    assert gathered.get("after", lambda: 1, wait_seconds=60).value == 1  # one thread, in turn
    assert gathered.get("slow", lambda: False, fresh_seconds=60, wait_seconds=0.0).value is True


def test_a_page_waits_once_for_all_that_it_shows() -> None:
    """The first, which does not end, takes the whole wait; nobody waits for the nine behind it."""
    gathered, wait, go_on, left = Gathered(), Wait(0.01), threading.Event(), []
    for key in range(10):
        left.append(wait.left_seconds)
        assert gathered.get(key, go_on.wait, wait_seconds=left[-1]).value is None
    go_on.set()
    assert max(left[1:]) < 0.001 and gathered.get("after", lambda: 1, wait_seconds=60).value == 1


def test_an_error_is_raised_where_it_is_asked_for_and_gathered_again() -> None:
    gathered = Gathered()
    with pytest.raises(ZeroDivisionError):
        gathered.get("k", lambda: 1 / 0, fresh_seconds=3600, wait_seconds=60)

    def is_gathered_again() -> bool:
        with suppress(ZeroDivisionError):  # until 20 times what it took are over
            return gathered.get("k", lambda: 2.0, fresh_seconds=3600, wait_seconds=60).value == 2
        return False

    wait_until(is_gathered_again)


def test_the_oldest_results_are_forgotten() -> None:
    gathered = Gathered()
    for key in range(600):
        gathered.get(key, lambda key=key: key, wait_seconds=60)  # type: ignore[misc]
    assert len(gathered._entries) == 500
