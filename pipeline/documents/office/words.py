"""A DOCX: its text with numbers, tables, pictures, text boxes, charts, notes and comments; heads and feet once each."""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element

from pipeline.documents.office.chunks import chunk
from pipeline.documents.office.numbering import Numbering
from pipeline.documents.office.package import Flowing, Package, attribute, local, page, paragraph, remark, table
from pipeline.documents.office.sheets import chart

_MAIN = "word/document.xml"
_PASSED_OVER = {"pPr", "rPr", "del", "delText", "moveFrom", "instrText", "Fallback", "tblPr", "tblGrid", "sectPr"}
_SYMBOLS = {"fe": "☑", "a8": "☐", "6f": "☐", "fd": "☒", "78": "☒", "fc": "✓", "fb": "✗", "e0": "→"}  # of Wingdings
_SIGNS = {"tab": "&#160;&#160;&#160; ", "br": "<br/>", "cr": "<br/>", "noBreakHyphen": "-", "softHyphen": ""}


def read(package: Package) -> Flowing:
    main = package.main(_MAIN)
    if package.data(main) is None:
        raise KeyError(main)
    pieces, numbering = list[str](), Numbering.of(package)
    notes = ("word/footnotes.xml", "word/endnotes.xml", "word/comments.xml")
    for parts in (package.names("word/header"), [main], notes, package.names("word/footer")):
        told = set[str]()
        for name in parts:
            tree = package.xml(name) if name.endswith(".xml") else None
            if tree is not None and (text := "".join(_Part(package, name, numbering).blocks(tree))) not in told:
                told.add(text)
                pieces.append(text)
    return Flowing(page(pieces))


class _Part:
    """One XML part, whose pictures are its own."""

    def __init__(self, package: Package, name: str, numbering: Numbering) -> None:
        self._package, self._numbering = package, numbering
        self._related = package.related(name)

    def blocks(self, element: Element) -> list[str]:
        """Paragraphs and tables below an element."""
        pieces = []
        for one in element:
            name = local(one)
            if name == "p":
                pieces.append(self._paragraph(one))
            elif name == "tbl":
                rows = [row for row in _below(one, "tr") if not _is_deleted(row)]
                pieces.append(table([self._row(row) for row in rows]))
            elif name == "altChunk":
                target = self._related.get(attribute(one, "id") or "")
                pieces.append(chunk(self._package.data(target[1]) or b"") if target else "")
            elif name == "comment":
                pieces.append(remark(attribute(one, "author") or "", "".join(self.blocks(one))))
            elif name not in _PASSED_OVER:
                if name in ("footnote", "endnote") and (number := attribute(one, "id") or "").isdigit():
                    if attribute(one, "type"):  # the line above notes
                        continue
                    pieces.append(f"<p>[{number}]</p>")
                pieces += self.blocks(one)
        return pieces

    def _row(self, row: Element) -> list[str]:
        cells = []
        for cell in _below(row, "tc"):
            span = next((attribute(one, "val") or "" for one in cell.iter() if local(one) == "gridSpan"), "")
            width = f' colspan="{int(span)}"' if span.isdecimal() and len(span) < 4 else ""
            cells.append(f"<td{width}>{''.join(self.blocks(cell))}</td>")
        return cells

    def _paragraph(self, element: Element) -> str:
        style = next((attribute(one, "val") or "" for one in element.iter() if local(one) == "pStyle"), "")
        heading = re.fullmatch(r"[Hh]eading ?(\d)|[Tt]itle|[Üü]berschrift(\d)", style)
        numbered = next((one for one in element.iter() if local(one) == "numPr"), None)
        number = html.escape(self._numbering.next(numbered, style))
        boxes: list[str] = []
        text = self._inline(element, boxes)
        level = int(heading[1] or heading[2] or 1) if heading else 0
        return paragraph((number if text.strip() else "") + text, level) + "".join(boxes)

    def _inline(self, element: Element, boxes: list[str]) -> str:
        pieces = []
        for one in element:
            name = local(one)
            if name == "t":
                pieces.append(html.escape(one.text or ""))
            elif name in _SIGNS:
                pieces.append(_SIGNS[name])
            elif name in ("footnoteReference", "endnoteReference"):
                pieces.append(f"[{attribute(one, 'id')}]")
            elif name == "f":  # a fraction: without its line, 1/2 would be 12
                pieces.append("/".join(_grouped(self._inline(part, boxes)) for part in one if local(part) != "fPr"))
            elif name == "sup" and local(element) in ("sSup", "sSubSup"):
                pieces.append("^" + _grouped(self._inline(one, boxes)))
            elif name == "ruby":
                parts = {local(part): self._inline(part, boxes) for part in one}
                pieces.append(f"{parts.get('rubyBase', '')}({parts.get('rt', '')})")
            elif name == "sym":
                code = (attribute(one, "char") or "").lower()
                pieces.append(_SYMBOLS.get(code[-2:], "") if "dings" in (attribute(one, "font") or "") else "")
            elif name in ("chart", "relIds"):
                target = self._related.get(attribute(one, "id") or attribute(one, "dm") or "")
                boxes.append(chart(self._package, target[1]) if target else "")
            elif name == "txbxContent":
                boxes += self.blocks(one)
            elif name in ("blip", "imagedata"):
                target = self._related.get(attribute(one, "embed") or attribute(one, "id") or "")
                pieces.append(self._package.picture(target[1]) if target else "")
            elif name not in _PASSED_OVER:
                pieces.append(self._inline(one, boxes))
        return "".join(pieces)


def _below(element: Element, wanted: str) -> list[Element]:
    """The rows of a table or cells of a row, but not those of tables inside."""
    found = []
    for one in element:
        if local(one) == wanted:
            found.append(one)
        elif local(one) in ("sdt", "sdtContent", "ins", "customXml"):
            found += _below(one, wanted)
    return found


def _is_deleted(row: Element) -> bool:
    return any(local(one) == "trPr" and any(local(below) == "del" for below in one) for one in row)


def _grouped(text: str) -> str:
    return text if re.fullmatch(r"\w*", text) else f"({text})"
