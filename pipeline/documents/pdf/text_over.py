"""A PDF with an invisible text over its pages, so that what was read can be searched, marked and copied.

Runs only inside the sandboxed process. To a page goes one stream more, before its own: text of rendering mode 3, which
draws nothing. What the page had stays: its own streams are not touched, nor decoded. A PDF keeps all its bytes, and
gets the new objects behind them (an incremental update, ISO 32000-1, 7.5.6), so signatures of what was there hold. Only
a broken file, which readers mend each in their own way, is written anew.

    a line's corners, in the image that was read → fractions of the page → the page's own coordinates, by the matrix
    with which it is shown: so CropBox, /Rotate and UserUnit need no thought
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.pages.drawn import Limits, translated
from pipeline.documents.pages.raster import parted
from pipeline.documents.pdf.encryption import unlock
from pipeline.documents.pdf.glyphless import DESCENT, MOST_LETTERS, Fonts
from pipeline.documents.pdf.mupdf import PDF_ERRORS, mend_boxes
from pipeline.documents.pdf.page_tree import mend_page_tree
from pipeline.documents.pdf.picture_pages import PicturePages
from pipeline.errors import DocumentRejected, PageFailed
from pipeline.layout.advances import clusters, visual_order

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf

Line = tuple[str, Sequence[float]]
"""What it says; x and y of three corners as it reads: bottom left, bottom right, top left, in pixels of the image."""

_BOXES = ("MediaBox", "CropBox")
_SMALLEST_PT, _LARGEST_PT = 0.01, 100_000.0  # of a line, in either direction


class PdfWithText:
    """A PDF to whose pages text is added."""

    def __init__(self, path: str, limits: Limits) -> None:
        """Raises DocumentRejected: it cannot be opened, or not be written again."""
        try:
            self._document = pymupdf.open(path, filetype="pdf")
            self._pdf = mupdf.pdf_document_from_fz_document(self._document.this)
            if unlock(self._document, self._pdf):
                fact = "what is attached to the PDF is encrypted, so nothing can be added to it; remove its password"
                raise DocumentRejected(fact, cause="encrypted")
            self._pages = mend_page_tree(self._pdf, limits.max_pages).pages
            self._own_objects = int(mupdf.pdf_xref_len(self._pdf))
            self._fonts = Fonts(self._document)
        except DocumentRejected:
            raise
        except PDF_ERRORS as error:
            raise translated(error, DocumentRejected, "the PDF cannot be opened") from error
        self.page_count = len(self._pages)
        self._done: set[int] = set()

    def add(self, page_index: int, lines: Sequence[Line], page_px: tuple[int, int] | None, dpi: float | None) -> None:
        """`page_px` and `dpi` are of the image that was read. Raises PageFailed: the page cannot be changed."""
        if not 0 <= page_index < self.page_count or self._pages[page_index] is None:
            raise PageFailed("the file does not hold this page", cause="damaged")
        if not lines or page_px is None:
            return
        try:
            page = mupdf.pdf_lookup_page_obj(self._pdf, page_index)
            number = mupdf.pdf_to_num(page)
            if number in self._done:  # one page that stands twice in the document
                return
            self._done.add(number)
            matrix, width, height = _as_shown(self._pdf, page, page_index)
            scale = dpi / 72 if dpi else max(page_px) / max(width, height)
            write_text(self._document, self._pdf, page, self._fonts, lines, matrix, (scale, scale), self._own_objects)
        except PDF_ERRORS as error:
            raise translated(error, PageFailed, "no text can be added to the page") from error

    @property
    def is_update(self) -> bool:
        """Whether what is written goes behind the file's own bytes; else it is all."""
        return bool(mupdf.pdf_can_be_saved_incrementally(self._pdf))

    def write(self, send: Callable[[bytes], None], size_bytes: int) -> None:
        """The file has `size_bytes` of its own. Where no page got any text, there is nothing to send."""
        self._fonts.finish()
        if self._done:
            _write(self._pdf, send, size_bytes if self.is_update else 0, self.is_update)


