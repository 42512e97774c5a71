"""What is said of a PDF page's own text, on pages that are drawn here."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from PIL import Image

from pipeline.documents.pages.drawn import Limits
from pipeline.documents.pdf.mupdf import PdfPages
from pipeline.documents.text_layer.judge import is_garbled, judge
from pipeline.documents.text_layer.layer_lines import LayerLine
from pipeline.documents.text_layer.text_lines import FLAGS, text_lines
from pipeline.layout.own_text import whole_words
from schemas.text_layers import SENTENCES, Verdict
from tests import hostile

LINES = [
    "The harbour log says that fog came in at six and the ferry waited",
    "for the tide while gulls sat on the pier. Costs rose by 4.2 %, income",
    "by 6.9 %. For the first time the gift shop earned more than the café.",
] * 12
LIMITS = Limits(1024, 10, 7_200, 1_000_000)


def written(page: Any, **given: Any) -> None:
    for number, line in enumerate(LINES):
        page.insert_text((60, 70 + 19 * number), line, fontsize=11, **given)


def typed(document: Any) -> Any:
    page = document.new_page(width=595, height=842)
    written(page)
    return page


def scanned(document: Any) -> Any:
    """The same as a picture."""
    with pymupdf.open() as original:
        picture = typed(original).get_pixmap(dpi=150).tobytes("png")
    page = document.new_page(width=595, height=842)
    page.insert_image(page.rect, stream=picture)
    return page


def outlined(document: Any) -> Any:
    """The same as curves, as designers send it to print, and a page number."""
    with pymupdf.open() as original:
        svg = typed(original).get_svg_image(text_as_path=True).encode()
    with pymupdf.open("svg", svg) as drawing, pymupdf.open("pdf", drawing.convert_to_pdf()) as curves:
        page = document.new_page(width=595, height=842)
        page.show_pdf_page(page.rect, curves)
    page.insert_text((290, 820), "17", fontsize=9)
    return page


def stamped(document: Any) -> Any:
    page = scanned(document)
    page.insert_text((380, 825), "Case 1:05-cv-00123  Filed 03/04/05  Page 3 of 19", fontsize=8)
    return page


def watermarked(document: Any) -> Any:
    page = scanned(document)
    page.insert_text((60, 500), "COPY", fontsize=200, color=(0.85, 0.85, 0.85))
    return page


def tilted(document: Any) -> Any:
    page = scanned(document)
    writer = pymupdf.TextWriter(page.rect)
    writer.append((60, 420), "CONFIDENTIAL " * 2, fontsize=30)
    writer.write_text(page, morph=(pymupdf.Point(297, 421), pymupdf.Matrix(45)), color=(0.8, 0.8, 0.8))
    return page


def read_by_somebody(document: Any) -> Any:
    page = scanned(document)
    written(page, render_mode=3)
    return page


def under_its_scan(document: Any) -> Any:
    page = typed(document)
    page.insert_image(page.rect, pixmap=page.get_pixmap(dpi=100))
    return page


def white_on_white(document: Any) -> Any:
    page = typed(document)
    for number in range(6):
        page.insert_text((60, 770 + 8 * number), "best cheap harbour ferry tickets " * 2, fontsize=7, color=(1, 1, 1))
    return page


def without_meaning(document: Any) -> Any:
    """A font that does not say what its glyphs mean."""
    page = document.new_page(width=595, height=842)
    page.insert_text((60, 40), "Minutes of the harbour board", fontsize=18)
    font = pymupdf.Font("helv")
    page.insert_font("F0", fontbuffer=font.buffer)
    written(page, fontname="F0")
    for xref in range(1, document.xref_length()):
        if document.xref_get_key(xref, "ToUnicode")[0] != "null":
            document.xref_set_key(xref, "ToUnicode", "null")
    return page


def _named_otherwise(document: Any, named: Callable[[str], str]) -> Any:
    """A font that says of its small letters that they are others."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = " ".join(f"<{ord(one):02x}> <{named(one).encode('utf-16-be').hex()}>" for one in letters)
    page = document.new_page(width=595, height=842)
    for number, text in enumerate(LINES):
        page.insert_text(
            (60, 70 + 19 * number), "".join(c for c in text.lower() if c in f"{letters} "), fontname="helv"
        )
    [font] = [font[0] for font in page.get_fonts()]
    unicode = document.get_new_xref()
    document.update_object(unicode, "<<>>")
    begin = "begincmap 1 begincodespacerange <00> <ff> endcodespacerange 26 beginbfchar "
    document.update_stream(unicode, f"{begin}{pairs} endbfchar endcmap".encode(), new=True)
    document.xref_set_key(font, "ToUnicode", f"{unicode} 0 R")
    return page


