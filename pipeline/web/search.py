"""Search: the best pages with the piece of text that shows why, narrowed by what a form asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.errors import UsageError
from pipeline.query.batch_status import batch_rows
from pipeline.query.search import Found, find
from pipeline.web.lookup import Number, batch_named
from pipeline.web.render import render
from pipeline.web.request_site import TheSite
from schemas.text import storable

router = APIRouter()

_MOST_HITS = 200
_AT_FIRST = 20
_WAIT_SECONDS = 0.12


@router.get("/search")
def show_search(
    request: Request,
    site: TheSite,
    q: str = "",
    prompt: str = "",
    batch: str = "",
    folder: str = "",
    since: str = "",
    until: str = "",
    min_confidence: str = "",
    max_confidence: str = "",
    limit: Number = _AT_FIRST,
) -> Response:
    """Filters come as a form sends them, those that are not filled in as nothing."""
    found: Found | None = None
    is_found, problem = True, ""
    limit = min(max(limit, 1), _MOST_HITS)
    if q.strip():
        chosen = batch_named(site, batch)
        try:
            search = partial(
                find,
                site.db,
                q,
                prompt=prompt or None,
                limit=limit,
                batch=chosen,
                folder=storable(folder) or None,
                since=_day(since),
                until=_day(until, is_end=True),
                min_confidence=_percent(min_confidence),
                max_confidence=_percent(max_confidence),
            )
            asked = (q, prompt, batch, folder, since, until, min_confidence, max_confidence, limit)
            found = site.searches.get(asked, search, _WAIT_SECONDS)
            is_found = found is not None
        except UsageError as error:  # of the query, which stays in its field to be mended
            problem = str(error)
    with site.db.looking() as look:
        prompts = look.values("SELECT DISTINCT name FROM prompt_versions ORDER BY name")
    filters = {"folder": folder, "since": since, "until": until}
    filters |= {"min_confidence": min_confidence, "max_confidence": max_confidence}
    return render(
        request,
        "search.html",
        q=q,
        prompt=prompt,
        batch=batch,
        filters=filters,
        found=found,
        is_found=is_found,
        limit=limit,
        problem=problem,
        prompts=prompts,
        batches=batch_rows(site.db, limit=50),
        more=min(limit * 2, _MOST_HITS) if found and len(found.hits) < found.total and limit < _MOST_HITS else None,
        status=400 if problem else 200,
    )


def _day(text: str, *, is_end: bool = False) -> datetime | None:
    """The beginning of a day, UTC, or of the next one."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=is_end)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text[:20]!r} is no date; write it as 2026-01-31") from error


def _percent(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"{text[:20]!r} is no confidence; write a number of percent, from 0 to 100")
    return value / 100
