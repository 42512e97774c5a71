"""Page images as they lie, and small ones of them. Both are named by a hash of pixels, and never change."""

from __future__ import annotations

import io
import threading

from fastapi import APIRouter, HTTPException, Request
from PIL import Image
from starlette.responses import Response

from pipeline.errors import PageFailed
from pipeline.query.one_page import find_page
from pipeline.web.lookup import Number, document_or_404
from pipeline.web.request_site import Site, TheSite

router = APIRouter()

_THUMBNAIL_PX = (240, 320)
_KEPT = "private, max-age=86400"
_at_once = threading.BoundedSemaphore(2)  # a large image takes 50 MB while it is made small


@router.get("/documents/{document_id}/pages/{page_number}/image")
def show_image(request: Request, site: TheSite, document_id: str, page_number: Number) -> Response:
    image_hash = _hash_of(site, document_id, page_number)
    return _known(request, image_hash) or _answer(_bytes(site, image_hash), "image/png", image_hash)


@router.get("/documents/{document_id}/pages/{page_number}/thumbnail")
def show_thumbnail(request: Request, site: TheSite, document_id: str, page_number: Number) -> Response:
    image_hash = _hash_of(site, document_id, page_number)
    known = _known(request, f"{image_hash}-small")
    if known is not None:
        return known
    data = _bytes(site, image_hash)
    with _at_once:
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                image.thumbnail(_THUMBNAIL_PX, reducing_gap=2.0)
                small = io.BytesIO()
                image.convert("L" if image.mode == "L" else "RGB").save(small, "WEBP", quality=80, method=2)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise HTTPException(404, f"The image of page {page_number} cannot be decoded.") from error
    return _answer(small.getvalue(), "image/webp", f"{image_hash}-small")


def _hash_of(site: Site, document_id: str, page_number: int) -> str:
    document = document_or_404(site, document_id)
    with site.db.looking() as look:
        page = find_page(look, document.id, page_number)
    if page is None or page.image_hash is None:
        raise HTTPException(404, f"Page {page_number} has no image.")
    return page.image_hash


def _bytes(site: Site, image_hash: str) -> bytes:
    try:
        return site.images.get(image_hash)
    except PageFailed as error:
        raise HTTPException(404, "The image was removed, as the settings ask for, or lost.") from error


def _known(request: Request, name: str) -> Response | None:
    """The browser has it."""
    if request.headers.get("if-none-match") == f'"{name}"':
        return Response(status_code=304, headers={"ETag": f'"{name}"', "Cache-Control": _KEPT})
    return None


def _answer(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers={"ETag": f'"{name}"', "Cache-Control": _KEPT})
