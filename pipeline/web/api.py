"""The HTTP API, below /api."""

from __future__ import annotations

from fastapi import APIRouter

from pipeline import __version__
from pipeline.web.request_site import TheSite

router = APIRouter(prefix="/api")


@router.get("/health")
def health(site: TheSite) -> dict[str, str]:
    """That the server answers, and can read its database."""
    with site.db.looking() as look:
        look.value("SELECT 1")
    return {"status": "ok", "version": __version__}
