"""Failures by cause, with the page's image; and, where it is allowed, back to waiting."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from pipeline.database.open import open_database
from pipeline.query.batch_status import BatchRow, pace
from pipeline.query.failure_list import all_failures, causes_of, find_failure, list_failures
from pipeline.query.go_on import go_on_command
from pipeline.store.retries import retry_failures
from pipeline.store.worked_on_by import WorkedOnBy
from pipeline.web.gathered import Wait
from pipeline.web.lookup import Number, batch_or_404
from pipeline.web.render import address, render
from pipeline.web.request_site import Site, TheSite

router = APIRouter()

_SHOWN = 30
_WAIT_SECONDS = 0.1


@router.get("/batches/{batch_id}/failures")
def show_failures(
    request: Request, site: TheSite, batch_id: str, cause: str = "", after: str = "", retried: Number | None = None
) -> Response:
    batch = batch_or_404(site, batch_id)
    first = _key(after) if after else (0, 0)
    wait = Wait(_WAIT_SECONDS)
    result = site.gathered.get(  # what other batches failed at is looked through, too
        _list_name(batch, cause, first),
        lambda: list_failures(site.db, batch.id, cause or None, first, _SHOWN + 1),
        fresh_seconds=0.5,
        wait_seconds=wait.left_seconds,
    )
    found = result.value or []
    causes = site.gathered.get(
        ("causes", batch.id, batch.forgotten_at),
        lambda: causes_of(site.db, batch.id),
        fresh_seconds=0.5,
        wait_seconds=wait.left_seconds,
    )
    return render(
        request,
        "failures.html",
        batch=batch,
        failures=found[:_SHOWN],
        is_gathered=result.value is not None,
        after=after,
        more="-".join(map(str, found[_SHOWN - 1].key)) if len(found) > _SHOWN else None,
        causes=causes.value or {},
        cause=cause,
        retried=retried,
        retry_command=go_on_command(site.db, ("pagepack", "retry", batch.batch_id)),
        who_reads=_who_reads(site, batch) if retried is not None else None,
    )


@router.post("/batches/{batch_id}/failures/retry")
def retry(
    site: TheSite,
    batch_id: str,
    form_key: Annotated[str, Form()],
    cause: Annotated[str, Form()] = "",
    failure: Annotated[str, Form()] = "",
) -> Response:
    """One failure, or all of a cause, or all of a batch. Sends back to the list, so that a reload repeats nothing."""
    if not site.allow_retry:
        raise HTTPException(403, "Retries are off; `pagepack serve --allow-retry` allows them.")
    if site.keys is None or not site.keys.fits_form(form_key):
        raise HTTPException(403, "The form was not one of this server's. Load the page again.")
    batch = batch_or_404(site, batch_id)
    if failure:
        one = find_failure(site.db, batch.id, _key(failure))
        chosen = [] if one is None else [one]
    else:
        chosen = list(all_failures(site.db, batch.id, cause or None))
    db = open_database(site.settings)
    try:
        drawn, read = retry_failures(db, batch.id, [(one.source_path, one.page_number) for one in chosen])
    finally:
        db.dispose()
    for told in (
        _list_name(batch, "", (0, 0)),
        _list_name(batch, cause, (0, 0)),
        ("causes", batch.id, batch.forgotten_at),
    ):
        site.gathered.outdate(told)
    return RedirectResponse(address("batches", batch_id, "failures", cause=cause, retried=drawn + read), 303)


def _list_name(batch: BatchRow, cause: str, first: tuple[int, int]) -> tuple[Any, ...]:
    return "failures", batch.id, batch.forgotten_at, cause, first


def _who_reads(site: Site, batch: BatchRow) -> str | None:
    """The command that goes on; None where a run or workers do."""
    if pace(site.db, batch).worked_on_by != WorkedOnBy.NOBODY or batch.command is None:
        return None
    return go_on_command(site.db, batch.command)


def _key(text: str) -> tuple[int, int]:
    part, _, number = text.partition("-")
    if not (part.isdecimal() and number.isdecimal() and len(number) < 19 and len(part) == 1):
        raise HTTPException(404, "There is no such place in the list of failures.")
    return int(part), int(number)
