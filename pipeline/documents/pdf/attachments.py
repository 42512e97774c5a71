"""Files attached to a PDF: those of the document, those of a portfolio, and those of a page.

Runs only inside the sandboxed process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.pdf.encryption import unlock
from pipeline.documents.pdf.filespecs import content_of, files_of_document, files_of_page, number_of
from pipeline.documents.pdf.page_tree import mend_page_tree

pymupdf: Any = _pymupdf
mupdf: Any = _pymupdf.mupdf


def attached_files(path: str, max_pages: int) -> Iterator[tuple[str, bytes, str | None]]:
    """Name, content, and what went wrong with it; nothing where the PDF cannot be opened, as its pages will say."""
    try:
        document = pymupdf.open(path, filetype="pdf")
        pdf = mupdf.pdf_document_from_fz_document(document.this)
        if unlock(document, pdf):  # its pages are plain and what is attached is not, as the first page says
            return
        num_pages = min(len(mend_page_tree(pdf, max_pages).pages), max_pages)  # MuPDF's own count may be nonsense
        files = [(name or f"file-{at}", file) for at, (name, file) in enumerate(files_of_document(pdf), 1)]
    except Exception:  # whatever MuPDF makes of a stranger's file
        return
    seen = set[int]()
    for page_index in range(-1, num_pages):
        if page_index >= 0:
            try:
                found = files_of_page(mupdf.pdf_lookup_page_obj(pdf, page_index))
            except Exception:  # of a broken page, which says so when it is drawn
                continue
            files = [(name or f"page-{page_index + 1}", file) for name, file in found]
        for name, file in files:
            try:
                if (number := number_of(file)) not in seen:
                    seen.add(number)
                    yield name, content_of(file), None
            except Exception as error:
                yield name, b"", _said(error)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
