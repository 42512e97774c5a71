"""The review list: pages that deserve a person's eye, the worst first, worked off by keyboard.

The view `review` looks at every current answer, so the list is gathered beside the pages, and holds the worst alone. A
page that is opened from it knows its place in it, and the next.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.query.batch_status import BatchRow, batch_rows
from pipeline.web.gathered import Result
from pipeline.web.lookup import Number, batch_named
from pipeline.web.render import address, render
from pipeline.web.request_site import Site, TheSite
from schemas.review import ReviewReason

router = APIRouter()

_MOST = 5_000  # of a list: a day's work, and a few MB
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A page in doubt."""

    source_path: str
    document_id: str
    page_number: int
    prompt: str
    reason: str
    score: float
    detail: str
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands in the list, from 1, and its neighbours there."""

    number: int
    total: int
    entry: Entry
    before: Entry | None
    after: Entry | None


@router.get("/review")
def show_review(request: Request, site: TheSite, batch: str = "", reason: str = "", start: Number = 1) -> Response:
    chosen = batch_named(site, batch)
    result = _list(site, chosen)
    entries = result.value or []
    fitting = [one for one in entries if reason in ("", one.reason)]
    start = max(start, 1)
    return render(
        request,
        "review.html",
        entries=fitting[start - 1 : start - 1 + _SHOWN],
        start=start,
        total=len(fitting),
        more=start + _SHOWN if len(fitting) >= start + _SHOWN else None,
        before=max(start - _SHOWN, 1) if start > 1 else None,
        is_cut=len(entries) == _MOST,
        is_gathered=result.value is not None,
        age_seconds=result.age_seconds,
        batches=batch_rows(site.db, limit=50),
        reasons=[str(one) for one in ReviewReason],
        batch=batch,
        reason=reason,
        queue=queue_name(batch, reason),
    )


def queue_name(batch: str, reason: str) -> str:
    """What the address of a page carries that is opened from the list."""
    return f"{batch}.{reason}"


def place_in_queue(site: Site, queue: str, document_id: str, page_number: int, prompt: str) -> Place | None:
    """None where the page is not opened from the list, or is no part of it any more."""
    batch_id, separator, reason = queue.partition(".")
    if not separator:
        return None
    entries = [one for one in _list(site, batch_named(site, batch_id)).value or [] if reason in ("", one.reason)]
    for at, entry in enumerate(entries):
        if (entry.document_id, entry.page_number, entry.prompt) == (document_id, page_number, prompt):
            before = entries[at - 1] if at else None
            return Place(at + 1, len(entries), entry, before, entries[at + 1] if at + 1 < len(entries) else None)
    return None


def address_in_queue(entry: Entry, queue: str) -> str:
    return address("documents", entry.document_id, "pages", entry.page_number, prompt=entry.prompt, queue=queue)


def _list(site: Site, batch: BatchRow | None) -> Result[Sequence[Entry]]:
    key = ("queue", None if batch is None else batch.id)
    return site.gathered.get(key, lambda: _worst(site, batch), fresh_seconds=30.0, wait_seconds=0.1)


def _worst(site: Site, batch: BatchRow | None) -> Sequence[Entry]:
    columns = "source_path, document_id, page_number, prompt, reason, score, detail, confidence"
    where = "" if batch is None else " WHERE batch_id = :batch"
    given: dict[str, Any] = {} if batch is None else {"batch": batch.batch_id}
    with site.db.looking() as look:
        rows = look.rows(f"SELECT {columns} FROM review{where} ORDER BY score DESC LIMIT {_MOST}", **given)
    seen: dict[tuple[str, int, str], Entry] = {}
    for row in rows:  # a document at several paths is looked at once
        seen.setdefault((row[1], row[2], row[3]), Entry(*row))
    return heapq.nsmallest(_MOST, seen.values(), lambda one: (-one.score, one.source_path, one.page_number))