class PicturesWithText:
    """Pictures of an image file as a PDF."""

    is_update = False

    def __init__(self, path: str, kind: str, limits: Limits, detail: str) -> None:
        """Raises as `render.open_document`."""
        self._document = pymupdf.open()
        self._pictures = PicturePages(self._document, path, kind, limits, detail)
        self._pdf = mupdf.pdf_document_from_fz_document(self._document.this)
        self._fonts = Fonts(self._document)
        self.page_count = self._pictures.page_count

    def add(self, page_index: int, lines: Sequence[Line], page_px: tuple[int, int] | None, dpi: float | None) -> None:
        """The next page, with its text. Raises PageFailed: its picture cannot be decoded, and it is left blank."""
        try:
            picture = self._pictures.add(page_index, page_px, dpi)
            if lines:
                matrix, width, height = _as_shown(self._pdf, picture.page, page_index)
                scale = (picture.shown_px[0] / width, picture.shown_px[1] / height)
                write_text(self._document, self._pdf, picture.page, self._fonts, lines, matrix, scale)
        except (PageFailed, *PDF_ERRORS) as error:
            if self._document.page_count <= page_index:
                self._document.new_page(-1)
            raise error if isinstance(error, PageFailed) else translated(error, PageFailed, "no page") from error

    def write(self, send: Callable[[bytes], None], size_bytes: int) -> None:
        """As that of a PDF; all is sent."""
        self._fonts.finish()
        _write(self._pdf, send, 0, is_update=False)


def open_with_text(path: str, kind: str, limits: Limits, detail: str) -> PdfWithText | PicturesWithText:
    """Raises DocumentRejected."""
    detail, raster = parted(detail)
    limits = replace(limits, raster=raster)
    return PdfWithText(path, limits) if kind == "pdf" else PicturesWithText(path, kind, limits, detail)


def _as_shown(pdf: Any, page: Any, page_index: int) -> tuple[Any, float, float]:
    """The matrix from the page as it is shown, from its top left, to its own coordinates; and its sides, in points."""
    own = {name: mupdf.pdf_dict_gets(page, name) for name in _BOXES}
    is_mended = bool(mend_boxes(page))
    box, matrix = mupdf.FzRect(), mupdf.FzMatrix()
    loaded = mupdf.pdf_load_page(pdf, page_index)
    mupdf.pdf_page_transform(loaded, box, matrix)
    shown = mupdf.fz_transform_rect(box, matrix)
    if is_mended:  # for this sum alone: readers shall see the page as they did
        for name, value in own.items():
            if mupdf.pdf_is_null(value):
                mupdf.pdf_dict_dels(page, name)
            else:
                mupdf.pdf_dict_puts(page, name, value)
    from_corner = mupdf.fz_make_matrix(1, 0, 0, 1, shown.x0, shown.y0)
    inverse = mupdf.fz_concat(from_corner, mupdf.fz_invert_matrix(matrix))
    return inverse, shown.x1 - shown.x0, shown.y1 - shown.y0


def write_text(
    document: Any,
    pdf: Any,
    page: Any,
    fonts: Fonts,
    lines: Sequence[Line],
    matrix: Any,
    scale: tuple[float, float],
    own_objects: float = math.inf,
) -> None:
    """Add invisible lines to a page; `scale` is pixels a point, across and down. The file's own objects have numbers
    below `own_objects`."""
    used: dict[str, int] = {}
    pieces = ["q 3 Tr"]
    for text, corners in lines:
        points = [
            mupdf.fz_transform_point(mupdf.fz_make_point(x / scale[0], y / scale[1]), matrix)
            for x, y in zip(corners[::2], corners[1::2], strict=True)
        ]
        bottom_left, bottom_right, top_left = ((point.x, point.y) for point in points)
        along = (bottom_right[0] - bottom_left[0], bottom_right[1] - bottom_left[1])
        up = (top_left[0] - bottom_left[0], top_left[1] - bottom_left[1])
        length, size = math.hypot(*along), math.hypot(*up)
        letters = clusters(text)[:MOST_LETTERS]
        if not letters or not all(_SMALLEST_PT < side < _LARGEST_PT for side in (length, size)):
            continue
        font = fonts.font(len(letters))
        used[font.name] = font.xref
        codes, width = font.encode([letters[index] for index in visual_order(letters)])
        a, b, c, d = along[0] / length, along[1] / length, up[0] / size, up[1] / size
        x, y = bottom_left[0] + DESCENT * up[0], bottom_left[1] + DESCENT * up[1]
        stretch = 100 * length / (width * size)
        placed = f"{a:.5f} {b:.5f} {c:.5f} {d:.5f} {x:.3f} {y:.3f}"
        pieces.append(f"BT /{font.name} {size:.3f} Tf {stretch:.3f} Tz {placed} Tm <{codes}> Tj ET")
    if not used:
        return
    _put_fonts(pdf, page, used)
    stream = int(document.get_new_xref())
    document.update_object(stream, "<<>>")
    document.update_stream(stream, "\n".join([*pieces, "Q"]).encode(), new=True, compress=True)
    _put_first(pdf, page, mupdf.pdf_new_indirect(pdf, stream, 0), own_objects)


