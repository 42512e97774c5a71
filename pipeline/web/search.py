"""Search: the best pages with the piece of text that shows why, narrowed by prompt and batch."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.errors import UsageError
from pipeline.query.batch_status import batch_rows
from pipeline.query.search import Found, find
from pipeline.query.snippets import Snippet
from pipeline.web.lookup import Number, batch_named
from pipeline.web.render import render
from pipeline.web.request_site import TheSite

router = APIRouter()

_MOST_HITS = 200
_AT_FIRST = 20


@router.get("/search")
def show_search(
    request: Request, site: TheSite, q: str = "", prompt: str = "", batch: str = "", limit: Number = _AT_FIRST
) -> Response:
    found: Found | None = None
    problem = ""
    limit = min(max(limit, 1), _MOST_HITS)
    if q.strip():
        chosen = batch_named(site, batch)
        try:
            found = find(site.db, q, prompt=prompt or None, limit=limit, batch=chosen)
        except UsageError as error:  # of the query, which stays in its field to be mended
            problem = str(error)
    with site.db.looking() as look:
        prompts = look.values("SELECT DISTINCT name FROM prompt_versions ORDER BY name")
    return render(
        request,
        "search.html",
        q=q,
        prompt=prompt,
        batch=batch,
        found=found,
        problem=problem,
        prompts=prompts,
        batches=batch_rows(site.db, limit=50),
        more=min(limit * 2, _MOST_HITS) if found and len(found.hits) < found.total and limit < _MOST_HITS else None,
        marked=marked,
        status=400 if problem else 200,
    )


def marked(snippet: Snippet) -> Iterator[tuple[str, bool]]:
    """Pieces of a snippet, and whether each was searched for."""
    done = 0
    for start, end in snippet.matches:
        if end > done:
            yield snippet.text[done : max(start, done)], False
            yield snippet.text[max(start, done) : end], True
            done = end
    yield snippet.text[done:], False
