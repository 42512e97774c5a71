"""A box for SQL that only reads, with worked queries. A statement has a deadline, and its answer a bound."""

from __future__ import annotations

import itertools
import threading

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.errors import PagepackError, Unavailable, UsageError
from pipeline.query.some_rows import SomeRows, some_rows
from pipeline.query.worked_queries import worked_queries
from pipeline.web.render import render
from pipeline.web.request_site import Site, TheSite
from schemas.view_columns import COLUMNS

router = APIRouter()

_SECONDS = 10.0
_MOST_ROWS = 500
_MOST_CHARACTERS = 1_000_000
_MOST_OF_A_CELL = 2_000
_at_once = threading.BoundedSemaphore(2)


@router.get("/sql")
def show_sql(request: Request, site: TheSite, q: str = "") -> Response:
    """A link of another site may fill the box in, and not have it run."""
    result: SomeRows | None = None
    problem = ""
    if q.strip() and _is_ours(request):
        try:
            result = _run(site, q)
        except PagepackError as error:
            problem = str(error)
    return render(
        request,
        "sql.html",
        q=q,
        result=result,
        problem=problem,
        queries=itertools.groupby(worked_queries(site.db.dialect), lambda query: query.group),
        views=list(COLUMNS),
        seconds=_SECONDS,
        most_rows=_MOST_ROWS,
        status=400 if problem else 200,
    )


def _is_ours(request: Request) -> bool:
    """Typed, or sent from a page of this server. Over HTTP from another host browsers do not say so: there, a page of
    ours says where it is, and an address that was typed fills the box in."""
    sent_from = request.headers.get("sec-fetch-site")
    if sent_from is not None:
        return sent_from in ("same-origin", "none")
    before = request.headers.get("referer", "")
    return before.partition("://")[2].partition("/")[0] == request.headers.get("host")


def _run(site: Site, statement: str) -> SomeRows:
    if not _at_once.acquire(timeout=_SECONDS):
        raise Unavailable("other statements are running; try again in a moment")
    try:
        return some_rows(
            site.settings,
            statement,
            max_rows=_MOST_ROWS,
            max_characters=_MOST_CHARACTERS,
            max_cell=_MOST_OF_A_CELL,
            limit_seconds=_SECONDS,
        )
    except UsageError as error:
        raise UsageError(str(error).partition("; `pagepack sql` reads only")[0]) from error
    finally:
        _at_once.release()
