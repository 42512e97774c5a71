"""Pages of a PDF, drawn by MuPDF. Runs only inside the sandboxed process."""

from __future__ import annotations

import math
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.drawn import Drawn, Limits, clean, fit, padded_px, translated
from pipeline.errors import DocumentRejected, PageFailed

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf
_PDF_ERRORS = (mupdf.FzErrorBase, RuntimeError, ValueError, IndexError, MemoryError)
MAX_WARNING_CHARACTERS = 2_000  # MuPDF can complain about every object of a page


class PdfPages:
    """Pages of a PDF, seen as a reader shows them: CropBox, /Rotate, annotations and form fields."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._limits = limits
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            self._document = pymupdf.open(path, filetype="pdf")
            if self._document.needs_pass:
                raise DocumentRejected("the PDF is encrypted; remove its password", cause="encrypted")
            self.page_count: int = self._document.page_count
            if self.page_count == 0 and self._document.is_repaired:
                raise DocumentRejected("the PDF is broken and no page of it could be recovered", cause="damaged")
        except DocumentRejected:
            raise
        except _PDF_ERRORS as error:
            raise translated(error, DocumentRejected, "the PDF cannot be opened") from error

    def draw(self, page_index: int) -> Drawn:
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            page = self._document[page_index]
            rect = page.rect
            scale, width_px, height_px = self._fit(rect)
            # One interpretation of the page serves both the picture and the text.
            display_list = page.get_displaylist(annots=True)
            pixmap = _white_pixmap(padded_px(width_px), padded_px(height_px))
            device = mupdf.fz_new_draw_device(mupdf.FzMatrix(scale, 0, 0, scale, 0, 0), pixmap.this)
            everything = mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE)
            mupdf.fz_run_display_list(display_list.this, device, mupdf.FzMatrix(), everything, mupdf.FzCookie())
            mupdf.fz_close_device(device)
            # What lies outside the page was drawn into the padding: a device with a smaller box than its pixmap's
            # (fz_new_draw_device_with_bbox) corrupts the heap in MuPDF 1.28.
            for margin in (
                mupdf.FzIrect(width_px, 0, pixmap.width, pixmap.height),
                mupdf.FzIrect(0, height_px, pixmap.width, pixmap.height),
            ):
                mupdf.fz_clear_pixmap_rect_with_value(pixmap.this, 255, margin)
            flags = pymupdf.TEXTFLAGS_TEXT & ~pymupdf.TEXT_PRESERVE_LIGATURES
            text = clean(pymupdf.TextPage(display_list.get_textpage(flags)).extractText())
        except PageFailed:
            raise
        except _PDF_ERRORS as error:
            raise translated(error, PageFailed, "the page cannot be rendered") from error
        warnings = clean(pymupdf.TOOLS.mupdf_warnings())[:MAX_WARNING_CHARACTERS]
        pixels: memoryview = pixmap.samples_mv  # no copy; it lives as long as its pixmap
        if warnings and not text.strip() and bytes(pixels).count(255) == len(pixels):
            raise PageFailed(f"nothing of the page could be drawn: {warnings[:300]}", cause="damaged")
        assert len(pixels) == pixmap.width * pixmap.height * 3, "rows without gaps"
        layer = text if text.strip() else None
        return Drawn(
            "RGB",
            pixmap.width,
            pixmap.height,
            pixels,
            layer,
            warnings,
            pixmap,
            float(rect.width),
            float(rect.height),
        )

    def _fit(self, rect: Any) -> tuple[float, int, int]:
        width_pt, height_pt = float(rect.width), float(rect.height)
        if not (0 < width_pt < math.inf and 0 < height_pt < math.inf) or rect.is_infinite:
            raise PageFailed(f"the page measures {width_pt:g} × {height_pt:g} pt: it has no area", cause="damaged")
        if max(width_pt, height_pt) > self._limits.max_page_pt:
            over = f"over the limit of {self._limits.max_page_pt:,} pt; raise PAGEPACK_MAX_PAGE_PT or remove the page"
            raise PageFailed(f"the page measures {width_pt:,.0f} × {height_pt:,.0f} pt, {over}", cause="too-large")
        return fit(width_pt, height_pt, self._limits.max_side_px, enlarge=True)


def _white_pixmap(width_px: int, height_px: int) -> Any:
    # As Page.get_pixmap makes it. pymupdf.Pixmap(csRGB, …) lacks the empty separations: black text then goes through
    # a profile, comes out tinted and takes ten times as long.
    box = mupdf.FzIrect(0, 0, width_px, height_px)
    pixmap = mupdf.fz_new_pixmap_with_bbox(pymupdf.csRGB.this, box, mupdf.FzSeparations(), 0)
    mupdf.fz_clear_pixmap_with_value(pixmap, 255)
    return pymupdf.Pixmap("raw", pixmap)
