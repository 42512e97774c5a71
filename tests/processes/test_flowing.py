"""Documents without pages of their own, and images of rarer kinds, through the sandboxed process."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.blobs.png import load
from pipeline.documents.files import Kind, kind_of
from pipeline.documents.identify import identify
from pipeline.documents.pages.drawn import Limits
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.render import open_document
from pipeline.documents.render_process import RasterizedPage
from pipeline.documents.text_layer.judge import is_garbled
from pipeline.errors import DocumentRejected, PageFailed
from pipeline.layout.own_text import own_text
from pipeline.settings import Settings
from tests.archives import mail, outlook, picture, zipped
from tests.office_files import docx, epub, opendocument, pptx, related, with_parts, words, xlsx

Draw = Callable[[bytes, Kind], list[RasterizedPage]]
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoQABAAAAAAAAABMAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Wlw"
    "cnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAA"
    "QAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWB"
    "AgMFhAAAABttZGF0AAAADygBrwQY+AOjn/+ro4IXDA=="
)
"""A black picture of 64 × 32 px; what reads HEIC here does not write it."""


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "%s">]><x>%s</x>' % (b"a" * 1_000, b"&a;" * 1_000_000)
NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3_000))


@pytest.fixture(scope="module")
def rasterizer() -> Iterator[Rasterizer]:
    with Rasterizer(Settings()) as shared:
        yield shared


@pytest.fixture
def draw(rasterizer: Rasterizer, tmp_path: Path) -> Draw:
    def drawn(data: bytes, kind: Kind) -> list[RasterizedPage]:
        path = tmp_path / "named-as-nothing"
        path.write_bytes(data)
        assert identify(path).kind is kind
        with rasterizer.open(path, kind) as document:
            results = list(document.pages())
        pages = [page for page in results if isinstance(page, RasterizedPage)]
        assert len(pages) == len(results), results
        return pages

    return drawn


def texts(pages: list[RasterizedPage]) -> list[str]:
    return [" ".join((page.text_layer or "").split()) for page in pages]


def test_a_docx_shows_all_that_it_says(draw: Draw) -> None:
    table = f"<w:tbl><w:tr><w:tc>{words('cell one')}</w:tc><w:tc>{words('cell two')}</w:tc></w:tr></w:tbl>"
    box = f"<w:p><w:r><w:txbxContent>{words('in a box')}</w:txbxContent></w:r></w:p>"
    deleted = "<w:p><w:del><w:r><w:delText>struck out</w:delText></w:r></w:del></w:p>"
    shown = '<w:p><w:r><a:blip r:embed="r1"/></w:r></w:p>'
    body = words("The title", "Heading1") + words("A paragraph &amp; more") + table + box + deleted + shown
    header = f'<w:hdr xmlns:w="{"x"}">{words("letterhead")}</w:hdr>'.encode()
    image = io.BytesIO()
    Image.new("RGB", (200, 100), "black").save(image, "PNG")
    parts = {"word__header1__xml": header, "word__media__image1__png": image.getvalue()}
    [page] = draw(docx(body, **parts), Kind.DOCX)
    assert texts([page]) == ["letterhead The title A paragraph & more cell one cell two in a box"]
    assert (page.width_pt, page.height_pt) == (595.0, 842.0)
    pixels = np.asarray(load(page.image).convert("L"))
    assert (pixels < 50).sum() > 15_000, "the picture is drawn"


def test_sheets_are_tables_with_dates_and_every_column(draw: Draw) -> None:
    cells = '<c r="A1" t="s"><v>0</v></c><c r="C1" s="1"><v>46023</v></c><c r="AX1"><v>0.30000000000000004</v></c>'
    inline = '<row><c t="inlineStr"><is><t>inline</t></is></c><c><f>A1*2</f></c><c t="b"><v>1</v></c></row>'
    book = xlsx({"Costs": f"<row>{cells}</row>{inline}", "Second": ""}, "<si><t>shared words</t></si>")
    first, second = draw(book, Kind.XLSX)
    assert texts([first, second]) == ["Costs shared words 2026-01-01 0.3 inline =A1*2 TRUE", "Second"]
    assert first.width_pt == 50 * 75.0, "as wide as fifty columns need"


def test_each_slide_is_a_page_with_its_chart(draw: Draw) -> None:
    assert texts(draw(pptx("first", "second"), Kind.PPTX)) == ["first north 17", "second north 17"]


def test_opendocument_is_read_in_all_its_kinds(draw: Draw) -> None:
    text = '<text:h text:outline-level="1">Head</text:h><text:p>one<text:s text:c="2"/>two<text:tab/>three</text:p>'
    assert texts(draw(opendocument("text", text), Kind.ODT)) == ["Head one two three"]
    cell = '<table:table-cell table:number-columns-repeated="{}"><text:p>{}</text:p></table:table-cell>'
    row = f"<table:table-row>{cell.format(2, 'twice')}</table:table-row>"
    end = '<table:table-row table:number-rows-repeated="1048576"><table:table-cell/></table:table-row>'
    sheet = f'<table:table table:name="S">{row}{end}</table:table>'
    assert texts(draw(opendocument("spreadsheet", sheet), Kind.ODS)) == ["S twice twice"]
    slides = "".join(f"<draw:page><text:p>slide {number}</text:p></draw:page>" for number in (1, 2))
    assert texts(draw(opendocument("presentation", slides), Kind.ODP)) == ["slide 1", "slide 2"]


def test_books_and_web_pages_are_laid_out(draw: Draw) -> None:
    pages = draw(epub("<h1>Chapter one</h1>" + "<p>Some words.</p>" * 70, "<p>The end.</p>"), Kind.EPUB)
    assert texts(pages)[0].startswith("Chapter one Some words.") and texts(pages)[-1] == "The end." and len(pages) > 3
    html = "<!-- saved --><!DOCTYPE html><html><head><title>no</title></head><body><p>Straße</p></body></html>"
    assert texts(draw(html.encode(), Kind.HTML)) == ["Straße"]
    long = "".join(f"<h2>part {number}</h2><p>{'word ' * 400}</p>" for number in range(60))
    pages = draw(f"<html><body>{long}</body></html>".encode(), Kind.HTML)
    said = " ".join(texts(pages))
    assert len(pages) > 20 and [f"part {number} " in said for number in range(60)] == [True] * 60


def test_tables_are_read_by_their_cells(draw: Draw) -> None:
    rows = (("Item", "Qty", "Price"), ("Paper", "", "2.50"), ("Ink", "12", "7.00"), ("Pens", "40", ""))
    said = "| Item | Qty | Price |\n| --- | --- | --- |\n| Paper |  | 2.50 |\n| Ink | 12 | 7.00 |\n| Pens | 40 |  |"
    cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    html = f"<html><body><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table></body></html>"
    typed = ["".join(f"<w:tc>{words(cell)}</w:tc>" for cell in row) for row in rows]
    table = f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in typed)}</w:tbl>"
    chapter = html.partition("<body>")[2].partition("</body>")[0]
    for data, kind in ((html.encode(), Kind.HTML), (docx(table), Kind.DOCX), (epub(chapter), Kind.EPUB)):
        [page] = draw(data, kind)
        assert said in own_text(page.text_layer or "", page.text_layer_found), kind


def test_arabic_is_the_text_that_the_document_carries(draw: Draw) -> None:
    said = ("السلام عليكم ورحمة الله", "هذه رسالة من المدينة القديمة")
    html = f"<html><body>{''.join(f'<p>{line}</p>' for line in said)}</body></html>"
    for data, kind in ((html.encode(), Kind.HTML), (docx("".join(map(words, said))), Kind.DOCX)):
        [page] = draw(data, kind)
        assert page.text_layer is not None and page.text_layer.split("\n")[:2] == list(said)
        assert page.text_layer_verdict == "sound" and page.text_layer_found is not None
        assert len(page.text_layer_found["lines"]) == page.text_layer.count("\n")


@pytest.mark.parametrize(
    ("declared", "code", "said"),
    [
        ('<meta charset="iso-8859-1">', "cp1252", "Straße café 5 €"),
        ("", "cp1252", "Straße café"),
        ("", "utf-8", "Straße café"),
        ('<META CHARSET = "utf-8">', "utf-8", "Straße café"),
        ('<meta charset="utf-16">', "utf-8", "Straße café"),
        ('<meta charset="utf-16">', "utf-16", "Straße café"),  # with its mark
        ("", "utf-16-le", "Straße café"),
        ("", "utf-16-be", "Straße café"),
        ('<meta charset="no such code">', "utf-8", "Straße café"),
        ('<meta charset="zlib">', "utf-8", "Strasse"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">', "cp1252", "Straße café 5 €"),
        ('<meta charset="windows-1251">', "cp1251", "Привет мир"),
        ('<meta charset="shift_jis">', "shift_jis", "日本語の文"),
        ('<meta charset="windows-1252">', "utf-8-sig", "Straße café"),
        ('<meta charset="gb2312">', "gbk", "朱镕基"),
        ('<meta charset="x-sjis">', "cp932", "日本語①"),
        ('<meta charset="euc-kr">', "cp949", "똠방"),
        ('<meta charset="windows-874">', "cp874", "ภาษาไทย"),
        ('<meta charset="iso-8859-9">', "cp1254", "“şğı”"),
        ('<meta charset="iso-8859-8-i">', "iso8859-8", "שלום"),
    ],
)
def test_web_pages_are_read_in_the_code_that_they_declare(declared: str, code: str, said: str, draw: Draw) -> None:
    html = f"<html><head>{declared}</head><body><p>{said}</p></body></html>"
    assert texts(draw(html.encode(code), Kind.HTML)) == [said]


def test_what_a_docx_says_outside_its_paragraphs_is_shown(draw: Draw) -> None:
    chart = b"<chart><title><t>Sales</t></title><ser><cat><v>north</v></cat><val><v>4711</v></val></ser></chart>"
    remarks = f'<w:comments xmlns:w="w"><w:comment w:author="Ada">{words("a remark")}</w:comment></w:comments>'
    whole = (
        b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>web</p>"
    )
    item = (
        '<w:p><w:pPr><w:numPr><w:ilvl w:val="{}"/><w:numId w:val="1"/></w:numPr></w:pPr><w:r><w:t>{}</w:t></w:r></w:p>'
    )
    items = "".join(item.format(level, text) for level, text in ((0, "one"), (1, "two"), (1, "three"), (0, "four")))
    levels = (("0", "upperRoman", "%1.", "7"), ("1", "lowerLetter", "%1%2)", "1"))
    numbering = "".join(
        f'<w:lvl w:ilvl="{at}"><w:start w:val="{first}"/><w:numFmt w:val="{form}"/><w:lvlText w:val="{text}"/></w:lvl>'
        for at, form, text, first in levels
    )
    numbering = f'<w:abstractNum w:abstractNumId="4">{numbering}</w:abstractNum>'
    numbering += '<w:num w:numId="1"><w:abstractNumId w:val="4"/></w:num>'
    half = "<w:p><f><num><w:r><w:t>1</w:t></w:r></num><den><w:r><w:t>2</w:t></w:r></den></f></w:p>"
    deleted = f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc>{words('struck out')}</w:tc></w:tr></w:tbl>"
    body = items + half + deleted + '<w:p><w:r><chart r:id="chart"/></w:r></w:p><w:altChunk r:id="aFChunk"/>'
    parts = {
        "word/charts/c.xml": chart,
        "word/comments.xml": remarks.encode(),
        "word/a.mht": whole + b"\n--b--\n",
        "word/numbering.xml": f'<w:numbering xmlns:w="w">{numbering}</w:numbering>'.encode(),
        "word/_rels/document.xml.rels": related(chart="charts/c.xml", aFChunk="a.mht"),
    }
    said = "VII. one VIIa) two VIIb) three VIII. four 1/2 Sales north 4711 web [comment Ada] a remark"
    assert texts(draw(with_parts(docx(body), parts), Kind.DOCX)) == [said]


def test_parts_of_a_package_are_found_whatever_they_are_called(draw: Draw) -> None:
    package = docx(words("body"))
    main = {"word/document.xml": b"", "word/document2.xml": f'<w xmlns:w="w">{words("moved")}</w>'.encode()}
    moved = with_parts(package, main | {"_rels/.rels": related(officeDocument="/word/document2.xml")})
    assert texts(draw(moved, Kind.DOCX)) == ["moved"]
    with zipfile.ZipFile(io.BytesIO(package)) as parts:
        windows = zipped({name.replace("/", "\\"): parts.read(name) for name in parts.namelist()})
    assert texts(draw(windows, Kind.DOCX)) == ["body"]
    assert texts(draw(with_parts(epub("<p>book</p>"), {"mimetype": b""}), Kind.EPUB)) == ["book"]


def test_numbers_of_a_workbook_are_shown_as_its_cells_do(draw: Draw) -> None:
    forms = ("0", "14", "170", "171", "46", "172")
    styles = "".join(f'<xf numFmtId="{form}"/>' for form in forms)
    codes = {170: "[h]:mm", 171: "0.0%", 172: "#,##0.00_d"}
    own = "".join(f'<numFmt numFmtId="{number}" formatCode="{code}"/>' for number, code in codes.items())
    values = ((1, 44562), (2, 1.5), (3, 0.255), (4, 1.25), (5, 1234.5))
    row = "".join(f'<c s="{style}"><v>{value}</v></c>' for style, value in values)
    book = b'<workbook xmlns:r="r"><workbookPr date1904="1"/><sheets><sheet name="S" r:id="r1"/></sheets></workbook>'
    foot = "<headerFooter><oddFooter>&amp;C&amp;8Draft &amp;P</oddFooter></headerFooter>"
    shuffled = '<row><c r="C2"><v>3</v></c><c r="A2" t="inlineStr"><is><t>a_x000D_b</t></is></c></row>'
    parts = {
        "xl/workbook.xml": book,
        "xl/styles.xml": f"<styleSheet><numFmts>{own}</numFmts><cellXfs>{styles}</cellXfs></styleSheet>".encode(),
        "xl/_rels/s1.xml.rels": related(comments="c.xml"),
        "xl/c.xml": b'<comments><comment ref="B7"><text><t>a remark</t></text></comment></comments>',
    }
    said = "S 2026-01-02 36:00:00 25.5% 30:00:00 1234.5 ab 3 [comment B7] a remark Draft"
    sheet = xlsx({"S": f"<row>{row}</row>{shuffled}{foot}"})
    assert texts(draw(with_parts(sheet, parts), Kind.XLSX)) == [said]


def test_a_workbook_without_its_words_says_so(draw: Draw) -> None:
    sheet = xlsx({"S": '<row><c t="s"><v>0</v></c><c><v>5</v></c></row>'})
    [page] = draw(with_parts(sheet, {"xl/sharedStrings.xml": b""}), Kind.XLSX)
    assert texts([page]) == ["S 5"] and "words are not in the file" in page.warnings


def test_what_an_opendocument_says_beside_its_paragraphs_is_shown(draw: Draw) -> None:
    styles = b"<o xmlns:s='s' xmlns:text='text'><s:header-first><text:p>letterhead</text:p></s:header-first></o>"
    chart = b"<o xmlns:text='text'><text:p>Turnover</text:p></o>"
    shape = "<draw:custom-shape><text:p>in a</text:p><text:p>shape</text:p></draw:custom-shape>"
    body = f"<text:p>text{shape}<office:annotation><text:p>a remark</text:p></office:annotation></text:p>"
    body += '<draw:frame><draw:object xlink:href="./Object 1"/></draw:frame>'
    document = with_parts(opendocument("text", body), {"styles.xml": styles, "Object 1/content.xml": chart})
    assert texts(draw(document, Kind.ODT)) == ["letterhead text in a shape [comment] a remark Turnover"]
    cell = '<table:table-cell office:value="42.5"/>'
    sheet = f'<table:table table:name="S"><table:table-row>{cell}</table:table-row></table:table>'
    assert texts(draw(opendocument("spreadsheet", sheet), Kind.ODS)) == ["S 42.5"]


def test_words_stand_for_pictures_that_do_not_come_along(draw: Draw) -> None:
    shown = f'<img src="data:image/png;base64,{base64.b64encode(picture(9)).decode()}">'
    html = f"""<p>a <img src="http://x/y.gif"> <IMG alt='our &amp; logo' src=cid:1> {shown}</p>"""
    assert texts(draw(html.encode(), Kind.HTML)) == ["a our & logo"]
    assert "our & logo" in texts(draw(mail("plain", html), Kind.EML))[0]


def test_words_that_look_like_none_are_what_a_web_page_says(draw: Draw) -> None:
    html = f"<p>{' '.join(f'XKQ{number}ZRTVW' for number in range(60))}</p>"
    assert is_garbled(html) and [page.text_layer_verdict for page in draw(html.encode(), Kind.HTML)] == ["sound"]


def test_pages_are_as_wide_as_their_widest_line(draw: Draw) -> None:
    cells = "".join(f"<td>column{number}</td>" for number in range(30))
    html = f"<table><tr>{cells}</tr></table><pre>{'y' * 200} end</pre>"
    [page] = draw(html.encode(), Kind.HTML)
    assert "column29" in texts([page])[0] and texts([page])[0].endswith("y end") and (page.width_pt or 0) < 3_000
    [page] = draw(f"<p>{'x' * 2_000} end</p>".encode(), Kind.HTML)
    assert "wider than the widest page" in page.warnings and texts([page])[0].count("x") < 2_000


def test_mails_are_pages_that_say_who_wrote_what(draw: Draw) -> None:
    [plain] = texts(draw(mail("first line\n\n  <second>"), Kind.EML))
    head = "From: Clerk <clerk@example.org> To: archive@example.org Date: Thu, 01 Jan 2026 10:00:00 +0000"
    assert plain == f"{head} Subject: Überweisung first line <second>"
    [rich] = texts(draw(mail("plain", "<html><body><b>rich</b> &euro;</body></html>", a_png=picture(1)), Kind.EML))
    assert rich == f"{head} Subject: Überweisung Attached: a.png rich €"
    small = b"From: clerk@example.org\nSubject: broken scan\n\nThe file begins with %PDF-1.4.\n"
    assert texts(draw(small, Kind.EML)) == [
        "From: clerk@example.org Subject: broken scan The file begins with %PDF-1.4."
    ]
    wide = {"0037001F": "Betreff", "0C1A001F": "Clerk", "1000001F": "what it says"}
    streams = {f"__substg1.0_{tag}": text.encode("utf-16-le") for tag, text in wide.items()}
    assert texts(draw(outlook(streams), Kind.MSG)) == ["From: Clerk Subject: Betreff what it says"]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (docx("<w:p>"), "damaged"),
        (docx("", **{"word__document__xml": b""}), "damaged"),
        (docx("", word__header1__xml=ENTITIES), "damaged"),
        (epub("<p>x</p>").replace(b"b.opf", b"c.opf"), "damaged"),
        (b"From: a@b\nSubject: x\n" + NESTED, "damaged"),
    ],
    ids=["xml that does not close", "no body", "entities", "no package", "parts in parts"],
)
def test_broken_documents_are_refused_with_a_reason(
    rasterizer: Rasterizer, tmp_path: Path, data: bytes, cause: str
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(data)
    with pytest.raises(DocumentRejected) as raised, rasterizer.open(path, identify(path).kind):
        pass
    assert raised.value.cause == cause and "/dev/fd" not in str(raised.value), raised.value


def test_an_office_document_with_a_password_says_so(tmp_path: Path) -> None:
    without_class = bytes.fromhex("0b0d02")
    (tmp_path / "secret.docx").write_bytes(outlook({"EncryptedPackage": b"x"}).replace(without_class, bytes(3)))
    with pytest.raises(DocumentRejected, match="password") as raised:
        identify(tmp_path / "secret.docx")
    assert raised.value.cause == "encrypted"
    (tmp_path / "thumbs").write_bytes(outlook({"Catalog": b"x"}).replace(without_class, bytes(3)))
    with pytest.raises(DocumentRejected) as raised:
        identify(tmp_path / "thumbs")
    assert raised.value.cause == "unsupported"


def test_old_office_documents_say_what_would_read_them(rasterizer: Rasterizer, tmp_path: Path) -> None:
    without_class = bytes.fromhex("0b0d02")
    old = outlook({"WordDocument": b"x"}).replace(without_class, bytes(3))
    for kind, data in ((Kind.DOC, old), (Kind.RTF, b"{\\rtf1 words}")):
        (tmp_path / "old").write_bytes(data)
        assert identify(tmp_path / "old").kind is kind
        with pytest.raises(DocumentRejected, match="LibreOffice is installed") as raised:
            rasterizer.open(tmp_path / "old", kind)
        assert raised.value.cause == "unsupported"


def test_images_of_rarer_kinds_are_read(draw: Draw, tmp_path: Path) -> None:
    import pillow_jxl  # noqa: F401  # makes Pillow write them

    picture = Image.new("RGB", (64, 32), "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 31, 31), fill="black")
    for kind, form in ((Kind.JP2, "JPEG2000"), (Kind.AVIF, "AVIF"), (Kind.JXL, "JXL"), (Kind.PNM, "PPM")):
        file = io.BytesIO()
        picture.save(file, form)
        [page] = draw(file.getvalue(), kind)
        pixels = np.asarray(load(page.image).convert("L"))
        assert pixels.shape == (32, 64) and pixels[:, :28].mean() < 20 and pixels[:, 36:].mean() > 235, kind
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(PageFailed, match="one colour, #0"):  # decoded, and all black
        open_document(str(tmp_path / "a.heic"), "heic", Limits(1024, 9, 7200, 10**7)).draw(0)
    for text in (b"P4 is a road\n", b"P6\nis one, too\n", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42"):
        assert kind_of(text) is None


def test_what_only_looks_like_a_mail_or_a_web_page_is_none() -> None:
    for text in (b"Subject: x\nDate: y\n\n", b"From: me\n\nhello", b"To do:\n milk\nFrom: shop\n", b"a <html> tag"):
        assert kind_of(text) is None, text
