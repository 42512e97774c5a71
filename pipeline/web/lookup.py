"""Rows that an address names; where there is none, a page that says so."""

from __future__ import annotations

from typing import Annotated

from fastapi import HTTPException
from pydantic import Field

from pipeline.query.batch_status import BatchRow, batch_rows
from pipeline.query.one_page import Document, find_document
from pipeline.web.request_site import Site
from schemas.text import storable

Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""In an address: of a page, or a place in a list."""

Id = Annotated[int, Field(ge=0, le=2**62)]
"""In an address: a key of a row, which no database finds too large."""


def batch_or_404(site: Site, batch_id: str) -> BatchRow:
    found = batch_rows(site.db, public_id=storable(batch_id))
    if not found:
        raise HTTPException(404, f"There is no batch {batch_id}.")
    return found[0]


def batch_named(site: Site, batch_id: str) -> BatchRow | None:
    """Of a filter, where "" is none."""
    return batch_or_404(site, batch_id) if batch_id else None


def document_or_404(site: Site, document_id: str) -> Document:
    with site.db.looking() as look:
        found = find_document(look, storable(document_id))
    if found is None:
        raise HTTPException(404, f"There is no document {document_id}. Was it forgotten?")
    return found