def called_ideographs(document: Any) -> Any:
    return _named_otherwise(document, lambda letter: chr(0x4E00 + 37 * ord(letter)))


def called_hangul(document: Any) -> Any:
    return _named_otherwise(document, lambda letter: chr(0xAC00 + 37 * ord(letter)))


def called_digits(document: Any) -> Any:
    return _named_otherwise(document, lambda letter: str(ord(letter) % 10))


def _of(text: str, **given: Any) -> Callable[[Any], Any]:
    """Print of another kind than Latin prose, in two sizes."""

    def drawn(document: Any) -> Any:
        page = document.new_page(width=595, height=842)
        for number in range(12):
            page.insert_text((60, 70 + 19 * number), text, fontsize=8 + number % 2, **given)
        return page

    return drawn


in_chinese = _of("照片北京的合同发票测试文件扫描件身份证营业执照新建文件夹", fontname="china-s")
in_korean = _of("계약서사진스캔주민등록증영수증계약서사진스캔주민등록증", fontname="korea")
in_figures = _of("0123456789 1111 2222 3333 4444 5555 6666 7777 8888 9999", fontname="tiro")


def with_a_logo_and_rules(document: Any) -> Any:
    page = typed(document)
    with pymupdf.open() as other:
        logo = other.new_page(width=120, height=30)
        logo.insert_text((4, 22), "HERON BAY", fontsize=18)
        page.insert_image((60, 10, 180, 40), pixmap=logo.get_pixmap(dpi=150))
    for number in range(20):
        page.draw_line((60, 760 + 3 * number), (540, 760 + 3 * number))
        page.draw_line((60 + 24 * number, 760), (60 + 24 * number, 820))
    return page


def under_a_seal(document: Any) -> Any:
    """A picture that is transparent lies over the text, and hides nothing."""
    page = typed(document)
    seal = pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 64, 64), True)
    seal.set_alpha(bytes(64 * 64))
    page.insert_image(page.rect, pixmap=seal, keep_proportion=False)
    return page


PLAIN = (
    typed,
    without_meaning,
    called_ideographs,
    called_hangul,
    called_digits,
    in_chinese,
    in_korean,
    in_figures,
)


@pytest.mark.parametrize(
    ("draw", "verdict"),
    [
        (typed, Verdict.SOUND),
        (with_a_logo_and_rules, Verdict.SOUND),
        (under_a_seal, Verdict.SOUND),
        (scanned, None),
        (stamped, Verdict.STUB),
        (outlined, Verdict.STUB),
        (watermarked, Verdict.STUB),
        (tilted, Verdict.STUB),
        (read_by_somebody, Verdict.INVISIBLE),
        (under_its_scan, Verdict.COVERED),
        (white_on_white, Verdict.COVERED),
        (without_meaning, Verdict.GARBLED),
        (called_ideographs, Verdict.GARBLED),
        (called_hangul, Verdict.GARBLED),
        (called_digits, Verdict.GARBLED),
        (in_chinese, Verdict.SOUND),
        (in_korean, Verdict.SOUND),
        (in_figures, Verdict.SOUND),
    ],
)
def test_a_layer_is_judged_by_what_the_page_shows(
    draw: Callable[[Any], Any], verdict: Verdict | None, tmp_path: Path
) -> None:
    with pymupdf.open() as document:
        draw(document)
        document.save(tmp_path / "page.pdf")
    drawn = PdfPages(str(tmp_path / "page.pdf"), LIMITS).draw(0)
    picture = Image.frombytes("RGB", (drawn.width_px, drawn.height_px), bytes(drawn.pixels))
    assert (drawn.text_layer is None) == (drawn.text_lines is None) == (verdict is None)
    if drawn.text_layer and drawn.text_lines:
        sent, is_plain = drawn.text_lines
        lines = [LayerLine.received(line) for line in sent]
        assert judge(drawn.text_layer, lines, None if is_plain else picture) == verdict
        assert judge(drawn.text_layer, lines, picture) == verdict, "a picture that need not be looked at says the same"
        assert is_plain == (draw in PLAIN)


