"""An ODT, ODS, ODP or ODG: headings, lists, tables, pictures, charts, notes, comments; a slide begins a page."""

from __future__ import annotations

import html
from xml.etree.ElementTree import Element

from pipeline.documents.office.package import (
    Flowing,
    Package,
    attribute,
    local,
    on_pages_of_their_own,
    page,
    paragraph,
    remark,
    table,
)
from pipeline.documents.office.sheets import sheet_pages
from pipeline.errors import DocumentRejected

_VALUES = ("date-value", "time-value", "string-value", "boolean-value", "value")  # of a cell that shows no text
_MOST_REPEATED = 1_000  # a sheet says that its last row is repeated to the end, a million times
_MOST_CELLS = 1_000_000
_MOST_DEPTH = 4  # of objects in objects
_PASSED_OVER = {"tracked-changes", "forms", "settings", "table-column", "sequence-decls", "shapes"}


def read(package: Package) -> Flowing:
    manifest = package.xml("META-INF/manifest.xml")
    if manifest is not None and any(local(one) == "encryption-data" for one in manifest.iter()):
        raise DocumentRejected("the document is encrypted; remove its password", cause="encrypted")
    tree = package.xml("content.xml")
    if tree is None:
        raise KeyError("content.xml")
    reader, body = _Reader(package), next((one for one in tree.iter() if local(one) == "body"), None)
    styles, edges = package.xml("styles.xml"), {"header": list[str](), "footer": list[str]()}
    for part in styles.iter() if styles is not None else ():
        edge = edges.get(local(part).removesuffix("-left").removesuffix("-first"))
        if edge is not None and (text := "".join(reader.blocks(part))) not in edge:
            edge.append(text)
    pieces = reader.blocks(body) if body is not None else []
    pieces = [*edges["header"], *pieces, *edges["footer"]]
    kind = local(body[0]) if body is not None and len(body) else ""
    if kind == "spreadsheet":
        return sheet_pages(pieces, reader.widest)
    return Flowing(page(pieces), 842.0, 595.0) if kind in ("presentation", "drawing") else Flowing(page(pieces))


class _Reader:
    def __init__(self, package: Package) -> None:
        self._package = package
        self._num_cells = self._depth = 0
        self.widest = 1

    def blocks(self, element: Element) -> list[str]:
        pieces, pages = list[str](), list[str]()
        for one in element:
            name = local(one)
            if name in ("p", "h"):
                level = int(attribute(one, "outline-level") or 1) if name == "h" else 0
                boxes: list[str] = []
                pieces += [paragraph(self._inline(one, boxes), level), *boxes]
            elif name == "list-item":
                pieces += [text.replace("<p>", "<p>• ", 1) for text in self.blocks(one)]
            elif name == "table":
                pieces.append(self._sheet(one))
            elif name == "image":
                pieces.append(self._picture(one))
            elif name == "object":
                pieces.append(self._object(one))
            elif name == "annotation":
                pieces.append(self._remark(one))
            elif name == "page":
                pages.append("".join(self.blocks(one)))
            elif name not in _PASSED_OVER:
                pieces += self.blocks(one)
        return [*pieces, *on_pages_of_their_own(pages)] if pages else pieces

    def _sheet(self, element: Element) -> str:
        rows: list[list[str]] = []
        for row in (one for one in element.iter() if local(one) == "table-row"):
            cells: list[str] = []
            for cell in row:
                if local(cell) not in ("table-cell", "covered-table-cell"):
                    continue
                text = "".join(self.blocks(cell)).replace("<p>", "").replace("</p>", "<br/>").removesuffix("<br/>")
                text = text or html.escape(next(filter(None, (attribute(cell, name) for name in _VALUES)), ""))
                cells += [text] * min(int(attribute(cell, "number-columns-repeated") or 1), _MOST_REPEATED)
            while cells and not cells[-1]:
                cells.pop()
            times = min(int(attribute(row, "number-rows-repeated") or 1), _MOST_REPEATED) if cells else 0
            self._num_cells += len(cells) * times
            if self._num_cells > _MOST_CELLS:
                raise DocumentRejected(f"the document has more than {_MOST_CELLS:,} cells", cause="too-large")
            self.widest = max(self.widest, len(cells))
            rows += [cells] * times
        name = attribute(element, "name")
        return (f"<h2>{html.escape(name)}</h2>" if name else "") + (table(rows) if rows else "")

    def _inline(self, element: Element, boxes: list[str]) -> str:
        pieces = [html.escape(element.text or "")]
        for one in element:
            name = local(one)
            if name == "s":
                pieces.append("&#160;" * min(int(attribute(one, "c") or 1), 100))
            elif name == "tab":
                pieces.append("&#160;&#160;&#160; ")
            elif name == "line-break":
                pieces.append("<br/>")
            elif name == "image":
                pieces.append(self._picture(one))
            elif name == "object":
                boxes.append(self._object(one))
            elif name == "annotation":
                boxes.append(self._remark(one))
            elif name == "text-box" or any(local(below) == "p" for below in one):  # a shape with words of its own
                boxes += self.blocks(one)
            elif name == "note":
                boxes += self.blocks(one)
                pieces.append("".join(f"[{found.text}]" for found in one.iter() if local(found) == "note-citation"))
            elif name not in _PASSED_OVER:
                pieces.append(self._inline(one, boxes))
            pieces.append(html.escape(one.tail or ""))
        return "".join(pieces)

    def _object(self, element: Element) -> str:
        """What a chart or the like says, which lies in a part of its own."""
        name = (attribute(element, "href") or "").removeprefix("./")
        tree = self._package.xml(f"{name}/content.xml") if name and self._depth < _MOST_DEPTH else None
        if tree is None:
            return ""
        self._depth += 1
        text = "".join(self.blocks(tree))
        self._depth -= 1
        return text

    def _remark(self, element: Element) -> str:
        author = next((one.text or "" for one in element if local(one) == "creator"), "")
        return remark(author, "".join(self.blocks(element)))

    def _picture(self, element: Element) -> str:
        return self._package.picture((attribute(element, "href") or "").removeprefix("./"))
