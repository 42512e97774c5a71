"""Pages of a PDF, drawn by MuPDF. Runs only inside the sandboxed process."""

from __future__ import annotations

import math
import re
from typing import Any

import pymupdf as _pymupdf

from pipeline.documents.files import UNSUPPORTED_FACT
from pipeline.documents.pages.drawn import Drawn, Limits, clean, colour_in_white, colour_of, is_white, translated
from pipeline.documents.pdf.beside import beside_document, beside_page
from pipeline.documents.pdf.cut_images import SPEAKS_OF_IMAGES, mend_cut_images, without_what_hides
from pipeline.documents.pdf.encryption import unlock
from pipeline.documents.pdf.images import mend_images
from pipeline.documents.pdf.page_tree import mend_page_tree
from pipeline.documents.pdf.size import choose_page_size, draw
from pipeline.documents.text_layer.glyph_widths import contradict
from pipeline.documents.text_layer.layer_lines import CONTRADICTED
from pipeline.documents.text_layer.said_twice import said_once
from pipeline.documents.text_layer.strokes import page_strokes
from pipeline.documents.text_layer.text_lines import FLAGS, text_lines
from pipeline.errors import DocumentRejected, PageFailed

pymupdf: Any = _pymupdf  # half annotated
mupdf: Any = _pymupdf.mupdf
PDF_ERRORS = (mupdf.FzErrorBase, RuntimeError, ValueError, IndexError, MemoryError)
MAX_WARNING_CHARACTERS = 2_000  # MuPDF can complain about every object of a page
# What MuPDF says of a page that loses nothing by it.
_LEAST_TEXT_BYTES = 32  # of a file that begins with a header of PDF and is a text all the same
_HARMLESS = re.compile(
    r"syntax error: unknown keyword: '[!-~]*'|encountered syntax errors; page may not be correct"
    r"|\.\.\. repeated \d+ times\.\.\.|Ignoring (?!error).*|.*structure tree.*|Repairing missing parent.*"
    r"|.*ICC profile.*|invalid marked content.*|ActualText with no position.*"
)


