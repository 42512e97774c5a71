"""Batches: what was asked for, how far it is."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from pipeline.query.batch_status import batch_rows
from pipeline.web.render import render
from pipeline.web.site import TheSite

router = APIRouter()


@router.get("/")
def show_batches(request: Request, site: TheSite) -> Response:
    return render(request, "batches.html", batches=batch_rows(site.db))
