"""An XLSX: each sheet is a table of what its cells show, as far as the file says it; dates as dates."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from itertools import groupby
from xml.etree.ElementTree import Element

from pipeline.documents.office.number_forms import Form, form_of, formatted, plain_number
from pipeline.documents.office.package import (
    Flowing,
    Package,
    attribute,
    local,
    on_pages_of_their_own,
    page,
    remark,
    table,
)
from pipeline.errors import DocumentRejected

_MOST_CELLS = 1_000_000
_MOST_COLUMNS = 16_384
_COLUMN_PT = 75.0


def read(package: Package) -> Flowing:
    main = package.main("xl/workbook.xml")
    book = package.xml(main)
    if book is None:
        raise KeyError(main)
    related, shared = package.related(main), _shared(package)
    styles = _styles(package, is_from_1904=any(local(one) == "workbookPr" and _is_on(one, "date1904") for one in book))
    pieces, num_cells, widest, notes = list[str](), 0, 1, list[str]()
    for sheet in (one for one in book.iter() if local(one) == "sheet"):
        name = related.get(attribute(sheet, "id") or "", ("", ""))[1]
        tree = package.xml(name)
        if tree is None:
            continue
        rows = [_row(row, shared or [], styles) for row in tree.iter() if local(row) == "row"]
        if shared is None and any(one.get("t") == "s" for one in tree.iter() if local(one) == "c"):
            notes = ["the workbook's words are not in the file: cells that hold words are empty"]
        num_cells += sum(map(len, rows))
        if num_cells > _MOST_CELLS:
            raise DocumentRejected(f"the workbook has more than {_MOST_CELLS:,} cells", cause="too-large")
        widest = max([widest, *map(len, rows)])
        heading = f"<h2>{html.escape(sheet.get('name', ''))}</h2>"
        filled = [row for row in rows if any(row)]
        edges = [_edge(tree, name) for name in ("Header", "Footer")]
        shown = [edges[0], heading, table(filled) if filled else "", _drawn(package, name), edges[1]]
        pieces.append("".join(shown))
    return replace(sheet_pages(on_pages_of_their_own(pieces), widest), notes=tuple(notes))


def sheet_pages(pieces: list[str], num_columns: int) -> Flowing:
    """On pages that are as wide as the widest sheet, so that no column is left out."""
    width_pt = min(max(842.0, num_columns * _COLUMN_PT), 7_000.0)
    return Flowing(page(pieces, "td { font-size: 9pt; }"), width_pt, max(595.0, width_pt / 1.414))


def _row(row: Element, shared: list[str], styles: list[Form]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if local(cell) != "c":
            continue
        text = _text(cell, shared, styles)
        letters = re.match(r"[A-Z]{1,3}", attribute(cell, "r") or "")
        column = min(_column(letters[0]), _MOST_COLUMNS) if letters else len(cells)
        if text:
            cells += [""] * (column + 1 - len(cells))
            cells[column] += html.escape(text)
    return cells


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _text(cell: Element, shared: list[str], styles: list[Form]) -> str:
    kind, value = cell.get("t", "n"), next((one.text or "" for one in cell if local(one) == "v"), "")
    if kind == "s":
        return shared[int(value)] if value.isdigit() and int(value) < len(shared) else ""
    if kind == "inlineStr":
        return _rich(cell)
    if kind == "b":
        return "TRUE" if value == "1" else "FALSE"
    style = cell.get("s", "0")
    form = styles[int(style)] if style.isdecimal() and int(style) < len(styles) else Form()
    if kind == "n" and value and form != Form():
        return formatted(value, form)
    if not value:  # computed by nobody yet
        return next((f"={one.text}" for one in cell if local(one) == "f" and one.text), "")
    return plain_number(value) if kind == "n" else _unescaped(value)


def _shared(package: Package) -> list[str] | None:
    tree = package.xml("xl/sharedStrings.xml")
    return None if tree is None else [_rich(one) for one in tree if local(one) == "si"]


def _unescaped(text: str) -> str:
    """Without what stands for signs that XML does not hold; most are returns before a line's end."""
    return re.sub(r"_x([0-9A-Fa-f]{4})_", lambda found: re.sub(r"[\0-\x1f]", "", chr(int(found[1], 16))), text)


def _is_on(element: Element, name: str) -> bool:
    return (attribute(element, name) or "") in ("1", "true", "on")


def _edge(tree: Element, name: str) -> str:
    """Heads or feet of a sheet's pages, once, without the codes for fonts, page numbers and the like."""
    told = dict[str, None]()
    for one in tree.iter():
        if local(one) in (f"{kind}{name}" for kind in ("odd", "even", "first")) and one.text:
            text = re.sub(r'&(?:"[^"]*"|K[0-9A-Fa-f]{6}|\d+|[LCR])', " ", one.text)
            told[" ".join(re.sub(r"&([^&])", "", text).replace("&&", "&").split())] = None
    return "".join(f"<p>{html.escape(text)}</p>" for text in told if text)


def _rich(element: Element) -> str:
    """Text in runs, without how it is pronounced."""
    spoken = {id(one) for phonetic in element.iter() if local(phonetic) == "rPh" for one in phonetic.iter()}
    return _unescaped("".join(one.text or "" for one in element.iter() if local(one) == "t" and id(one) not in spoken))


def _styles(package: Package, *, is_from_1904: bool) -> list[Form]:
    """How numbers in cells of each style are shown."""
    tree = package.xml("xl/styles.xml")
    if tree is None:
        return []
    own = {one.get("numFmtId", "0"): one.get("formatCode", "") for one in tree.iter() if local(one) == "numFmt"}
    styles = [style.get("numFmtId", "0") for one in tree if local(one) == "cellXfs" for style in one]
    return [form_of(number, own.get(number), is_from_1904=is_from_1904) for number in styles]


def _drawn(package: Package, sheet: str) -> str:
    """Pictures, and the words and numbers of charts and text boxes, below their sheet."""
    pieces = []
    for kind, name in package.related(sheet).values():
        if kind in ("comments", "threadedComment") and (remarks := package.xml(name)) is not None:
            for one in remarks.iter():
                if local(one) in ("comment", "threadedComment"):
                    at, said = html.escape(attribute(one, "ref") or ""), html.escape(_said(one))
                    pieces.append(remark(at, f"<p>{said}</p>") if said else "")
        if kind != "drawing" or (tree := package.xml(name)) is None:
            continue
        words = [one.text or "" for one in tree.iter() if local(one) == "t"]
        pieces.append(f"<p>{html.escape(' '.join(words))}</p>" if words else "")
        for of, target in package.related(name).values():
            if of == "image":
                pieces.append(package.picture(target))
            elif of in ("chart", "diagramData"):
                pieces.append(chart(package, target))
    return "".join(pieces)


def _said(comment: Element) -> str:
    return _rich(comment) or "".join(one.text or "" for one in comment if local(one) == "text")


def chart(package: Package, name: str) -> str:
    """What a chart or diagram says: its words, and each series with its numbers."""
    tree = package.xml(name)
    if tree is None:
        return ""
    lines = [" ".join(one.text or "" for one in tree.iter() if local(one) == "t")]
    for series in (one for one in tree.iter() if local(one) == "ser"):
        values = [one.text or "" for one in series.iter() if local(one) == "v"]
        lines.append(" ".join(values))
    return "".join(f"<p>{html.escape(line)}</p>" for line, _ in groupby(lines) if line.strip())
