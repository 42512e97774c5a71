"""PDFs that are odd and readable: each page is read or fails with its reason, and what was mended is said."""

from __future__ import annotations

from pathlib import Path

import pymupdf
import pytest

from pipeline.documents.identify import identify
from pipeline.documents.pages.drawn import Drawn, Limits
from pipeline.documents.pdf.attachments import attached_files
from pipeline.documents.pdf.beside import beside_document
from pipeline.documents.render import open_document
from pipeline.errors import DocumentRejected, PageFailed
from tests import odd_pdfs
from tests.odd_pdfs import BOX, FONT, KIDS, words

LIMITS = Limits(max_side_px=512, max_pages=100, max_page_pt=7200, max_image_pixels=10**7)


def drawn(path: Path) -> list[Drawn | PageFailed]:
    """Every page of the document, as the sandboxed process draws it, in this process."""
    document = open_document(str(path), "pdf", LIMITS)
    pages: list[Drawn | PageFailed] = []
    for page_index in range(document.page_count):
        try:
            pages.append(document.draw(page_index))
        except PageFailed as error:
            pages.append(error)
    return pages


def only(path: Path) -> Drawn:
    [page] = drawn(path)
    assert isinstance(page, Drawn), page
    return page


def failure(path: Path) -> PageFailed:
    [page] = drawn(path)
    assert isinstance(page, PageFailed), page
    return page


def texts(path: Path) -> list[str | None]:
    return [page.text_layer.strip() if isinstance(page, Drawn) and page.text_layer else None for page in drawn(path)]


# The page tree

ALL = ["alpha", "bravo", "charlie"]


@pytest.mark.parametrize(
    ("root", "says"),
    [
        (b"<</Type/Pages%s/Count 1>>" % KIDS, "counts 1 pages; found: 3"),
        (b"<</Type/Pages%s/Count 0>>" % KIDS, "counts 0 pages; found: 3"),
        (b"<</Type/Pages%s/Count -3>>" % KIDS, "counts -3 pages; found: 3"),
        (b"<</Type/Pages%s/Count 2000000000>>" % KIDS, "counts 2,000,000,000 pages; found: 3"),
        (b"<</Type/Pages%s>>" % KIDS, "does not count its pages"),
        (b"<</Type/Pages%s/Count/Three>>" % KIDS, "does not count its pages"),
        (b"<</Type/Pages%s/Count 3>>" % KIDS, ""),
        (b"<<%s/Count 3>>" % KIDS, "does not say what it is"),
        (b"<</Type/Pages/Kids[3 0 R 9 0 R]/Count 3>>", "holds itself"),
        (
            b"<</Type/Pages/Count 3/Kids[3 0 R<</Type/Pages/Count 1/Kids[4 0 R 5 0 R]>>]>>",
            "a part of the page tree counts 1",
        ),
        (b"<</Type/Pages/Kids[2 0 R 3 0 R 9 0 R 9 0 R 9 0 R]/Count 3>>", "holds itself"),
        (b"<</Type/Pages/Kids[3 0 R null 9 0 R 99 0 R]/Count 3>>", "object 99"),
        (b"null", "not in the file"),
    ],
)
def test_the_page_tree_is_walked_whatever_it_counts(tmp_path: Path, root: bytes, says: str) -> None:
    path = odd_pdfs.page_tree(tmp_path / "a.pdf", root)
    assert texts(path) == ALL
    first, *others = drawn(path)
    assert isinstance(first, Drawn) and says in first.warnings and bool(first.warnings) == bool(says)
    assert not any(isinstance(page, Drawn) and page.warnings for page in others), "said once"


@pytest.mark.parametrize("catalog", [b"/Pages 4 0 R", b"/Pages 99 0 R", b""])
def test_pages_are_found_where_the_catalog_names_no_tree(tmp_path: Path, catalog: bytes) -> None:
    path = odd_pdfs.page_tree(tmp_path / "a.pdf", b"<</Type/Pages%s/Count 3>>" % KIDS, catalog)
    assert texts(path) == ALL, "in the order of the tree that they name as theirs"