def test_thousands_of_lines_and_pictures_take_no_time_that_their_product_would(tmp_path: Path) -> None:
    lines = b"".join(
        b"BT /T 3 Tf 1 0 0 1 %d %d Tm (word) Tj ET " % (12 * (n % 40), 8 * (n // 40)) for n in range(4_000)
    )
    pictures = b"".join(b"q 1 0 0 1 %d 900 cm /I Do Q " % (n % 480) for n in range(4_000))
    resources = b"/Resources<</XObject<</I 5 0 R>>/Font<</T<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    picture = b"/Type/XObject/Subtype/Image/Width 1/Height 1/ColorSpace/DeviceGray/BitsPerComponent 8"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 500 910]/Contents 4 0 R" + resources + b">>"
    head = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page]
    path = hostile.pdf_of(
        [*head, hostile.stream(lines + pictures), hostile.stream(b"\x80", picture)], tmp_path / "a.pdf"
    )
    with pymupdf.open(path) as document:
        text_page = pymupdf.TextPage(document[0].get_displaylist().get_textpage(FLAGS))
        started = time.process_time()
        found = text_lines(text_page)
    assert len(found.pictures) == 4_000 and len(found.boxes) >= 100
    assert time.process_time() - started < 1.0


TURKISH = """Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve
birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler."""
WELSH = """Genir pawb yn rhydd ac yn gydradd â'i gilydd mewn urddas a hawliau. Fe'u cynysgaeddir â rheswm a
chydwybod, a dylai pawb ymddwyn y naill at y llall mewn ysbryd cymodlon."""
MANY_WORDS = (
    "\n".join(LINES[:3]) + " Nobody remembers which keeper wrote these lines, though every visitor reads them aloud."
)
SWAHILI = """Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri, hivyo yapasa
watendeane kindugu."""


@pytest.mark.parametrize(
    ("text", "is_bad"),
    [
        ("\n".join(LINES), False),
        ("\n".join(f"\uf0b7{line}" if number % 2 else f"\uf0b7 {line}" for number, line in enumerate(LINES)), False),
        ("a = \ufffd b \ufffd c " + " ".join(LINES), False),
        ("\n".join(LINES).replace("fi", "\x0c").replace("f", "\x0b"), True),
        ("".join(chr(ord(c) - 29) if c.isalpha() and c.isascii() else c for c in "\n".join(LINES)), True),
        ("\uf041\uf042 " * 30, True),
        ("\ufffd " * 30, True),
        (codecs.encode(MANY_WORDS, "rot13"), True),
        ("".join(chr(ord(c) + 1) if c.isalpha() and c.isascii() else c for c in MANY_WORDS), True),
        (MANY_WORDS, False),
        (WELSH, False),
        (TURKISH, False),
        (SWAHILI, False),
        ("bcd fgh " * 40, True),
        ("Größe, Straße, été, Łódź: cześć " * 20, False),
        ("海湾之友协会 二〇二五年度报告 " * 20, False),
        ("Годовой отчёт " * 20, False),
        ("4,180 21,450 −8,750 kg mm " * 20, False),
        ("".join(chr(33 + ord(c) % 24) if c.isalpha() else c for c in LINES[0]), True),  # numbers of glyphs
        ("BGB § 433 (1) HGB StGB ZPO GmbH, kW, PDF, XML/HTML, http, km², cm, dpi, RGB, CMYK, pH", False),
        ("1 ......... 4   2 ......... 7   3 ......... 9   ( a ) -- -- ( b ) == == == [x] [ ] [x] [ ]", False),
        ("हिन्दी में वार्षिक प्रतिवेदन और सूची " * 3, False),
        ("", False),
    ],
)
def test_words_that_mean_nothing_are_garbled(text: str, is_bad: bool) -> None:
    assert is_garbled(text) is is_bad


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("The quarterly inter-\nnational trade\n", "The quarterly international trade\n"),
        ("Wert\xadpapier\xadindex\n", "Wertpapierindex\n"),
        ("Wert\xad\nPapier, Größen- \nänderung\n", "WertPapier, Größenänderung\n"),
        ("Jean-\nPaul and pp. 4-\n6 -\nand a dash -\n", "Jean-Paul and pp. 4-\n6 -\nand a dash -\n"),
        ("a-\n海湾 and plain\nlines\n", "a-\n海湾 and plain\nlines\n"),
    ],
)
def test_words_broken_at_a_line_s_end_are_whole(text: str, whole: str) -> None:
    assert whole_words(text) == whole


