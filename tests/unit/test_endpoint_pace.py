"""How hard a server is pressed: the window, the waits between tries, and what Retry-After asks for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.endpoints.pace import Window, backoff_seconds, retry_after_seconds

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


def test_the_window_doubles_in_a_round_until_something_is_refused_then_grows_by_one() -> None:
    window = Window(64)
    sizes = [window.room]
    for _ in range(3):
        for _ in range(window.room):
            window.answered()
        sizes.append(window.room)
    assert sizes == [4, 8, 16, 32]
    window.refused(sent_at=1.0, now=2.0)
    assert window.room == 16
    for _ in range(17):  # a round, and the part that its own growth takes
        window.answered()
    assert window.room == 17


def test_those_on_their_way_when_it_was_halved_do_not_halve_it_again() -> None:
    window = Window(64, size=32.0)
    for sent_at in (0.0, 1.0, 2.0):
        window.refused(sent_at, now=3.0)
    assert window.room == 16
    window.refused(sent_at=3.5, now=4.0)
    assert window.room == 8


def test_the_window_stays_between_one_and_the_most() -> None:
    window = Window(8)
    for _ in range(100):
        window.answered()
    assert window.room == 8
    for moment in range(20):
        window.refused(float(moment), float(moment))
    assert window.room == 1
    assert Window(2).room == 2


def test_the_wait_is_drawn_from_zero_to_a_bound_that_doubles_up_to_a_minute() -> None:
    assert [backoff_seconds(tries, draw=1.0) for tries in (1, 2, 3, 7, 8, 10_000)] == [1, 2, 4, 60, 60, 60]
    assert backoff_seconds(5, draw=0.0) == 0
    drawn = [backoff_seconds(3) for _ in range(500)]
    assert 0 <= min(drawn) < 0.5 and 3.5 < max(drawn) <= 4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("Sun, 29 Nov 2026 12:00:30 GMT", 30.0),
        ("Sunday, 29-Nov-26 12:02:00 GMT", 120.0),
        ("Sun, 29 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 29 Nov 2026 13:00:00 +0100", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds
