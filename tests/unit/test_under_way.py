"""A search that takes long is under way while its page asks again."""

from __future__ import annotations

import threading

import pytest

from pipeline.web.under_way import UnderWay


def test_what_takes_long_is_told_to_who_asks_again() -> None:
    searches, go_on, calls = UnderWay(), threading.Event(), list[int]()
    assert searches.get("slow", lambda: go_on.wait(60), 0.0) is None
    assert searches.get("slow", lambda: calls.append(1), 0.0) is None, "the first is under way still"
    assert searches.get("quick", lambda: 2, 60) == 2, "beside it"
    go_on.set()
    assert searches.get("slow", lambda: calls.append(1), 60) is True and calls == []
    assert searches.get("slow", lambda: 3, 60) == 3, "told once, and not kept"
    with pytest.raises(ZeroDivisionError):
        searches.get("wrong", lambda: 1 / 0, 60)


def test_of_what_nobody_comes_back_for_the_oldest_is_given_up() -> None:
    searches, go_on, calls = UnderWay(), threading.Event(), list[int]()
    for number in range(60):
        searches.get(number, lambda number=number: go_on.wait(60) and calls.append(number), 0.0)  # type: ignore[misc]
    go_on.set()
    assert searches.get(59, lambda: 0, 60) is None
    assert searches.get(9, lambda: 99, 60) == 99, "it was let go of, and is asked for anew"
    assert set(calls) >= set(range(10, 60)) and not set(range(4, 10)) & set(calls)