class PdfPages:
    """Pages of a PDF, seen as a reader shows them: CropBox, /Rotate, annotations and form fields."""

    def __init__(self, source: str | bytes, limits: Limits, detail: str = "auto") -> None:
        """A file, or a PDF as bytes."""
        self._limits, self._detail = limits, detail
        self._images: dict[int, str] = {}  # what was mended of each
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            named = isinstance(source, str)
            self._document = pymupdf.open(source if named else None, None if named else source, "pdf")
            self._pdf = mupdf.pdf_document_from_fz_document(self._document.this)
            self._are_files_encrypted = unlock(self._document, self._pdf)
            tree = mend_page_tree(self._pdf, limits.max_pages)
            self.page_count = len(tree.pages)
            self._lost = {index for index, page in enumerate(tree.pages) if page is None}
            if len(self._lost) == self.page_count and (self._lost or self._document.is_repaired):
                raise DocumentRejected("the PDF is broken and no page of it could be recovered", cause="damaged")
            self._mended = tree.notes
            encrypted = self._are_files_encrypted
            self._beside = list(beside_document(self._document, self._pdf, are_files_encrypted=encrypted))
        except DocumentRejected as error:
            raise self._as_text(source) or error from None
        except PDF_ERRORS as error:
            reason = _as_encrypted(error) or self._as_text(source)
            raise reason or translated(error, DocumentRejected, "the PDF cannot be opened") from error

    @staticmethod
    def _as_text(source: str | bytes) -> DocumentRejected | None:
        """A rejection for a file that only speaks of PDF: the header may stand anywhere in the first 1,024 bytes."""
        if isinstance(source, bytes):  # ours
            return None
        with open(source, "rb") as file:
            head = file.read(1024)
        before = head[: max(head.find(b"%PDF-"), 0)].lstrip(b"\xef\xbb\xbf \t\r\n")
        # A header is a line of its own; where next to nothing follows it, the file is the rest of a PDF.
        goes_on = re.match(rb"%PDF-\d\.\d[ \t]+[^\s%]", head) and len(head) > _LEAST_TEXT_BYTES
        speaks = before or (goes_on and b" obj" not in head)
        if speaks and re.fullmatch(rb"[\t\r\n\f -~\x80-\xff]*", head):
            return DocumentRejected(f"a text file that mentions %PDF-: it {UNSUPPORTED_FACT}", cause="unsupported")
        return None

    def draw(self, page_index: int) -> Drawn:
        if page_index in self._lost:
            raise PageFailed("the page tree names this page, and the file does not hold it", cause="damaged")
        return self._draw(page_index, [])

    def _draw(self, page_index: int, of_images: list[str]) -> Drawn:
        """`of_images`: what was mended of them after a first drawing."""
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            entry = mupdf.pdf_lookup_page_obj(self._pdf, page_index)
            notes = [
                *((*self._mended, *self._beside) if page_index == 0 else ()),
                *mend_boxes(entry),
                *mend_images(entry, self._images, self._limits.max_image_pixels),
                *of_images,
                *beside_page(entry, are_files_encrypted=self._are_files_encrypted),
            ]
            page = self._document[page_index]
            sides_pt = self._sides(page.rect)
            # One interpretation of the page serves the text and every picture.
            display_list = _display_list(page)
            text_page = pymupdf.TextPage(display_list.get_textpage(FLAGS))
            text = clean(text_page.extractText())
            lines = text_lines(text_page)
            text = said_once(text, lines)
            if contradict(text, lines):
                lines.marks[:] = [mark | CONTRADICTED for mark in lines.marks]
            chosen = choose_page_size(display_list, lines, sides_pt, self._detail, self._limits)
            pixmap = draw(display_list, chosen.size, self._limits)
            notes += [chosen.warning] if chosen.warning else []
            complaints = clean(pymupdf.TOOLS.mupdf_warnings())
            most = self._limits.max_image_pixels
            may_mend = not of_images and SPEAKS_OF_IMAGES.search(complaints)
            if may_mend and (mended := mend_cut_images(entry, self._images, most)):
                return self._draw(page_index, mended)
            pixels: memoryview = pixmap.samples_mv  # no copy; it lives as long as its pixmap
            assert len(pixels) == pixmap.width * pixmap.height * 3, "rows without gaps"
            layer = (
                text if any(not mark.isspace() and mark.isprintable() for mark in text.replace("\ufffd", "")) else None
            )
            if layer is None and text.strip():
                notes.append("the page's own text is unknown or control characters alone, and is left out")
            strokes = page_strokes(display_list, lines.num_vectors, chosen.size.scale) if layer else None
            colour = colour_of(pixels, pixmap.width, chosen.size.width_px, chosen.size.height_px)
            if colour is None and layer is None and (box := lines.picture_box(chosen.size.scale)):
                shown = chosen.size.width_px, chosen.size.height_px
                colour = colour_in_white(pixels, pixmap.width, *shown, box)  # a picture that leaves a margin
                colour = None if colour is None or is_white(colour) else colour
            if colour is not None and layer is not None and not is_white(colour):
                notes.append("the page came out as one colour, though it has a text of its own")
            elif colour is not None and layer is None:
                if not of_images and lines.pictures:
                    with without_what_hides(entry, self._document, most) as seen:
                        if seen:
                            return self._draw(page_index, seen)
                said = "\n".join([*of_images, complaints]).strip()
                notes += _judge_empty(page, colour, said, has_text=bool(text.strip()))
        except PageFailed:
            raise
        except PDF_ERRORS as error:
            raise translated(error, PageFailed, "the page cannot be rendered") from error
        return Drawn(
            "RGB",
            pixmap.width,
            pixmap.height,
            pixels,
            layer,
            "\n".join([*dict.fromkeys(notes), complaints])[:MAX_WARNING_CHARACTERS].strip(),
            pixmap,
            *sides_pt,
            lines.sent(chosen.size.scale) if layer else None,
            dpi=72 * chosen.size.scale,
            print_px=chosen.print_px,
            strokes=strokes,
        )

    def _sides(self, rect: Any) -> tuple[float, float]:
        width_pt, height_pt = float(rect.width), float(rect.height)
        if not (0 < width_pt < math.inf and 0 < height_pt < math.inf) or rect.is_infinite:
            raise PageFailed(f"the page measures {width_pt:g} × {height_pt:g} pt: it has no area", cause="damaged")
        if max(width_pt, height_pt) > self._limits.max_page_pt:
            over = f"over the limit of {self._limits.max_page_pt:,} pt; raise PAGEPACK_MAX_PAGE_PT or remove the page"
            raise PageFailed(f"the page measures {width_pt:,.0f} × {height_pt:,.0f} pt, {over}", cause="too-large")
        return width_pt, height_pt


