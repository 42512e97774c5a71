"""Sheets whose text stands in cells, fields or rows: tables, forms, receipts, plans."""

from __future__ import annotations

import random

from benchmarks.quality.paper import Grid, Sheet, pymupdf
from benchmarks.quality.prose import A4
from benchmarks.quality.words import Words

_HEADS = ["Visitors", "Income", "Costs", "Balance", "Year", "Weight", "Share", "Price", "Place"]


def ruled_table(rng: random.Random) -> Sheet:
    """A report with a table between paragraphs, every cell in its box; some cells empty."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(56, 76, words.headline(5), "hebo", 17)
    y = sheet.paragraph(56, 84, 483, words.paragraph(40), "helv", 10) + 8
    grid = _grid(words, rng, rng.randint(3, 6), rng.randint(4, 12), empty=0.12)
    y = sheet.table(56, y, _widths(483, len(grid[0])), grid, rules=rng.choice(("all", "all", "rows")))
    y = sheet.paragraph(56, y, 483, f"Table {rng.randint(1, 9)}. {words.item()}.", "helv", 8.5)
    sheet.paragraph(56, y + 6, 483, words.paragraph(40), "helv", 10)
    return sheet


def open_table(rng: random.Random) -> Sheet:
    """A table without upright rules, or without any: its columns are known by where they stand."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(56, 76, words.headline(4), "tibo", 16)
    y = sheet.paragraph(56, 84, 483, words.paragraph(25), "tiro", 10.5) + 10
    grid = _grid(words, rng, rng.randint(3, 6), rng.randint(5, 16), empty=0.05)
    y = sheet.table(56, y, _widths(483, len(grid[0])), grid, rules=rng.choice(("head", "none")), face="tiro",
                    strong="tibo", step=rng.choice((14.0, 17.0)))  # fmt: skip
    sheet.paragraph(56, y, 483, words.sentence(), "tiro", 9)
    return sheet


def _grid(words: Words, rng: random.Random, columns: int, rows: int, *, empty: float) -> Grid:
    heads = ["Item", *rng.sample(_HEADS, columns - 1)]
    grid = [heads]
    for _ in range(rows):
        row = [words.item()]
        for head in heads[1:]:
            of_a_kind = {
                "Year": str(rng.randint(1950, 2026)),
                "Share": f"{rng.randint(1, 99)} %",
                "Place": words.place(),
            }
            cell = of_a_kind.get(head, rng.choice((words.number, words.money))())
            row.append("" if rng.random() < empty else cell)
        grid.append(row)
    return grid


def _widths(total: float, columns: int) -> list[float]:
    first = total * max(0.26, 1.5 / columns)
    return [first, *[(total - first) / (columns - 1)] * (columns - 1)]


