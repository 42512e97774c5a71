"""The review list: pages that deserve a person's eye, the worst first, worked off by keyboard.

The view `review` looks at every current answer, so the list is gathered beside the pages, and holds the worst alone,
of those that nobody has seen. A page that is opened from it knows its place in it, and the next. What was marked as
seen since the list was gathered is left out of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from pipeline.database.open import open_database
from pipeline.query.batch_status import BatchRow, batch_rows
from pipeline.query.one_page import find_page
from pipeline.store.seen import mark_seen, mark_unseen
from pipeline.web.gathered import Result
from pipeline.web.lookup import Id, Number, batch_named, document_or_404
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

    @property
    def key(self) -> tuple[str, int, str]:
        return self.document_id, self.page_number, self.prompt


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands among those that are left, from 1, and its neighbours there; None where it was seen."""

    number: int | None
    total: int
    entry: Entry
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Worst:
    """The list as it was gathered, and the moment, as it is stored, of the latest mark that it knows of."""

    entries: Sequence[Entry]
    last_seen_at: Any


@router.get("/review")
def show_review(
    request: Request, site: TheSite, batch: str = "", reason: str = "", start: Number = 1, seen: str = ""
) -> Response:
    """What is left, or what was `seen`."""
    result = _list(site, batch_named(site, batch), bool(seen))
    entries = [] if result.value is None else result.value.entries
    marked = set() if result.value is None or seen else _marked_since(site, result.value)
    fitting = [one for one in entries if reason in ("", one.reason) and one.key not in marked]
    start = max(start, 1)
    with site.db.looking() as look:
        has_seen = bool(look.value("SELECT 1 FROM seen_pages LIMIT 1"))
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
        seen=seen,
        has_seen=has_seen,
        queue="" if seen else queue_name(batch, reason),
    )


@router.post("/documents/{document_id}/pages/{page_number}/seen")
def mark(
    site: TheSite,
    document_id: str,
    page_number: Number,
    form_key: Annotated[str, Form()],
    answer: Annotated[Id, Form()],
    prompt: Annotated[str, Form()] = "",
    queue: Annotated[str, Form()] = "",
    unseen: Annotated[str, Form()] = "",
) -> Response:
    """A page was seen, with this answer, or was not after all. Sends on to the next that is left; back to the page
    where another answer came meanwhile, which is to be seen."""
    if not site.allow_review:
        raise HTTPException(403, "Marks are off; `pagepack serve --allow-review` allows them.")
    if site.keys is None or not site.keys.fits_form(form_key):
        raise HTTPException(403, "The form was not one of this server's. Load the page again.")
    document = document_or_404(site, document_id)
    with site.db.looking() as look:
        page = find_page(look, document.id, page_number)
    if page is None:
        raise HTTPException(404, f"The document has no page {page_number}.")
    batch, _, reason = queue.partition(".")
    place = place_in_queue(site, queue, document_id, page_number, prompt)  # before it leaves the list
    db = open_database(site.settings)
    try:
        if unseen:
            mark_unseen(db, page.id, answer)
        is_seen = not unseen and mark_seen(db, page.id, answer)
    finally:
        db.dispose()
    chosen = batch_named(site, batch)
    for listed in {None, chosen and chosen.id}:
        site.gathered.outdate(("queue", listed, True))
        if unseen:
            site.gathered.outdate(("queue", listed, False))
    here = address("documents", document_id, "pages", page_number, prompt=prompt, queue=queue)
    if not is_seen:
        return RedirectResponse(here, 303)
    if place is not None and place.after is not None:
        return RedirectResponse(address_in_queue(place.after, queue), 303)
    return RedirectResponse(address("review", batch=batch, reason=reason) if queue else here, 303)


def queue_name(batch: str, reason: str) -> str:
    """What the address of a page carries that is opened from the list."""
    return f"{batch}.{reason}"


def place_in_queue(site: Site, queue: str, document_id: str, page_number: int, prompt: str) -> Place | None:
    """None where the page is not opened from the list, or is no part of it any more."""
    batch_id, separator, reason = queue.partition(".")
    found = _list(site, batch_named(site, batch_id)).value if separator else None
    if found is None:
        return None
    marked = _marked_since(site, found)
    here = (document_id, page_number, prompt)
    before: list[Entry] = []
    after: list[Entry] = []
    entry: Entry | None = None
    for one in found.entries:
        if one.key == here and reason in ("", one.reason):
            entry = one
        elif reason in ("", one.reason) and one.key not in marked:
            (before if entry is None else after).append(one)
    if entry is None:
        return None
    is_left = here not in marked
    total = len(before) + len(after) + is_left
    place = len(before) + 1 if is_left else None
    return Place(place, total, entry, before[-1] if before else None, after[0] if after else None)


def address_in_queue(entry: Entry, queue: str) -> str:
    return address("documents", entry.document_id, "pages", entry.page_number, prompt=entry.prompt, queue=queue)


def _list(site: Site, batch: BatchRow | None, is_seen: bool = False) -> Result[Worst]:
    key = ("queue", None if batch is None else batch.id, is_seen)
    return site.gathered.get(key, lambda: _worst(site, batch, is_seen), fresh_seconds=30.0, wait_seconds=0.1)


def _worst(site: Site, batch: BatchRow | None, is_seen: bool) -> Worst:
    columns = "source_path, document_id, page_number, prompt, reason, score, detail, confidence"
    where = f"seen_at IS {'NOT ' if is_seen else ''}NULL"
    where += "" if batch is None else " AND batch_id = :batch"
    given: dict[str, Any] = {} if batch is None else {"batch": batch.batch_id}
    with site.db.looking() as look:
        last = look.value("SELECT max(seen_at) FROM seen_pages")
        rows = look.rows(f"SELECT {columns} FROM review WHERE {where} ORDER BY score DESC LIMIT {_MOST}", **given)
    seen: dict[tuple[str, int, str], Entry] = {}
    for row in rows:  # a document at several paths is looked at once
        seen.setdefault((row[1], row[2], row[3]), Entry(*row))
    return Worst(
        heapq.nsmallest(_MOST, seen.values(), lambda one: (-one.score, one.source_path, one.page_number)), last
    )


def _marked_since(site: Site, worst: Worst) -> set[tuple[str, int, str]]:
    """Pages that were marked after the list was gathered, by this server or another: few."""
    given = {} if worst.last_seen_at is None else {"last": worst.last_seen_at}
    with site.db.looking() as look:
        rows = look.rows(f"{_MARKED}{' AND k.seen_at >= :last' if given else ''}", **given)
    return {(row[0], row[1], row[2]) for row in rows}


_MARKED = """SELECT d.public_id, p.page_index + 1, c.prompt
FROM seen_pages k CROSS JOIN current_answers c CROSS JOIN pages p CROSS JOIN documents d
WHERE c.page_id = k.page_id AND c.answer_id = k.answer_id AND p.id = k.page_id AND d.id = p.document_id"""
