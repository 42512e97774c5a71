"""A DOCX: headings, paragraphs, lists, tables, pictures, text boxes, notes; heads and feet of pages once each."""

from __future__ import annotations

import html
import re
from xml.etree.ElementTree import Element

from pipeline.documents.office.package import Flowing, Package, attribute, local, page, paragraph, table

_MAIN = "word/document.xml"
_PASSED_OVER = {"pPr", "rPr", "del", "delText", "moveFrom", "instrText", "Fallback", "tblPr", "tblGrid", "sectPr"}
_SIGNS = {"tab": "&#160;&#160;&#160; ", "br": "<br/>", "cr": "<br/>", "noBreakHyphen": "-", "softHyphen": ""}


def read(package: Package) -> Flowing:
    body = package.xml(_MAIN)
    if body is None:
        raise KeyError(_MAIN)
    pieces = []
    for part in ("word/header", "word/document.xml", "word/footnotes.xml", "word/endnotes.xml", "word/footer"):
        told = set[str]()
        for name in package.names(part):
            tree = package.xml(name) if name.endswith(".xml") else None
            if tree is not None and (text := "".join(_Part(package, name).blocks(tree))) not in told:
                told.add(text)
                pieces.append(text)
    return Flowing(page(pieces))


class _Part:
    """One XML part, whose pictures are its own."""

    def __init__(self, package: Package, name: str) -> None:
        self._package = package
        self._related = package.related(name)

    def blocks(self, element: Element) -> list[str]:
        """Paragraphs and tables below an element."""
        pieces = []
        for one in element:
            name = local(one)
            if name == "p":
                pieces.append(self._paragraph(one))
            elif name == "tbl":
                pieces.append(table([self._row(row) for row in _below(one, "tr")]))
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
        is_item = any(local(one) == "numPr" for one in element.iter())
        boxes: list[str] = []
        text = self._inline(element, boxes)
        level = int(heading[1] or heading[2] or 1) if heading else 0
        return paragraph(("• " if is_item and not heading else "") + text, level) + "".join(boxes)

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
