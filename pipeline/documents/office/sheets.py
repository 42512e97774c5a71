"""An XLSX: each sheet is a table of what its cells show, as far as the file says it; dates as dates."""

from __future__ import annotations

import html
import re
from datetime import datetime, timedelta
from itertools import groupby
from xml.etree.ElementTree import Element

from pipeline.documents.office.package import Flowing, Package, attribute, local, on_pages_of_their_own, page, table
from pipeline.errors import DocumentRejected

_MOST_CELLS = 1_000_000
_MOST_COLUMNS = 16_384
_COLUMN_PT = 75.0
_DATES = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}  # built-in formats


def read(package: Package) -> Flowing:
    book = package.xml("xl/workbook.xml")
    if book is None:
        raise KeyError("xl/workbook.xml")
    related, shared, dates = package.related("xl/workbook.xml"), _shared(package), _date_styles(package)
    pieces, num_cells, widest = list[str](), 0, 1
    for sheet in (one for one in book.iter() if local(one) == "sheet"):
        name = related.get(attribute(sheet, "id") or "", ("", ""))[1]
        tree = package.xml(name)
        if tree is None:
            continue
        rows = [_row(row, shared, dates) for row in tree.iter() if local(row) == "row"]
        num_cells += sum(map(len, rows))
        if num_cells > _MOST_CELLS:
            raise DocumentRejected(f"the workbook has more than {_MOST_CELLS:,} cells", cause="too-large")
        widest = max([widest, *map(len, rows)])
        heading = f"<h2>{html.escape(sheet.get('name', ''))}</h2>"
        filled = [row for row in rows if any(row)]
        pieces.append(heading + (table(filled) if filled else "") + _drawn(package, name))
    return sheet_pages(on_pages_of_their_own(pieces), widest)


def sheet_pages(pieces: list[str], num_columns: int) -> Flowing:
    """On pages that are as wide as the widest sheet, so that no column is left out."""
    width_pt = min(max(842.0, num_columns * _COLUMN_PT), 7_000.0)
    return Flowing(page(pieces, "td { font-size: 9pt; }"), width_pt, max(595.0, width_pt / 1.414))


def _row(row: Element, shared: list[str], dates: set[int]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if local(cell) != "c":
            continue
        text = _text(cell, shared, dates)
        letters = re.match(r"[A-Z]{1,3}", attribute(cell, "r") or "")
        column = min(_column(letters[0]), _MOST_COLUMNS) if letters else len(cells)
        if text:
            cells += [""] * (column - len(cells)) + [html.escape(text)]
    return cells


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _text(cell: Element, shared: list[str], dates: set[int]) -> str:
    kind, value = cell.get("t", "n"), next((one.text or "" for one in cell if local(one) == "v"), "")
    if kind == "s":
        return shared[int(value)] if value.isdigit() and int(value) < len(shared) else ""
    if kind == "inlineStr":
        return _rich(cell)
    if kind == "b":
        return "TRUE" if value == "1" else "FALSE"
    if kind == "n" and value and int(cell.get("s", "0") or 0) in dates:
        return _date(value)
    if not value:  # computed by nobody yet
        return next((f"={one.text}" for one in cell if local(one) == "f" and one.text), "")
    return _number(value) if kind == "n" else value


def _number(value: str) -> str:
    """As people write it: 0.1, not the 17 digits in which it is stored."""
    try:
        return f"{float(value):.15g}" if len(value) > 15 else value
    except ValueError:
        return value


def _date(value: str) -> str:
    """Days since 1899-12-30."""
    try:
        moment = datetime(1899, 12, 30) + timedelta(seconds=round(float(value) * 86_400))
    except (ValueError, OverflowError):
        return value
    if float(value) < 1:
        return f"{moment:%H:%M:%S}"
    return f"{moment:%Y-%m-%d}" if float(value).is_integer() else f"{moment:%Y-%m-%d %H:%M:%S}"


def _shared(package: Package) -> list[str]:
    tree = package.xml("xl/sharedStrings.xml")
    return [] if tree is None else [_rich(one) for one in tree if local(one) == "si"]


def _rich(element: Element) -> str:
    """Text in runs, without how it is pronounced."""
    spoken = {id(one) for phonetic in element.iter() if local(phonetic) == "rPh" for one in phonetic.iter()}
    return "".join(one.text or "" for one in element.iter() if local(one) == "t" and id(one) not in spoken)


def _date_styles(package: Package) -> set[int]:
    tree = package.xml("xl/styles.xml")
    if tree is None:
        return set()
    own = {int(one.get("numFmtId", "0")): one.get("formatCode", "") for one in tree.iter() if local(one) == "numFmt"}
    plain = {key: re.sub(r'"[^"]*"|\\.|\[[^\]]*\]', "", code).lower() for key, code in own.items()}
    dates = _DATES | {key for key, code in plain.items() if re.search(r"[ydh]|m{3}|s", code) and "general" not in code}
    styles = [style for one in tree if local(one) == "cellXfs" for style in one]
    return {index for index, style in enumerate(styles) if int(style.get("numFmtId", "0")) in dates}


def _drawn(package: Package, sheet: str) -> str:
    """Pictures, and the words and numbers of charts and text boxes, below their sheet."""
    pieces = []
    for kind, name in package.related(sheet).values():
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