def _put_fonts(pdf: Any, page: Any, used: dict[str, int]) -> None:
    """Into the resources that the page has, be they its own or its tree's: other resources of its own would hide those
    of the tree."""
    if not mupdf.pdf_is_dict(mupdf.pdf_dict_gets(page, "Resources")):
        mupdf.pdf_dict_dels(page, "Resources")  # null, which some readers take for resources
    resources = mupdf.pdf_dict_get_inheritable(page, mupdf.pdf_new_name("Resources"))
    if not mupdf.pdf_is_dict(resources):
        resources = mupdf.pdf_new_dict(pdf, 1)
        mupdf.pdf_dict_puts(page, "Resources", resources)
    fonts = mupdf.pdf_dict_gets(resources, "Font")
    if not mupdf.pdf_is_dict(fonts):
        fonts = mupdf.pdf_new_dict(pdf, 1)
        mupdf.pdf_dict_puts(resources, "Font", fonts)
    for name, xref in used.items():
        mupdf.pdf_dict_puts(fonts, name, mupdf.pdf_new_indirect(pdf, xref, 0))


def _put_first(pdf: Any, page: Any, stream: Any, own_objects: float) -> None:
    """Before the page's own streams, where everything is as it begins: what these leave behind does not matter. One
    that the file names and does not hold has the number of a new object by now, and is left out."""
    contents = mupdf.pdf_new_array(pdf, 2)
    mupdf.pdf_array_push(contents, stream)
    own = mupdf.pdf_dict_gets(page, "Contents")
    if mupdf.pdf_is_array(own):
        for piece in (mupdf.pdf_array_get(own, index) for index in range(mupdf.pdf_array_len(own))):
            if mupdf.pdf_to_num(piece) < own_objects:
                mupdf.pdf_array_push(contents, piece)
    elif not mupdf.pdf_is_null(own) and mupdf.pdf_to_num(own) < own_objects:
        mupdf.pdf_array_push(contents, own)
    mupdf.pdf_dict_puts(page, "Contents", contents)


class _Behind:
    """A file for MuPDF, which writes the document's own bytes first: those are not sent."""

    def __init__(self, send: Callable[[bytes], None], own_bytes: int) -> None:
        self._send, self._own, self._at = send, own_bytes, 0

    def write(self, data: Any) -> None:
        some = bytes(data)
        own = min(max(self._own - self._at, 0), len(some))
        self._at += len(some)
        if len(some) > own:
            self._send(some[own:])

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> None:
        raise OSError("what was sent is gone")

    def truncate(self) -> None:
        """Nothing lies behind the end."""


def _write(pdf: Any, send: Callable[[bytes], None], own_bytes: int, is_update: bool) -> None:
    options = mupdf.PdfWriteOptions()  # streams as they are, and encrypted as they were
    options.do_incremental = int(is_update)
    output = pymupdf.JM_new_output_fileptr(_Behind(send, own_bytes))
    mupdf.pdf_write_document(pdf, output, options)
    output.fz_close_output()