def sideways_table(rng: random.Random) -> Sheet:
    """An upright page whose table was pasted in lying on its side; the page is upright all the same."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(56, 76, words.headline(5), "tibo", 17)
    y = sheet.paragraph(56, 84, 483, words.paragraph(90), "tiro", 11) + 10
    aside = Sheet(300, 240, rng)
    grid = _grid(words, rng, 4, 8, empty=0.0)
    aside.table(6, 8, _widths(288, 4), grid, size=9)
    sheet.page.show_pdf_page(pymupdf.Rect(170, y, 410, y + 300), aside.page.parent, 0, rotate=rng.choice((90, 270)))
    sheet.lines.append((y, 170, sheet.page.get_contents()[-1:]))
    sheet.tables, sheet.pieces = aside.tables, sheet.pieces + aside.pieces
    sheet.paragraph(56, y + 306, 483, words.paragraph(60), "tiro", 11)
    return sheet


def form(rng: random.Random) -> Sheet:
    """Printed labels with what was filled in, in boxes or on lines, one or two fields a row; boxes to tick."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(56, 70, f"Application for a {rng.choice(('permit', 'library card', 'moorings', 'passport'))}", "hebo", 16)
    sheet.say(56, 88, f"Form {rng.randint(10, 99)}-{rng.choice('ABCD')}, {words.date()}", "helv", 8)
    y, fields, in_boxes, per_row = 112.0, words.fields(12), rng.random() < 0.5, rng.choice((1, 2))
    for number, (label, value) in enumerate(fields):
        x, width = 56 + (number % per_row) * 250, 483 if per_row == 1 else 233
        if in_boxes:
            sheet.box(x, y, x + width, y + 30)
            sheet.put(x + 4, y + 10, label, "helv", 7.5)
            sheet.put(x + 6, y + 24, value, "cour", 11)
        else:
            sheet.put(x, y + 20, f"{label}:", "helv", 10)
            sheet.put(x + 110, y + 20, value, "cour", 11)
            sheet.rule(x + 106, y + 24, x + width, y + 24)
        sheet.pieces.append(f"{label} {value}" if in_boxes else f"{label}: {value}")
        y += 32 if number % per_row == per_row - 1 else 0
    for item in range(3):
        y += 18
        sheet.box(56, y - 8, 65, y + 1)
        if rng.random() < 0.5:
            sheet.rule(57, y - 7, 64, y)
            sheet.rule(64, y - 7, 57, y)
        sheet.say(72, y, f"{words.item()} ({'abc'[item]})", "helv", 10)
    sheet.paragraph(56, y + 14, 483, words.paragraph(25), "helv", 8)
    return sheet


def receipt(rng: random.Random) -> Sheet:
    """A till roll, 80 mm wide, of ten to seventy rows."""
    words, count = Words(rng), rng.choice((10, 14, 20, 30, 70))
    sheet = Sheet(227, 210 + 13 * count, rng)
    sheet.say(113, 34, f"{words.place()} Stores", "hebo", 15, "centre")
    sheet.say(113, 48, f"{words.place()} {rng.randint(1, 99)}", "mono", 8, "centre")
    sheet.say(113, 60, f"{words.date()} {rng.randint(8, 20)}:{rng.randint(10, 59)}", "mono", 8, "centre")
    y, total = 82.0, 0.0
    for _ in range(count):
        price = rng.randint(20, 4999) / 100
        total += price
        _row(sheet, y, words.goods(), f"{price:.2f}", 8.5)
        y += 13
    sheet.rule(14, y - 6, 213, y - 6)
    _row(sheet, y + 10, "TOTAL EUR", f"{total:,.2f}", 12)
    _row(sheet, y + 26, "VAT 20 %", f"{total / 6:,.2f}", 8.5)
    _row(sheet, y + 39, "Card", f"{total:,.2f}", 8.5)
    sheet.say(113, y + 66, f"Receipt {rng.randint(1000, 99999)}", "mono", 8, "centre")
    sheet.say(113, y + 80, "Thank you for your visit", "mono", 8, "centre")
    return sheet


def _row(sheet: Sheet, y: float, label: str, amount: str, size: float) -> None:
    sheet.put(14, y, label, "mono", size)
    sheet.put(213, y, amount, "mono", size, "right")
    sheet.pieces.append(f"{label} {amount}")


def large_sheet(rng: random.Random) -> Sheet:
    """A plan of A2 with a few notes in print of 8 to 10 pt, as builders have them."""
    words, sheet = Words(rng), Sheet(1191, 1684, rng)
    sheet.say(80, 110, words.headline(5), "hebo", 30)
    for number in range(4):
        y = 170 + number * 330
        sheet.box(80, y, 1140, y + 190)
        for _ in range(8):
            sheet.rule(80 + rng.uniform(0, 1060), y, 80 + rng.uniform(0, 1060), y + 190)
        sheet.say(80, y + 208, f"{number + 1}. {words.item()}", "hebo", 10)
        sheet.paragraph(80, y + 212, 300, words.paragraph(35), "helv", rng.choice((8.0, 9.0, 10.0)))
    sheet.box(760, 1500, 1140, 1640)
    for row, (label, value) in enumerate(words.fields(4)):
        sheet.say(772, 1530 + 28 * row, f"{label}: {value}", "helv", 10)
    return sheet
