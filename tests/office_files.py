"""Builders of office documents, EPUB and HTML by hand: no more than what each format needs. Each returns bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from tests.archives import zipped

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_TYPES = {"[Content_Types].xml": b"<Types/>"}
_WORD_TYPES = {
    "[Content_Types].xml": b"""<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
        <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
        <Default Extension="png" ContentType="image/png"/><Override PartName="/word/document.xml"
        ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
}
_DOCUMENT = b"""<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
    <Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    Target="word/document.xml"/></Relationships>"""


def _relations(*targets: tuple[str, str]) -> bytes:
    lines = (f'<Relationship Id="r{at}" Type="x/{kind}" Target="{to}"/>' for at, (kind, to) in enumerate(targets, 1))
    return f"<Relationships>{''.join(lines)}</Relationships>".encode()


def docx(body: str, **parts: bytes) -> bytes:
    """`body` is XML of the namespace `w`, which may show the picture r1; `word__header1__xml` is a part."""
    document = f"<w:document {_W} {_R} {_A}><w:body>{body}</w:body></w:document>".encode()
    relations = _relations(("image", "media/image1.png"))
    main = {"word/document.xml": document, "word/_rels/document.xml.rels": relations, "_rels/.rels": _DOCUMENT}
    for name, data in parts.items():
        folder, _, ending = name.rpartition("__")
        main[f"{folder.replace('__', '/')}.{ending}"] = data
    return zipped(_WORD_TYPES | main)


def words(text: str, style: str = "") -> str:
    style = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>"


def xlsx(sheets: Mapping[str, str], shared: str = "") -> bytes:
    """Name → rows, in XML. Cells of style 1 are dates."""
    named = "".join(f'<sheet name="{name}" r:id="r{at}"/>' for at, name in enumerate(sheets, 1))
    parts = {f"xl/s{at}.xml": f"<worksheet>{rows}</worksheet>".encode() for at, rows in enumerate(sheets.values(), 1)}
    relations = _relations(*(("worksheet", f"s{at}.xml") for at in range(1, len(sheets) + 1)))
    return zipped(
        _TYPES
        | parts
        | {
            "xl/workbook.xml": f"<workbook {_R}><sheets>{named}</sheets></workbook>".encode(),
            "xl/_rels/workbook.xml.rels": relations,
            "xl/sharedStrings.xml": f"<sst>{shared}</sst>".encode(),
            "xl/styles.xml": b'<styleSheet><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
        }
    )


def pptx(*slides: str) -> bytes:
    """Texts, each of which is a slide with a chart beside it."""
    ids = "".join(f'<p:sldId id="{255 + at}" r:id="r{at}"/>' for at in range(1, len(slides) + 1))
    parts = dict(_TYPES)
    for at, text in enumerate(slides, 1):
        shape = f"<p:sp><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
        parts[f"ppt/slides/s{at}.xml"] = f'<p:sld xmlns:p="p" {_A}>{shape}</p:sld>'.encode()
        parts[f"ppt/slides/_rels/s{at}.xml.rels"] = _relations(("chart", "../chart.xml"))
    series = "<c:ser><c:cat><c:v>north</c:v></c:cat><c:val><c:v>17</c:v></c:val></c:ser>"
    relations = _relations(*(("slide", f"slides/s{at + 1}.xml") for at in range(len(slides))))
    return zipped(
        parts
        | {
            "ppt/presentation.xml": f'<p:presentation xmlns:p="p" {_R}>{ids}</p:presentation>'.encode(),
            "ppt/_rels/presentation.xml.rels": relations,
            "ppt/chart.xml": f'<c:chart xmlns:c="c">{series}</c:chart>'.encode(),
        }
    )


def opendocument(kind: str, body: str) -> bytes:
    """`kind` is text, spreadsheet or presentation; `body` is XML of the namespaces `text`, `table` and `draw`."""
    spaces = " ".join(f'xmlns:{name}="{name}"' for name in ("office", "text", "table", "draw", "xlink"))
    content = f"<office:x {spaces}><office:body><office:{kind}>{body}</office:{kind}></office:body></office:x>"
    mimetype = f"application/vnd.oasis.opendocument.{kind}".encode()
    return zipped([("mimetype", mimetype), ("content.xml", content.encode())], zipfile.ZIP_STORED)


def epub(*chapters: str) -> bytes:
    items = "".join(
        f'<item id="c{at}" href="c{at}.xhtml" media-type="application/xhtml+xml"/>' for at in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{at}"/>' for at in range(len(chapters)))
    container = b"""<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>
        <rootfile full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
    package = f"""<package xmlns="http://www.idpf.org/2007/opf" version="2.0"><metadata/><manifest>{items}</manifest>
        <spine>{spine}</spine></package>"""
    pages = {
        f"c{at}.xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{text}</body></html>'.encode()
        for at, text in enumerate(chapters)
    }
    first = {"mimetype": b"application/epub+zip", "META-INF/container.xml": container, "b.opf": package.encode()}
    return zipped([*first.items(), *pages.items()])


def with_parts(document: bytes, parts: Mapping[str, bytes]) -> bytes:
    """The same package with these parts put in, or in the place of others; an empty one is left out."""
    with zipfile.ZipFile(io.BytesIO(document)) as package:
        kept = {name: package.read(name) for name in package.namelist()} | dict(parts)
    return zipped({name: data for name, data in kept.items() if data})


def related(**targets: str) -> bytes:
    """Relations, named by their kind."""
    lines = (f'<Relationship Id="{kind}" Type="x/{kind}" Target="{to}"/>' for kind, to in targets.items())
    return f"<Relationships>{''.join(lines)}</Relationships>".encode()