def test_a_page_that_the_tree_counts_and_the_file_lacks_fails(tmp_path: Path) -> None:
    path = odd_pdfs.page_tree(tmp_path / "a.pdf", b"<</Type/Pages/Kids[3 0 R 99 0 R 5 0 R]/Count 3>>")
    assert texts(path) == ["alpha", None, "charlie"]
    lost = drawn(path)[1]
    assert isinstance(lost, PageFailed) and lost.cause == "damaged" and "does not hold it" in str(lost)


def test_a_mended_tree_hands_down_what_its_nodes_say(tmp_path: Path) -> None:
    path = odd_pdfs.page_tree(tmp_path / "a.pdf", b"<</Type/Pages%s%s/Count 0>>" % (KIDS, BOX), box=b"")
    assert [(page.width_pt, page.height_pt) for page in drawn(path) if isinstance(page, Drawn)] == [(400, 300)] * 3


def test_a_tree_that_unfolds_to_countless_pages_is_refused_soon(tmp_path: Path) -> None:
    levels = [b"<</Type/Pages/Kids[%d 0 R %d 0 R]/Count 2>>" % (3 + level, 3 + level) for level in range(40)]
    page = b"<</Type/Page/MediaBox[0 0 9 9]>>"
    path = odd_pdfs.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", *levels, page], tmp_path / "a.pdf")
    assert len(drawn(path)) == 2, "each node is read once"
    many = b"<</Type/Pages/Kids[%s]/Count 1>>" % (b"3 0 R " * 200)
    path = odd_pdfs.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", many, page], tmp_path / "b.pdf")
    with pytest.raises(DocumentRejected) as caught:
        open_document(str(path), "pdf", LIMITS)
    assert caught.value.cause == "too-large"


@pytest.mark.parametrize("count", ["-3", "0", "1", "2000000000", "null"])
def test_what_is_attached_is_found_whatever_the_page_tree_counts(tmp_path: Path, count: str) -> None:
    with pymupdf.open() as document:
        for _ in ALL:
            document.new_page(width=200, height=200)
        document.embfile_add("annex", b"of the document", filename="annex.txt")
        document[2].add_file_annot((10, 10), b"of the last page", "pinned.txt")
        root = int(document.xref_get_key(document.pdf_catalog(), "Pages")[1].split()[0])
        document.xref_set_key(root, "Pad", "(0123456789)")
        data = document.tobytes()
    assert b"/Count 3" in data and b"(0123456789)" in data
    pad = b"(%s)" % b"0123456789"[len(count) - 1 :]  # so that the offsets stay right
    (tmp_path / "a.pdf").write_bytes(
        data.replace(b"/Count 3", b"/Count %s" % count.encode()).replace(b"(0123456789)", pad)
    )
    found = [("annex.txt", b"of the document", None), ("pinned.txt", b"of the last page", None)]
    assert list(attached_files(str(tmp_path / "a.pdf"), 100)) == found


@pytest.mark.parametrize(
    ("catalog", "entries"),
    [
        (b"/Names<</EmbeddedFiles<</Kids[7 0 R]>>>>", b""),
        (b"/Names<</EmbeddedFiles 7 0 R>>", b""),
        (b"/AF[5 0 R]", b""),
        (b"", b"/AF[5 0 R]"),
        (b"", b"/Annots[<</Subtype/FileAttachment/FS 5 0 R/Rect[0 0 9 9]>>]"),
        (b"/AF[5 0 R]/Names<</EmbeddedFiles 7 0 R>>", b"/AF[5 0 R]"),
    ],
    ids=["in branches", "in a cycle", "of the document", "of a page", "pinned", "everywhere"],
)
def test_what_is_attached_is_found_wherever_it_is_named(tmp_path: Path, catalog: bytes, entries: bytes) -> None:
    file = b"<</Type/Filespec/F(old.pdf)/UF(annex.pdf)/EF<</F 6 0 R>>>>"
    node = b"<</Kids[7 0 R]/Names[(key)5 0 R(gone)<</F(elsewhere.pdf)>>]>>"
    parts = (file, odd_pdfs.stream(b"its content"), node)
    path = odd_pdfs.one_page(tmp_path / "a.pdf", words("cover"), BOX + entries, parts, catalog)
    assert "1 file (annex.pdf)" in only(path).warnings
    assert list(attached_files(str(path), 100)) == [("annex.pdf", b"its content", None)]


