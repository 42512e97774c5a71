"""How much of a batch is read within its budget, by one worker and by several."""

from __future__ import annotations

import threading

import pytest

from pipeline.database.engine import Database
from pipeline.errors import PageFailed, Unavailable
from pipeline.store.answers import UnfitAnswer
from pipeline.store.costs import Spent, spent
from tests.conftest import LIMITS, Archive, answer, complete_page
from workers import budget as module
from workers.budget import Budget

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def batch(archive: Archive) -> str:
    opened = archive.batch("b")
    archive.execute("UPDATE batches SET max_cost = 1.0")
    return opened.public_id


def costs(*values: float | None) -> list:
    return [answer("text", cost=value) for value in values]


def read(archive: Archive, cost: float, outcome: Exception | None = None) -> None:
    """A page by another worker, stored."""
    number = archive.scalar("SELECT count(*) FROM pages")
    document_id = archive.see(f"/in/{number}.pdf")
    (page,) = archive.ingest(document_id or 0, [f"page {number}"])
    claim = archive.claim(page)
    assert claim
    complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: outcome or answer("text", cost=cost)}, LIMITS)


def test_pages_are_read_until_the_next_would_cost_too_much(archive: Archive, batch: str) -> None:
    budget, read = Budget(archive.db), 0
    while (reason := budget.begin(batch, 1)) is None:
        budget.end(batch, 1, costs(0.3))
        read += 1
    assert read == 3
    assert reason.cause == "budget" and "has cost 0.9 of the 1 that --max-cost allows" in str(reason)


def test_what_is_in_hand_counts_as_the_dearest_answer_so_far(archive: Archive, batch: str) -> None:
    budget = Budget(archive.db)
    assert budget.begin(batch, 2) is None
    budget.end(batch, 2, costs(0.1, 0.2))
    assert [budget.begin(batch, 1) for _ in range(3)] == [None] * 3  # 0.3 + 3 × 0.2
    began = in_another_thread(budget, batch)
    assert not began.wait(0.3)
    budget.end(batch, 1, costs(0.05))
    assert began.wait(60)


def in_another_thread(budget: Budget, batch: str) -> threading.Event:
    """Set as soon as another page may be read."""
    began = threading.Event()

    def begin() -> None:
        assert budget.begin(batch, 1) is None
        began.set()

    threading.Thread(target=begin, daemon=True).start()
    return began


def test_until_a_first_cost_is_known_one_page_is_read_at_a_time(archive: Archive, batch: str) -> None:
    budget = Budget(archive.db)
    assert budget.begin(batch, 1) is None
    began = in_another_thread(budget, batch)
    assert not began.wait(0.3)
    budget.end(batch, 1, costs(0.1))
    assert began.wait(60)


def test_what_other_workers_stored_counts_and_failed_attempts_do(
    archive: Archive, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    budget = Budget(archive.db)
    assert budget.begin(batch, 1) is None
    budget.end(batch, 1, costs(0.1))
    read(archive, 0.5)
    filtered = PageFailed("filtered", cause="filtered")
    filtered.cost = 0.5
    assert budget.begin(batch, 1) is None
    budget.end(batch, 1, [])
    read(archive, 0.0, filtered)
    assert budget.begin(batch, 1) is not None


@pytest.mark.parametrize("fits", [True, False])
def test_an_answer_whose_cost_nobody_knows_ends_the_reading(archive: Archive, batch: str, fits: bool) -> None:
    budget = Budget(archive.db)
    assert budget.begin(batch, 1) is None
    (uncounted,) = costs(None)
    budget.end(batch, 1, [uncounted if fits else UnfitAnswer("no JSON", uncounted, cause="schema")])
    reason = budget.begin(batch, 1)
    assert reason is not None and "PAGEPACK_ENDPOINT_INPUT_PRICE" in str(reason)


def test_a_page_without_an_answer_costs_nothing_and_a_batch_without_a_budget_is_read_whole(
    archive: Archive, batch: str
) -> None:
    budget = Budget(archive.db)
    for _ in range(3):
        assert budget.begin(batch, 1) is None
        budget.end(batch, 1, [Unavailable("away")])
    free = archive.batch("free").public_id
    assert [budget.begin(free, 1) for _ in range(50)] == [None] * 50


def test_pages_are_read_while_one_thread_asks_what_the_batch_has_cost(
    archive: Archive, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(archive.db)
    assert budget.begin(batch, 1) is None
    budget.end(batch, 1, costs(0.1))
    asks, may_answer, asked = threading.Event(), threading.Event(), 0

    def slowly(db: Database, of: str) -> Spent:
        nonlocal asked
        asked += 1
        asks.set()
        assert may_answer.wait(60)
        return spent(db, of)

    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(module, "spent", slowly)
    first = in_another_thread(budget, batch)
    assert asks.wait(60)
    second = in_another_thread(budget, batch)
    try:
        assert second.wait(10) and not first.is_set() and asked == 1
        budget.end(batch, 1, costs(0.5))
    finally:
        may_answer.set()
    assert first.wait(60)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 60.0)
    budget.end(batch, 1, [])
    reason = budget.begin(batch, 2)
    assert reason is not None and "has cost 0.5 of" in str(reason), "what ended during the look counts"
