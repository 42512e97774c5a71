"""Batches: what was asked for, how far it is and how fast, what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.query.batch_status import BatchRow, Counts, Pace, asked_prompts, batch_rows, counts, pace
from pipeline.query.failure_list import causes_of
from pipeline.query.go_on import go_on_command
from pipeline.query.worth_a_look import worth_a_look
from pipeline.web.gathered import Wait
from pipeline.web.lookup import Id, batch_or_404
from pipeline.web.render import render
from pipeline.web.request_site import Site, TheSite

router = APIRouter()

_SHOWN = 50
_WAIT_SECONDS = 0.08  # for all counts of a page together


@dataclass(frozen=True, slots=True)
class Shown:
    """A batch with its counts; None while they are gathered."""

    batch: BatchRow
    counts: Counts | None
    pace: Pace | None  # of one that runs

    @property
    def state(self) -> str:
        return "interrupted" if self.pace is not None and self.pace.interrupted else self.batch.state

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come by itself."""
        return self.counts is not None and self.state in ("finished", "cancelled", "interrupted")


@router.get("/")
def show_batches(request: Request, site: TheSite, before: Id | None = None) -> Response:
    return render(request, "batches.html", **_listed(site, before))


@router.get("/batches/rows")
def show_rows(request: Request, site: TheSite, before: Id | None = None) -> Response:
    """What the list refreshes."""
    return render(request, "batch_rows.html", **_listed(site, before))


def _listed(site: Site, before: int | None) -> dict[str, Any]:
    rows = batch_rows(site.db, before=before, limit=_SHOWN + 1)
    wait = Wait(_WAIT_SECONDS)
    shown = [_shown(site, batch, wait) for batch in rows[:_SHOWN]]
    older = rows[_SHOWN - 1].id if len(rows) > _SHOWN else None
    return {"shown": shown, "older": older, "before": before, "is_settled": all(one.is_settled for one in shown)}


def _shown(site: Site, batch: BatchRow, wait: Wait) -> Shown:
    is_running = batch.state in ("running", "paused")
    fresh = 2.0 if is_running else 3600.0
    found = site.gathered.get(
        ("counts", batch.id, batch.state, batch.finished_at, batch.forgotten_at),
        lambda: counts(site.db, batch),
        fresh_seconds=fresh,
        wait_seconds=wait.left_seconds,
    )
    how_fast = None
    if is_running:
        how_fast = site.gathered.get(
            ("pace", batch.id, batch.state),
            lambda: pace(site.db, batch),
            fresh_seconds=1.0,
            wait_seconds=wait.left_seconds,
        ).value
    return Shown(batch, found.value, how_fast)


@router.get("/batches/{batch_id}")
def show_batch(request: Request, site: TheSite, batch_id: str) -> Response:
    return render(request, "batch.html", **_of_batch(site, batch_id))


@router.get("/batches/{batch_id}/progress")
def show_progress(request: Request, site: TheSite, batch_id: str) -> Response:
    """What the page of a batch refreshes."""
    return render(request, "batch_progress.html", **_of_batch(site, batch_id))


def _of_batch(site: Site, batch_id: str) -> dict[str, Any]:
    batch = batch_or_404(site, batch_id)
    wait = Wait(_WAIT_SECONDS)
    shown = _shown(site, batch, wait)
    causes = site.gathered.get(
        ("causes", batch.id, batch.forgotten_at), lambda: causes_of(site.db, batch.id), wait_seconds=wait.left_seconds
    )
    review = site.gathered.get(
        ("review", batch.id, batch.state, batch.forgotten_at),
        lambda: _worth_a_look(site, batch),
        fresh_seconds=10.0,
        wait_seconds=0.0,
    )
    return {
        "shown": shown,
        "prompts": asked_prompts(site.db, batch.id),
        "causes": causes.value,
        "review": review.value,
        "command": go_on_command(site.db, batch.command) if batch.command is not None else None,
        "is_settled": shown.is_settled and causes.value is not None and review.value is not None,
    }


def _worth_a_look(site: Site, batch: BatchRow) -> dict[str, int]:
    with site.db.looking() as look:
        return worth_a_look(look, batch.batch_id)
