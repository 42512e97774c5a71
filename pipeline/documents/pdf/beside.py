"""What a PDF holds beside its pages: files, sound, forms that only Adobe's programs can show. It is named, not read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.pdf.filespecs import files_of_document, files_of_page

mupdf: Any = _pymupdf.mupdf
_MAX_NAMES, _MAX_NAME_CHARACTERS = 5, 60
_MAX_ANNOTATIONS = 10_000  # of one page; looking at each costs 2 µs
_MEDIA = {
    "Sound": "a sound",
    "Movie": "a video",
    "Screen": "a video or a sound",
    "RichMedia": "a video, a sound or a 3D model",
    "3D": "a 3D model",
}


_READ, _ENCRYPTED = "read where --attachments is given", "encrypted and not read"


def beside_document(document: Any, pdf: Any, *, are_files_encrypted: bool = False) -> Iterator[str]:
    """Sentences about what lies beside all pages of a `pymupdf.Document`."""
    catalog = mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Root")
    form = mupdf.pdf_dict_gets(catalog, "AcroForm")
    if not mupdf.pdf_is_null(mupdf.pdf_dict_gets(form, "XFA")):
        has_fields = mupdf.pdf_array_len(mupdf.pdf_dict_gets(form, "Fields")) > 0
        is_dynamic = mupdf.pdf_to_bool(mupdf.pdf_dict_gets(catalog, "NeedsRendering")) or not has_fields
        if is_dynamic or "Please wait" in document[0].get_text():  # as the placeholder of Adobe's programs begins
            yield (
                "the document is a dynamic XFA form: its pages are a placeholder, and what the form says is not drawn; "
                "print it to PDF in Adobe Reader"
            )
    is_portfolio = mupdf.pdf_is_dict(mupdf.pdf_dict_gets(catalog, "Collection"))
    names = [name for name, _ in files_of_document(pdf)]
    fate = _ENCRYPTED if are_files_encrypted else _READ
    if is_portfolio:
        yield f"the document is a portfolio: its page is a cover, and it holds {_counted(names)}, {fate}"
    elif names:
        yield f"the document has {_counted(names)} attached, {fate}"
    elif are_files_encrypted:
        yield "what is attached to the document is encrypted, and is not read"


def beside_page(page: Any, *, are_files_encrypted: bool = False) -> Iterator[str]:
    """Sentences about what lies beside one page, a dictionary."""
    annotations = mupdf.pdf_dict_gets(page, "Annots")
    counts: dict[str, int] = {}
    pinned = [name for name, _ in files_of_page(page)]
    for index in range(min(mupdf.pdf_array_len(annotations), _MAX_ANNOTATIONS)):
        annotation = mupdf.pdf_array_get(annotations, index)
        subtype = mupdf.pdf_to_name(mupdf.pdf_dict_gets(annotation, "Subtype"))
        if subtype in _MEDIA:
            counts[subtype] = counts.get(subtype, 0) + 1
    if pinned:
        yield f"pinned to the page: {_counted(pinned)}, {'not read' if are_files_encrypted else _READ}"
    for subtype, count in counts.items():
        yield f"on the page lies {_MEDIA[subtype]}{f' ({count} times)' if count > 1 else ''}, which is not read"


def _counted(names: list[str]) -> str:
    shown = ", ".join(name[:_MAX_NAME_CHARACTERS] or "without a name" for name in names[:_MAX_NAMES])
    more = ", …" if len(names) > _MAX_NAMES else ""
    return f"{len(names)} file{'' if len(names) == 1 else 's'} ({shown}{more})"