def doubled(page: Any, order: str, dx: float, dy: float, shadow: float) -> None:
    """`LINES` twice, so far apart, each letter, word, line or the whole at once; in one stream."""
    shape = page.new_shape()
    pieces = {"page": [LINES[:3]], "line": [[line] for line in LINES[:3]]}.get(order)
    grey, black = (shadow,) * 3, (0.0,) * 3
    for row, lines in enumerate(pieces or [[line] for line in LINES[:3]]):
        for colour, x, y in ((grey, 60 + dx, 70 + dy), (black, 60.0, 70.0)):
            if pieces:
                for number, line in enumerate(lines):
                    shape.insert_text((x, y + 19 * (row + number)), line, fontsize=11, color=colour)
        at = 60.0
        for piece in [] if pieces else (lines[0] if order == "letter" else [f"{word} " for word in lines[0].split()]):
            for colour, x, y in ((grey, at + dx, 70 + dy), (black, at, 70.0)):
                shape.insert_text((x, y + 19 * row), piece, fontsize=11, color=colour)
            at += pymupdf.get_text_length(piece, fontsize=11)
    shape.commit()


@pytest.mark.parametrize("order", ["letter", "word", "line", "page"])
@pytest.mark.parametrize(("dx", "dy", "shadow"), [(0, 0, 0), (0.3, 0, 0), (0.4, 0.3, 0), (1.2, 1.2, 0.6)])
def test_print_that_is_doubled_is_said_once(order: str, dx: float, dy: float, shadow: float, tmp_path: Path) -> None:
    if shadow and order == "letter":
        dx = dy = 0.6  # farther, the letters of a word are said one by one
    with pymupdf.open() as document:
        doubled(document.new_page(width=595, height=842), order, dx, dy, shadow)
        document.save(tmp_path / "a.pdf")
    drawn = PdfPages(str(tmp_path / "a.pdf"), LIMITS).draw(0)
    assert drawn.text_layer and drawn.text_lines
    assert drawn.text_layer.split() == " ".join(LINES[:3]).split()
    assert len(drawn.text_lines[0]) == drawn.text_layer.count("\n"), "a box for each line"


def test_equal_letters_side_by_side_are_no_doubles(tmp_path: Path) -> None:
    lines = ["Illinois ballroom 1111 ...... ====== bookkeeper ||||| iiiiii", "Missouri ballroom 1111 ...... bookkeeper"]
    with pymupdf.open() as document:
        page = document.new_page(width=595, height=842)
        for number, line in enumerate(lines):
            page.insert_text((60, 70 + 4 * number), line, fontsize=11)  # set so close that they lie on each other
        document.save(tmp_path / "a.pdf")
    text = PdfPages(str(tmp_path / "a.pdf"), LIMITS).draw(0).text_layer
    assert text and text.split() == " ".join(lines).split()


def test_every_verdict_has_its_sentence() -> None:
    assert set(SENTENCES) == set(Verdict)
