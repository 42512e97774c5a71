"""Files attached to a PDF: those of the document, those of a portfolio, and those that are pinned to a page.

Runs only inside the sandboxed process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.page_tree import mend_page_tree
from pipeline.documents.pdf_encryption import unlock

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
        names = document.embfile_names()
    except Exception:  # whatever MuPDF makes of a stranger's file
        return
    for key in names:
        try:
            info = document.embfile_info(key)
            yield info.get("ufilename") or info.get("filename") or key, document.embfile_get(key), None
        except Exception as error:
            yield key, b"", _said(error)
    for page_index in range(num_pages):
        try:
            page = document[page_index]  # annotations go with their page
            pinned = list(page.annots(types=[pymupdf.PDF_ANNOT_FILE_ATTACHMENT]))
        except Exception:  # of a broken page, which says so when it is drawn
            continue
        for annotation in pinned:
            try:
                info = annotation.file_info
                yield info.get("filename") or f"page-{page_index + 1}", annotation.get_file(), None
            except Exception as error:
                yield f"page-{page_index + 1}", b"", _said(error)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
