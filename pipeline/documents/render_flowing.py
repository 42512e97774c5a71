"""Documents without pages of their own: EPUB, HTML, mails and office documents, laid out by MuPDF on A4 or as they ask.

Runs only inside the sandboxed process. MuPDF lays the whole out and then writes some pages at a time as a PDF, which is
drawn as any other: so all that is known of drawing a page holds for these too. Nothing is fetched: MuPDF has no
network, and pictures come along as data.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from pipeline.documents.code_of_html import as_utf8
from pipeline.documents.pages.drawn import Drawn, Limits, clean, translated
from pipeline.documents.pdf.mupdf import PDF_ERRORS, PdfPages, mupdf, pymupdf
from pipeline.documents.text_layer.text_lines import FLAGS, text_lines
from pipeline.errors import DocumentRejected, PageFailed

_FONT_PT = 11
_PAGES_AT_ONCE = 20  # about 15 ms each
_WIDEST_PT = 7_000.0  # a little under the limit of PAGEPACK_MAX_PAGE_PT
_WIDER = 1.5
_MOST_MEASURED = 1_000  # pages, of a millisecond each
_CSS = "td, th { padding: 1pt 5pt; }"  # else MuPDF sets cells so close that their words are one line of text


class FlowingPages:
    """Pages of a document that MuPDF lays out."""

    def __init__(self, path: str, kind: str, limits: Limits, detail: str = "auto") -> None:
        self._limits, self._detail = limits, detail
        self._first = -1
        self._drawn: PdfPages | None = None
        pymupdf.TOOLS.reset_mupdf_warnings()
        try:
            self._document, self._notes = _laid_out(path, kind)
            self._notes += _widened(self._document)
            self.page_count: int = self._document.page_count
        except DocumentRejected:
            raise
        except Exception as error:  # parsers of strangers' files raise whatever they trip over
            raise translated(error, DocumentRejected, f"the {kind.upper()} file cannot be opened") from error

    def draw(self, page_index: int) -> Drawn:
        first = page_index - page_index % _PAGES_AT_ONCE
        if self._drawn is None or first != self._first:
            last = min(first + _PAGES_AT_ONCE, self.page_count)
            try:
                self._drawn = PdfPages(_as_pdf(self._document, range(first, last)), self._limits, self._detail)
            except (*PDF_ERRORS, DocumentRejected) as error:
                raise translated(error, PageFailed, "the page cannot be laid out") from error
            self._first = first
        drawn = self._with_own_text(self._drawn.draw(page_index - first), page_index)
        if page_index or not self._notes:
            return drawn
        return replace(drawn, warnings="\n".join(filter(None, [*self._notes, drawn.warnings])))

    def _with_own_text(self, drawn: Drawn, page_index: int) -> Drawn:
        """A PDF does not say which letters a joined or shaped glyph stands for, as in Arabic: the layout knows."""
        if drawn.dpi is None or "\ufffd" not in (drawn.text_layer or ""):
            return drawn
        text_page = self._document[page_index].get_textpage(flags=FLAGS)
        lines = text_lines(text_page).sent(drawn.dpi / 72)
        return replace(drawn, text_layer=clean(text_page.extractText()), text_lines=lines)


def _as_pdf(document: Any, page_indexes: range) -> bytes:
    """Some pages, without their links: PyMuPDF's own `convert_to_pdf` fails where the first one is not page 0."""
    written = mupdf.PdfDocument()
    for page_index in page_indexes:
        page = mupdf.fz_load_page(document.this, page_index)
        box = mupdf.fz_bound_page(page)
        device, resources, contents = mupdf.pdf_page_write(written, box)
        mupdf.fz_run_page(page, device, mupdf.FzMatrix(), mupdf.FzCookie())
        mupdf.fz_close_device(device)
        mupdf.pdf_insert_page(written, -1, mupdf.pdf_add_page(written, box, 0, resources, contents))
    buffer = mupdf.FzBuffer(8192)
    output = mupdf.FzOutput(buffer)
    mupdf.pdf_write_document(written, output, mupdf.PdfWriteOptions())
    output.fz_close_output()
    return bytes(mupdf.fz_buffer_extract_copy(buffer))


def _widened(document: Any) -> list[str]:
    """Lay it out anew so wide that no line is cut, for MuPDF breaks neither words nor tables; says what still is."""
    if not document.page_count:
        return []
    width_pt, height_pt = document[0].rect.width, document[0].rect.height
    while max(map(_right_edge, document.pages(0, _MOST_MEASURED)), default=0.0) > width_pt:
        if width_pt >= _WIDEST_PT:
            return [f"some lines are wider than the widest page, {_WIDEST_PT:,.0f} pt: what goes beyond is not shown"]
        width_pt = min(width_pt * _WIDER, _WIDEST_PT)
        document.layout(width=width_pt, height=height_pt, fontsize=_FONT_PT)
    return []


def _right_edge(page: Any) -> float:
    """Of its text; MuPDF gives one letter that the page does not show, and none behind it."""
    return max((block[2] for block in page.get_textpage(flags=0).extractBLOCKS()), default=0.0)


def _laid_out(path: str, kind: str) -> tuple[Any, list[str]]:
    """The document, and what it lacks, in words."""
    width_pt, height_pt, notes = 595.0, 842.0, list[str]()
    mupdf.fz_set_user_css(_CSS)
    if kind == "epub":
        document = pymupdf.open(path, filetype="epub", width=width_pt, height=height_pt, fontsize=_FONT_PT)
        if document.needs_pass:
            raise DocumentRejected("the EPUB is encrypted; remove its protection", cause="encrypted")
        return document, notes
    if kind == "html":
        with open(path, "rb") as file:
            html = _with_alternatives(as_utf8(file.read()))
    elif kind in ("eml", "msg"):
        html = _with_alternatives(_mail(path, kind))
    else:
        from pipeline.documents.office.reading import flowing_html

        flowing = flowing_html(path, kind)
        html, width_pt, height_pt, notes = flowing.html, flowing.width_pt, flowing.height_pt, [*flowing.notes]
    document = pymupdf.open(stream=html, filetype="html", width=width_pt, height=height_pt, fontsize=_FONT_PT)
    return document, notes


def _with_alternatives(html: bytes) -> bytes:
    """With the words that stand for pictures which do not come along; MuPDF writes `[image]` for each."""

    def words(tag: re.Match[bytes]) -> bytes:
        source, alternative = (_attribute(tag[0], name) for name in (b"src", b"alt"))
        return tag[0] if source.lower().startswith(b"data:") else alternative.replace(b"<", b"&lt;")

    return re.sub(rb"<img\b[^<>]*>", words, html, flags=re.IGNORECASE)


def _attribute(tag: bytes, name: bytes) -> bytes:
    found = re.search(rb"\s" + name + rb"\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+))", tag, re.IGNORECASE)
    return next(filter(None, found.groups()), b"").strip() if found else b""


def _mail(path: str, kind: str) -> bytes:
    from pipeline.documents.containers.mail import as_html
    from pipeline.documents.containers.mail_files import read_mail
    from pipeline.documents.containers.members import MembersLost

    with open(path, "rb") as file:
        try:
            return as_html(read_mail(file, kind))
        except MembersLost as lost:
            raise DocumentRejected(lost.fact, cause=lost.cause) from lost
