"""What takes long is gathered beside the pages, which wait for it a moment only."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.web.gathered import Gathered, Wait


def test_what_is_quick_is_there_at_once_and_kept_while_it_is_fresh() -> None:
    gathered, calls = Gathered(), []
    for _ in range(3):
        assert gathered.get("k", lambda: calls.append(1) or len(calls), fresh_seconds=60, wait_seconds=60).value == 1
    time.sleep(0.05)  # more than 20 times what it took
    assert gathered.get("k", lambda: calls.append(1) or len(calls), fresh_seconds=0, wait_seconds=60).value == 2


def test_nobody_waits_for_what_takes_long() -> None:
    gathered, go_on = Gathered(), threading.Event()
    assert gathered.get("slow", lambda: go_on.wait(60), wait_seconds=0.0).value is None
    assert gathered.get("slow", lambda: 1 / 0, wait_seconds=0.0).value is None  # the first is underway still
    go_on.set()
    assert gathered.get("after", lambda: 1, wait_seconds=60).value == 1  # one thread, in turn
    assert gathered.get("slow", lambda: False, fresh_seconds=60, wait_seconds=0.0).value is True


def test_a_page_waits_once_for_all_that_it_shows() -> None:
    """Ten that take a tenth of a second each were waited for one by one."""
    gathered, wait, began = Gathered(), Wait(0.2), time.monotonic()
    values = [
        gathered.get(key, lambda: time.sleep(0.1) or 1, wait_seconds=wait.left_seconds).value for key in range(10)
    ]
    assert values[9] is None and time.monotonic() - began < 0.7


def test_an_error_is_raised_where_it_is_asked_for_and_gathered_again() -> None:
    gathered = Gathered()
    with pytest.raises(ZeroDivisionError):
        gathered.get("k", lambda: 1 / 0, fresh_seconds=3600, wait_seconds=60)
    time.sleep(0.05)  # more than 20 times what it took
    assert gathered.get("k", lambda: 2.0, fresh_seconds=3600, wait_seconds=60).value == 2


def test_the_oldest_results_are_forgotten() -> None:
    gathered = Gathered()
    for key in range(600):
        gathered.get(key, lambda key=key: key, wait_seconds=60)  # type: ignore[misc]
    assert len(gathered._entries) == 500
