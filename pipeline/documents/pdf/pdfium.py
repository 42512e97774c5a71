"""PDFs and pages that MuPDF cannot draw, drawn by pdfium. Runs only inside the sandboxed process.

Two readers of PDF stumble over different mistakes: a font's name with a space in it ends the page for MuPDF and not for
pdfium. MuPDF stays the first, for it gives the text layer, the strokes and what was mended. pdfium is loaded only where
it is needed, gives a picture alone, and each page says that it drew it.
"""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

from PIL import Image

from pipeline.documents.pages.drawn import Drawn, Limits, Opened, without_paths
from pipeline.documents.pages.print_size import look_at
from pipeline.documents.pages.size import BLANK_PIXELS, UNKNOWN_PIXELS, bound, choose_size, sized, too_small
from pipeline.documents.pdf.mupdf import PdfPages
from pipeline.errors import DocumentRejected, PageFailed

_LOOK_PIXELS = 2_000_000
_BLACK = 0.98  # of the pixels
_LEAST_COLOURS = 16  # print has more shades at its edges; a picture that was not decoded is one, with a margin a few


class PdfByEither:
    """A PDF by MuPDF; as far as that fails over damage, by pdfium."""

    def __init__(self, path: str, limits: Limits, detail: str = "auto") -> None:
        self._path, self._limits, self._detail = path, limits, detail
        self._pdfium: _ByPdfium | None = None
        self._is_pdfium_tried = False
        first: Opened | None = None
        try:
            first = PdfPages(path, limits, detail)
            self.page_count = first.page_count
        except DocumentRejected as error:
            other = self._by_pdfium() if error.cause == "damaged" else None
            if other is None or not other.page_count:
                raise
            self.page_count, self._why = other.page_count, str(error)
        self._first = first

    def draw(self, page_index: int) -> Drawn:
        if self._first is None:
            assert self._pdfium is not None
            drawn = self._pdfium.draw(page_index, self._why)
            if drawn is None:
                raise PageFailed(f"nothing of the page could be drawn by MuPDF or pdfium; {self._why}", cause="damaged")
            return drawn
        try:
            return self._first.draw(page_index)
        except PageFailed as error:
            other = self._by_pdfium() if error.cause == "damaged" else None
            # Where they count pages differently, a number is not the same page.
            same = other is not None and other.page_count == self.page_count
            drawn = other.draw(page_index, str(error)) if other is not None and same else None
            if drawn is None:
                raise
            return drawn

    def _by_pdfium(self) -> _ByPdfium | None:
        if not self._is_pdfium_tried:
            self._is_pdfium_tried = True
            try:
                self._pdfium = _ByPdfium(self._path, self._limits, self._detail)
            except MemoryError:
                raise
            except Exception:  # of two errors MuPDF's is told
                return None
        return self._pdfium


class _ByPdfium:
    def __init__(self, path: str, limits: Limits, detail: str) -> None:
        import pypdfium2

        self._limits, self._detail = limits, detail
        self._file = open(path, "rb")  # noqa: SIM115  # as long as the document: a path may have no name any more
        self._open: Any = pypdfium2.PdfDocument  # and closed after each page: what is open at the end it complains of
        with closing(self._open(self._file)) as document:
            self.page_count = min(len(document), limits.max_pages + 1)

    def draw(self, page_index: int, why: str) -> Drawn | None:
        """None where it draws nothing either."""
        try:
            document = self._open(self._file)
        except Exception:
            return None
        with closing(document):
            return self._draw(document, page_index, why)

    def _draw(self, document: Any, page_index: int, why: str) -> Drawn | None:
        try:
            page = document[page_index]
            width_pt, height_pt = page.get_size()
            if not 0 < min(width_pt, height_pt) <= max(width_pt, height_pt) <= self._limits.max_page_pt:
                return None
            sides_pt = (float(width_pt), float(height_pt))
            most = bound(*sides_pt, self._limits)
            scale = min(math.sqrt(_LOOK_PIXELS / (width_pt * height_pt)), most)
            seen = sized(*sides_pt, scale, self._limits)
            look = look_at(_picture(page, scale, (seen.width_px, seen.height_px)).convert("L"))
            print_pt = None if look.size is None else look.size / scale
            least = UNKNOWN_PIXELS if look.has_ink else BLANK_PIXELS
            size = choose_size(*sides_pt, self._detail, self._limits, print_size=print_pt, least_pixels=least)
            picture = _picture(page, size.scale, (size.width_px, size.height_px))
            page.close()
        except MemoryError:
            raise
        except Exception:  # of two errors MuPDF's is told
            return None
        if picture.getcolors(_LEAST_COLOURS) is not None or _is_black(picture):
            return None
        print_px = None if print_pt is None else print_pt * size.scale
        sides = self._limits.padded(size.width_px), self._limits.padded(size.height_px)
        canvas = Image.new("RGB", sides, "white")
        canvas.paste(picture)
        notes = [f"drawn by pdfium, without the text that it may carry, for MuPDF cannot draw it: {without_paths(why)}"]
        notes += filter(None, [too_small(print_px, size, *sides_pt, self._detail, self._limits)])
        warnings, dpi = "\n".join(notes), 72 * size.scale
        return Drawn("RGB", *canvas.size, canvas.tobytes(), None, warnings, None, *sides_pt, dpi=dpi, print_px=print_px)


def _is_black(picture: Image.Image) -> bool:
    """All but a corner: of an image of which a few bytes were decoded."""
    counts = picture.convert("L").histogram()
    return counts[0] > _BLACK * sum(counts)


def _picture(page: Any, scale: float, size: tuple[int, int]) -> Image.Image:
    drawn = page.render(scale=scale, rev_byteorder=True).to_pil().convert("RGB")
    if drawn.size == size:
        return drawn  # type: ignore[no-any-return]
    canvas = Image.new("RGB", size, "white")
    canvas.paste(drawn)
    return canvas