def _display_list(page: Any) -> Any:
    """The page's drawing, without its structure: MuPDF 1.28 walks a cyclic structure tree for ever where a device
    wants to hear of it, and neither the picture nor the text needs it."""
    box = page.rect
    display_list = mupdf.fz_new_display_list(mupdf.FzRect(box.x0, box.y0, box.x1, box.y1))
    device = mupdf.fz_new_list_device(display_list)
    device.m_internal.begin_structure = device.m_internal.end_structure = None
    mupdf.fz_run_page(page.this, device, mupdf.FzMatrix(), mupdf.FzCookie())
    mupdf.fz_close_device(device)
    return pymupdf.DisplayList(display_list)


def mend_boxes(page: Any) -> list[str]:
    """Give a page dictionary that shows nothing of itself a box that it has; what was mended, in words.

    Where the CropBox is empty or outside the MediaBox, MuPDF draws a blank Letter page.
    """
    media, crop = (mupdf.pdf_dict_get_inheritable(page, mupdf.pdf_new_name(name)) for name in ("MediaBox", "CropBox"))
    media_rect, crop_rect = mupdf.pdf_to_rect(media), mupdf.pdf_to_rect(crop)
    if not _has_area(media_rect):
        if _has_area(crop_rect):
            mupdf.pdf_dict_puts(page, "MediaBox", crop)
            return ["the page's MediaBox is empty: its CropBox is drawn"]
        return ["the page does not say how large it is: it is drawn as Letter"]
    shown = mupdf.fz_intersect_rect(media_rect, crop_rect)
    if not mupdf.pdf_is_null(crop) and not _has_area(shown):
        mupdf.pdf_dict_puts(page, "CropBox", media)
        return ["the page's CropBox is empty or outside the page: its MediaBox is drawn"]
    return []


def _has_area(rect: Any) -> bool:
    return bool(rect.x1 - rect.x0 > 0 and rect.y1 - rect.y0 > 0)


def _judge_empty(page: Any, colour: tuple[int, ...], complaints: str, *, has_text: bool) -> list[str]:
    """Whether a page of one colour without text is what its author meant; a warning where it may be.

    Raises:
        PageFailed: something should be there, and was not drawn.
    """
    said = f": {complaints[:300]}" if complaints else ""
    if has_text:
        raise PageFailed(
            f"nothing of the page could be drawn, and its own text is unknown or control characters alone{said}",
            cause="damaged",
        )
    is_harmless = all(_HARMLESS.fullmatch(line) for line in complaints.splitlines())
    if is_white(colour):
        if not is_harmless:
            raise PageFailed(f"nothing of the page could be drawn{said}", cause="damaged")
        return []
    shown = "#" + "".join(f"{value:02x}" for value in colour)
    if is_harmless and not any(kind in ("fill-image", "fill-imgmask") for kind, *_ in page.get_bboxlog()):
        return [f"the page is filled with one colour, {shown}, and nothing else"]
    raise PageFailed(f"the page's image came out as one colour, {shown}: it was not decoded{said}", cause="damaged")


def _as_encrypted(error: Exception) -> DocumentRejected | None:
    """A rejection for a file encrypted in a way that MuPDF does not know, as for a list of certificates."""
    said = re.sub(r"^code=\d+: ", "", clean(str(error.__cause__)))  # PyMuPDF's own words are the same for all
    if "crypt" not in said:
        return None
    fact = f"the PDF is encrypted in a way that is not read: {said[:200]}; save it without encryption"
    return DocumentRejected(fact, cause="encrypted")
