"""A file opened as its kind, inside the sandboxed process: which class draws its pages."""

from __future__ import annotations

from dataclasses import replace

from pipeline.documents.files import FLOWING, OLD_OFFICE
from pipeline.documents.images.frames import ImageFrames
from pipeline.documents.images.tiff import TiffPages
from pipeline.documents.pages.drawn import Limits, Opened
from pipeline.documents.pages.raster import parted
from pipeline.documents.pdf.pdfium import PdfByEither
from pipeline.documents.render_flowing import FlowingPages
from pipeline.errors import DocumentRejected


def open_document(path: str, kind: str, limits: Limits, detail: str = "auto") -> Opened:
    """Open a file as the kind that its first bytes announced; `detail` as `pages/size.py` and `pages/raster.py` say.

    Raises:
        DocumentRejected: `encrypted`, `damaged`, `empty` (no pages), `too-large` or `memory`.
    """
    document: Opened
    detail, raster = parted(detail)
    limits = replace(limits, raster=raster)
    if kind == "pdf":
        document = PdfByEither(path, limits, detail)
    elif kind in OLD_OFFICE:
        fact = f"a {kind.upper()} file is read where LibreOffice is installed; install it, or convert the file"
        raise DocumentRejected(fact, cause="unsupported")
    elif kind == "tiff":
        document = TiffPages(path, limits, detail)
    elif kind in FLOWING:
        document = FlowingPages(path, kind, limits, detail)
    else:
        document = ImageFrames(path, kind, limits, detail)
    if document.page_count < 1:
        raise DocumentRejected("the document has no pages", cause="empty")
    if document.page_count > limits.max_pages:
        over = f"over the limit of {limits.max_pages:,}; raise PAGEPACK_MAX_PAGES or split it"
        raise DocumentRejected(f"the document has {document.page_count:,} pages, {over}", cause="too-large")
    return document