# Structure, boxes, encryption


def test_a_cyclic_structure_tree_does_not_hang_its_page(tmp_path: Path) -> None:
    page = only(odd_pdfs.cyclic_structure(tmp_path / "a.pdf"))
    assert page.text_layer == "structured\n" and min(page.pixels) == 0


@pytest.mark.parametrize("crop", [b"0 0 0 0", b"500 500 700 700", b"10 10 10 200", b"(a) 1"])
def test_a_crop_box_that_shows_nothing_gives_way_to_the_media_box(tmp_path: Path, crop: bytes) -> None:
    page = only(odd_pdfs.one_page(tmp_path / "a.pdf", words("seen"), BOX + b"/CropBox[%s]" % crop))
    assert (page.width_pt, page.height_pt) == (400, 300) and "CropBox" in page.warnings
    assert page.text_layer == "seen\n" and min(page.pixels) == 0


def test_an_empty_media_box_gives_way_to_the_crop_box(tmp_path: Path) -> None:
    boxes = b"/MediaBox[0 0 0 0]/CropBox[0 0 400 300]"
    page = only(odd_pdfs.one_page(tmp_path / "a.pdf", words("seen"), boxes))
    assert (page.width_pt, page.height_pt) == (400, 300) and "MediaBox" in page.warnings


@pytest.mark.parametrize(
    ("version", "revision", "key_bytes", "used_bytes"),
    [(1, 2, 5, 5), (1, 3, 5, 5), (2, 3, 16, 16), (4, 4, 16, 16), (4, 4, 5, 16), (4, 4, 6, 16)],
)
def test_rc4_with_an_empty_password_is_read(
    tmp_path: Path, version: int, revision: int, key_bytes: int, used_bytes: int
) -> None:
    path = odd_pdfs.rc4_encrypted(
        tmp_path / "a.pdf", version=version, revision=revision, key_bytes=key_bytes, used_bytes=used_bytes
    )
    assert texts(path) == ["unlocked"]


def test_pages_are_read_where_attachments_alone_are_encrypted(tmp_path: Path) -> None:
    page = only(odd_pdfs.attachments_encrypted(tmp_path / "a.pdf"))
    assert page.text_layer == "plain\n" and page.warnings.count("encrypted") == 1
    page = only(odd_pdfs.attachments_encrypted(tmp_path / "b.pdf", names=True))
    assert page.warnings == "the document has 1 file (b.txt) attached, encrypted and not read"
    assert list(attached_files(str(tmp_path / "a.pdf"), 100)) == []


def test_attached_files_that_are_encrypted_are_not_promised() -> None:
    with pymupdf.open() as document:
        document.new_page()
        document.embfile_add("annex", b"x", filename="annex.txt")
        pdf = pymupdf.mupdf.pdf_document_from_fz_document(document.this)
        assert "--attachments" in " ".join(beside_document(document, pdf))
        [said] = beside_document(document, pdf, are_files_encrypted=True)
    assert "annex" in said and "encrypted" in said and "--attachments" not in said


@pytest.mark.parametrize(
    "encrypt",
    [
        b"<</Filter/Adobe.PubSec/V 4/SubFilter/adbe.pkcs7.s5/Recipients[<00>]>>",
        b"<</Filter/Standard/V 9/R 9/Length 128/P -4/O<%s>/U<%s>>>" % (b"ab" * 32, b"cd" * 32),
        b"<</Filter/Standard>>",
    ],
)
def test_an_unknown_encryption_is_named(tmp_path: Path, encrypt: bytes) -> None:
    path = odd_pdfs.one_page(tmp_path / "a.pdf", words("locked"), BOX, (encrypt,))
    path.write_bytes(path.read_bytes().replace(b"trailer <<", b"trailer <</Encrypt 5 0 R/ID[<00><00>]"))
    with pytest.raises(DocumentRejected) as caught:
        open_document(str(path), "pdf", LIMITS)
    assert caught.value.cause == "encrypted" and str(tmp_path) not in str(caught.value)


