"""The files that a PDF holds, wherever it names them: in its tree of names, as associated files (PDF 2.0), on pages.

PyMuPDF lists those alone that lie in the root of the tree; Acrobat spreads them over its branches where they are many,
as in most portfolios.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf as _pymupdf

mupdf: Any = _pymupdf.mupdf
_MOST = 100_000  # looked at; a microsecond each


def files_of_document(pdf: Any) -> list[tuple[str, Any]]:
    """Name and dictionary of each."""
    catalog = mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Root")
    tree = mupdf.pdf_dict_gets(mupdf.pdf_dict_gets(catalog, "Names"), "EmbeddedFiles")
    return _embedded([*_leaves(tree), *_associated(catalog)])


def files_of_page(page: Any) -> list[tuple[str, Any]]:
    """Name and dictionary of those that are associated with it or pinned to it."""
    annotations = mupdf.pdf_dict_gets(page, "Annots")
    found = _associated(page)
    for index in range(min(mupdf.pdf_array_len(annotations), _MOST)):
        annotation = mupdf.pdf_array_get(annotations, index)
        if mupdf.pdf_to_name(mupdf.pdf_dict_gets(annotation, "Subtype")) == "FileAttachment":
            found.append(("", mupdf.pdf_dict_gets(annotation, "FS")))
        found += _associated(annotation)
    return _embedded(found)


def content_of(file: Any) -> bytes:
    """Raises what MuPDF raises."""
    return bytes(mupdf.fz_buffer_extract_copy(mupdf.pdf_load_stream(_stream(file))))


def number_of(file: Any) -> int:
    """That of the object that holds its content."""
    return int(mupdf.pdf_to_num(_stream(file)))


def _leaves(root: Any) -> Iterator[tuple[str, Any]]:
    stack, visited, left = [root], set[int](), _MOST
    while stack:
        node = stack.pop()
        number = mupdf.pdf_to_num(node)
        if not mupdf.pdf_is_dict(node) or (number and number in visited):
            continue
        visited.add(number)
        names, kids = mupdf.pdf_dict_gets(node, "Names"), mupdf.pdf_dict_gets(node, "Kids")
        for at in range(0, min(mupdf.pdf_array_len(names) - 1, 2 * left), 2):
            yield mupdf.pdf_to_text_string(mupdf.pdf_array_get(names, at)), mupdf.pdf_array_get(names, at + 1)
        num_kids = min(mupdf.pdf_array_len(kids), left)
        left -= num_kids + max(0, mupdf.pdf_array_len(names) // 2)
        if left <= 0:
            return
        stack += [mupdf.pdf_array_get(kids, at) for at in reversed(range(num_kids))]


def _associated(holder: Any) -> list[tuple[str, Any]]:
    files = mupdf.pdf_dict_gets(holder, "AF")
    if mupdf.pdf_is_dict(files):
        return [("", files)]
    return [("", mupdf.pdf_array_get(files, at)) for at in range(min(mupdf.pdf_array_len(files), _MOST))]


def _embedded(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Those whose content the PDF holds, each once, by their own names."""
    seen, files = set[int](), list[tuple[str, Any]]()
    for key, file in found:
        stream = _stream(file)
        number = mupdf.pdf_to_num(stream)
        if mupdf.pdf_is_stream(stream) and number not in seen:
            seen.add(number)
            said = (mupdf.pdf_to_text_string(mupdf.pdf_dict_gets(file, name)) for name in ("UF", "F"))
            files.append((next(filter(None, (" ".join(name.split()) for name in said)), key), file))
    return files


def _stream(file: Any) -> Any:
    holder = mupdf.pdf_dict_gets(file, "EF")
    streams = (mupdf.pdf_dict_gets(holder, name) for name in ("UF", "F", "DOS", "Mac", "Unix"))
    return next((stream for stream in streams if mupdf.pdf_is_stream(stream)), mupdf.pdf_dict_gets(holder, "F"))