# Pages that come out empty


def test_a_blank_page_with_an_unknown_operator_is_blank(tmp_path: Path) -> None:
    page = only(odd_pdfs.one_page(tmp_path / "a.pdf", b"q Q fooBar"))
    assert page.text_layer is None and "fooBar" in page.warnings and min(page.pixels) == 255
    assert only(odd_pdfs.one_page(tmp_path / "b.pdf", b"1 g 0 0 400 300 re f Quux EMC EMC")).warnings
    lost = failure(odd_pdfs.one_page(tmp_path / "c.pdf", b"/Gone Do Quux"))
    assert lost.cause == "damaged" and "nothing of the page could be drawn" in str(lost)


def test_an_image_that_comes_out_as_one_colour_fails_and_a_filled_page_does_not(tmp_path: Path) -> None:
    samples, entries = odd_pdfs.flate_grey(40, 30, bytes(1200))
    black = failure(odd_pdfs.image_page(tmp_path / "a.pdf", samples, entries))
    assert black.cause == "damaged" and "one colour, #000000" in str(black)
    samples, entries = odd_pdfs.flate_grey(40, 30, b"\xff" * 1200)
    assert only(odd_pdfs.image_page(tmp_path / "b.pdf", samples, entries)).warnings == ""
    filled = only(odd_pdfs.one_page(tmp_path / "c.pdf", b"0 0 .5 rg 0 0 400 300 re f"))
    assert "one colour" in filled.warnings
    undecodable = b"/Width 40/Height 30/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/DCTDecode"
    assert failure(odd_pdfs.image_page(tmp_path / "d.pdf", b"no JPEG", undecodable)).cause == "damaged"


def test_an_image_of_one_colour_with_a_margin_was_not_decoded_either(tmp_path: Path) -> None:
    """Few scans fill their page to the last pixel."""
    samples, entries = odd_pdfs.flate_grey(40, 30, bytes(1200))
    for place in (b"400 0 0 299.6 0 .2 cm", b"360 0 0 270 20 15 cm", b"400 0 0 200 0 50 cm"):
        black = failure(odd_pdfs.image_page(tmp_path / "a.pdf", samples, entries, b"q %s /I Do Q" % place))
        assert black.cause == "damaged" and "one colour, #000000" in str(black)
    large, line = b"q 360 0 0 270 20 15 cm /I Do Q ", b"1 G 2 w 50 50 m 300 200 l S"
    drawn_on = (large + line, b"q 360 0 0 200 20 80 cm /I Do Q 50 40 m 300 40 l S", b"q 90 0 0 90 9 9 cm /I Do Q")
    for content in drawn_on:  # something on it, something beside it, or no scan at all
        assert only(odd_pdfs.image_page(tmp_path / "b.pdf", samples, entries, content)).warnings == ""
    white, entries = odd_pdfs.flate_grey(40, 30, b"\xf8" * 1200)
    assert only(odd_pdfs.image_page(tmp_path / "c.pdf", white, entries, large)).warnings == ""


def test_a_layer_of_control_characters_is_no_text(tmp_path: Path) -> None:
    encoding = b"/Resources<</Font<</T 5 0 R>>>>"
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>"
    unicode = odd_pdfs.stream(
        b"/CIDInit/ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00><ff> "
        b"endcodespacerange 1 beginbfrange <00><ff><0001> endbfrange endcmap"
    )
    legible = odd_pdfs.one_page(
        tmp_path / "a.pdf", b"BT /T 40 Tf 40 140 Td <0102> Tj ET", BOX + encoding, (font, unicode)
    )
    gone = failure(legible)
    assert gone.cause == "damaged" and "control characters" in str(gone)
    content = b"0 0 90 90 re f BT /T 40 Tf 40 140 Td <0102> Tj ET"
    page = only(odd_pdfs.one_page(tmp_path / "b.pdf", content, BOX + encoding, (font, unicode)))
    assert page.text_layer is None and "control characters" in page.warnings


# What lies beside the pages


def test_what_lies_beside_the_pages_is_named(tmp_path: Path) -> None:
    document = pymupdf.open()
    page = document.new_page(width=400, height=300)
    page.insert_text((20, 40), "cover")
    document.embfile_add("contract.pdf", b"%PDF-1.4")
    page.add_file_annot((10, 10), b"x", "notes.txt")
    document.save(tmp_path / "a.pdf")
    [found] = drawn(tmp_path / "a.pdf")
    assert isinstance(found, Drawn) and found.warnings.splitlines() == [
        "the document has 1 file (contract.pdf) attached, read where --attachments is given",
        "pinned to the page: 1 file (notes.txt), read where --attachments is given",
    ]
    document.xref_set_key(document.pdf_catalog(), "Collection", "<</View/T>>")
    document.save(tmp_path / "b.pdf")
    [found] = drawn(tmp_path / "b.pdf")
    assert isinstance(found, Drawn) and "portfolio" in found.warnings and "contract.pdf" in found.warnings


@pytest.mark.parametrize(
    ("catalog", "annotations", "says"),
    [
        (b"/AcroForm<</XFA 5 0 R/Fields[]>>", b"", "dynamic XFA form"),
        (b"/AcroForm<</XFA 5 0 R/Fields[3 0 R]>>/NeedsRendering true", b"", "dynamic XFA form"),
        (b"/AcroForm<</XFA 5 0 R/Fields[3 0 R]>>", b"", ""),
        (b"/AcroForm<</XFA 5 0 R/Fields[3 0 R]>>/Lang(wait)", b"", "dynamic XFA form"),
        (b"", b"/Annots[<</Subtype/Sound/Rect[0 0 9 9]>><</Subtype/Sound/Rect[0 0 9 9]>>]", "a sound (2 times)"),
        (b"", b"/Annots[<</Subtype/RichMedia/Rect[0 0 9 9]>>]", "a video, a sound or a 3D model"),
    ],
)
def test_forms_sound_and_video_are_named(tmp_path: Path, catalog: bytes, annotations: bytes, says: str) -> None:
    xml = odd_pdfs.stream(b"<xdp/>")
    text = "Please wait..." if b"wait" in catalog else "a form"
    page = only(odd_pdfs.one_page(tmp_path / "a.pdf", words(text), BOX + annotations, (xml,), catalog))
    assert says in page.warnings and bool(page.warnings) == bool(says)


# Files that are no PDF


@pytest.mark.parametrize(
    "text",
    [
        "From: clerk@example.org\n\nThe file begins with %PDF-1.4 but Acrobat says it is damaged.\n",
        "%PDF-1.7 is how such a file begins, and this is none.\n",
        "Ein Beispiel für den Anfang:\n%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n",
    ],
)
def test_a_text_that_mentions_a_pdf_is_unsupported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mail.txt"
    path.write_text(text)
    with pytest.raises(DocumentRejected) as caught:
        open_document(str(path), "pdf", LIMITS)
    assert caught.value.cause == "unsupported" and "mentions %PDF-" in str(caught.value)


def test_a_pdf_with_junk_before_its_header_is_read(tmp_path: Path) -> None:
    path = odd_pdfs.one_page(tmp_path / "a.pdf", words("late"), BOX + FONT)
    path.write_bytes(b"Content-Type: application/pdf\r\n\r\n" + path.read_bytes())
    assert texts(path) == ["late"]


@pytest.mark.parametrize("header", [b"%!PS-Adobe-3.0 PDF-1.4\n", b"%PDF 1.4\n", b""])
def test_a_pdf_with_another_header_or_none_is_read(tmp_path: Path, header: bytes) -> None:
    path = odd_pdfs.one_page(tmp_path / "a.pdf", words("late"), BOX + FONT)
    path.write_bytes(path.read_bytes().replace(b"%PDF-1.4\n", header))
    assert identify(path).kind == "pdf" and texts(path) == ["late"]
