"""Sheets of running text: letters, books, columns, newspapers, small print, Chinese."""

from __future__ import annotations

import random

from benchmarks.quality.paper import Sheet, font
from benchmarks.quality.words import Words

A4 = (595.0, 842.0)
LETTER = (612.0, 792.0)


def letter(rng: random.Random) -> Sheet:
    """One column: sender, address, date, subject, paragraphs, a list, a signature."""
    words, sheet = Words(rng), Sheet(*rng.choice((A4, LETTER)), rng)
    face, size = rng.choice(("tiro", "helv", "cour")), rng.choice((10.0, 11.0, 12.0))
    left, width = 72.0, sheet.width - 144
    sheet.say(left, 70, f"{words.place()} {words.rng.choice(('Bindery', 'Museum', 'Ferries', 'Library'))}", "hebo", 16)
    sheet.say(left, 86, f"{words.place()} {rng.randint(1, 99)}, {words.place()}", "helv", 9)
    for row, line in enumerate((words.name(), f"{words.place()} {rng.randint(1, 99)}", words.place())):
        sheet.say(left, 130 + 15 * row, line, face, size)
    sheet.say(left + width, 195, words.date(), face, size, "right")
    sheet.say(left, 225, words.headline(9), {"tiro": "tibo", "helv": "hebo", "cour": "cobo"}[face], size + 1)
    y = sheet.paragraph(left, 232, width, f"Dear {words.name()},", face, size)
    for number in range(3):
        is_justified = face == "tiro"
        y = sheet.paragraph(left, y, width, words.paragraph(40), face, size, justify=is_justified, divide=is_justified)
        if number == 1:
            for item in range(rng.randint(2, 4)):
                text = f"{item + 1}. {words.item()}, {words.number()} pieces"
                y = sheet.paragraph(left + 18, y, width - 18, text, face, size)
    sheet.paragraph(left, y + 12, width, "With kind regards,", face, size)
    sheet.say(left, y + 60, words.name(), face, size)
    return sheet


def book(rng: random.Random) -> Sheet:
    """A running head, a heading, indented paragraphs with divided words, a footnote, a page number."""
    words, sheet = Words(rng), Sheet(420, 620, rng)
    left, width, bottom = 54.0, 312.0, 520.0
    sheet.say(210, 40, words.headline().upper(), "tiro", 8, "centre")
    y = 56.0
    if rng.random() < 0.6:
        sheet.say(left, 86, f"{rng.randint(1, 12)}  {words.headline()}", "tibo", 16)
        y = 96.0
    while y < bottom - 40:
        y = sheet.paragraph(left, y, width, words.paragraph(45), "tiro", 10.5, justify=True, divide=True, indent=14,
                            bottom=bottom) - 4.7  # fmt: skip
    sheet.rule(left, 538, left + 80, 538)
    sheet.paragraph(left, 541, width, f"1 {words.sentence()}", "tiro", 8)
    sheet.say(210, 600, str(rng.randint(2, 400)), "tiro", 9, "centre")
    return sheet


def columns(rng: random.Random) -> Sheet:
    """An article or a paper: a headline over two or three columns with headings, a figure with its caption between
    paragraphs, a footnote over the whole width."""
    words, sheet = Words(rng), Sheet(*rng.choice((A4, LETTER)), rng)
    count, gutter = rng.choice((2, 2, 3)), rng.uniform(11, 20)
    left, right, size = 48.0, sheet.width - 48, rng.choice((9.0, 9.5, 10.0))
    face, strong = rng.choice((("tiro", "tibo"), ("helv", "hebo")))
    sheet.say(left, 36, words.headline(2).upper(), "helv", 8)
    sheet.say(left, 72, words.headline(6), strong, 20)
    top = sheet.paragraph(left, 80, right - left, f"By {words.name()} and {words.name()}", "tiit", 11) + 8
    width, bottom = (right - left - (count - 1) * gutter) / count, rng.uniform(330, 480)
    has_figure, is_justified = rng.random() < 0.5, rng.random() < 0.7
    for column in range(count):
        x, y, number = left + column * (width + gutter), top, 0
        while y < bottom - 3 * size:
            if number and rng.random() < 0.25 and y < bottom - 6 * size:
                y = sheet.paragraph(x, y + 3, width, words.headline(3), strong, size + 1.5)
            if has_figure and column == count - 1 and number == 1 and y < bottom - 160:
                y = _figure(sheet, words, x, y + 4, width)
            y = sheet.paragraph(x, y, width, words.paragraph(35), face, size, justify=is_justified, divide=is_justified,
                                bottom=bottom)  # fmt: skip
            number += 1
    sheet.rule(left, bottom + 24, left + 120, bottom + 24)
    sheet.paragraph(left, bottom + 26, right - left, f"* {words.sentence()}", face, 7.5)
    sheet.say(sheet.width / 2, sheet.height - 28, str(rng.randint(1, 300)), face, 9, "centre")
    return sheet


def _figure(sheet: Sheet, words: Words, x: float, y: float, width: float) -> float:
    sheet.box(x, y, x + width, y + 80, fill=0.85)
    for bar in range(6):
        height = sheet.rng.uniform(10, 65)
        sheet.box(x + 12 + bar * width / 7, y + 75 - height, x + 26 + bar * width / 7, y + 75, fill=0.5)
    return sheet.paragraph(x, y + 82, width, f"Figure {sheet.rng.randint(1, 9)}. {words.item()}.", "tiit", 8) + 6


def newspaper(rng: random.Random) -> Sheet:
    """A name over all, then stories one below the other: each a headline over its own four or five narrow columns."""
    words, sheet = Words(rng), Sheet(760, 1000, rng)
    left, right, y = 40.0, 720.0, 120.0
    sheet.say(380, 66, f"The {words.place()} Courier", "tibo", 40, "centre")
    sheet.rule(left, 78, right, 78, 1.5)
    sheet.say(left, 92, f"{words.place()}, {words.date()}", "tiro", 9)
    sheet.say(right, 92, f"Price {words.money()}", "tiro", 9, "right")
    sheet.rule(left, 98, right, 98)
    for count in rng.sample((3, 4, 5), 2):
        gutter, size = rng.uniform(10, 14), 8.5
        sheet.say(left, y + 16, words.headline(9), "tibo", rng.choice((20, 24)))
        width, top = (right - left - (count - 1) * gutter) / count, y + 24
        bottom = top + rng.uniform(80, 130)
        for column in range(count):
            x, y = left + column * (width + gutter), top
            if column and rng.random() < 0.5:
                sheet.rule(x - gutter / 2, top, x - gutter / 2, bottom)
            while y < bottom - 2 * size:
                y = sheet.paragraph(x, y, width, words.paragraph(30), "tiro", size, justify=True, divide=True, indent=8,
                                    leading=1.15, bottom=bottom) - 0.4 * size  # fmt: skip
        y = bottom + 30
        sheet.rule(left, y - 16, right, y - 16)
    return sheet


def sidebar(rng: random.Random) -> Sheet:
    """A wide column of text and a box with notes beside it, which comes after."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(56, 80, words.headline(6), "hebo", 20)
    y = 96.0
    while y < 420:
        if rng.random() < 0.3:
            y = sheet.paragraph(56, y + 4, 310, words.headline(3), "hebo", 12.5)
        y = sheet.paragraph(56, y, 310, words.paragraph(45), "tiro", 11, bottom=440)
    top = rng.uniform(110, 300)
    sheet.box(384, top, 545, top + 190, fill=0.93)
    sheet.say(392, top + 18, words.headline(3), "hebo", 10)
    note = sheet.paragraph(392, top + 22, 145, words.paragraph(25), "helv", 8.5, bottom=top + 140)
    sheet.paragraph(392, note, 145, words.sentence(), "helv", 8.5, bottom=top + 186)
    return sheet


def small_print(rng: random.Random) -> Sheet:
    """Conditions of a contract: 5.5 to 7 pt in one to three columns, numbered."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    count, size = rng.choice((1, 2, 3)), rng.choice((5.5, 6.0, 6.5, 7.0))
    sheet.say(
        40, 50, f"General conditions of {words.place()} {rng.choice(('Insurance', 'Ferries', 'Bank'))}", "hebo", 10
    )
    width = (515 - (count - 1) * 14) / count
    bottom, clause = 62 + 190 / count * (size / 6) + rng.uniform(-10, 40), 1
    for column in range(count):
        y = 58.0
        while y < bottom - 2 * size:
            y = sheet.paragraph(40 + column * (width + 14), y, width, f"{clause}. {words.paragraph(40)}", "helv", size,
                                leading=1.2, bottom=bottom)  # fmt: skip
            clause += 1
    return sheet


def chinese(rng: random.Random) -> Sheet:
    """A headline and one or two columns of Chinese, some with a paragraph of English."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    count, size = rng.choice((1, 1, 2)), rng.choice((10.5, 12.0))
    sheet.say(60, 84, words.chinese_headline(), "china-s", 20)
    width = 475 if count == 1 else 226
    for column in range(count):
        y, x = 104.0, 60 + column * 249
        for _ in range(3 if count == 1 else 2):
            y = sheet.paragraph(x, y, width, words.chinese(90), "china-s", size, leading=1.45) + size * 0.5
        if column == count - 1 and rng.random() < 0.5:
            sheet.paragraph(x, y, width, words.paragraph(30), "tiro", size)
    sheet.say(298, 806, str(rng.randint(1, 90)), "helv", 9, "centre")
    return sheet


def other_script(rng: random.Random) -> Sheet:
    """A headline and paragraphs in Cyrillic or Greek, which the default engine cannot read."""
    words, sheet, script = Words(rng), Sheet(*A4, rng), rng.choice(("russian", "greek"))
    face, strong = rng.choice((("tiro", "tibo"), ("helv", "hebo")))
    sheet.say(72, 90, words.other_script(script, 5)[:40].rsplit(" ", 1)[0], strong, 18)
    y = 106.0
    for _ in range(rng.randint(2, 4)):
        y = sheet.paragraph(72, y, 451, words.other_script(script, 40), face, 11)
    return sheet


def contents(rng: random.Random) -> Sheet:
    """A table of contents with dot leaders."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    sheet.say(72, 90, "Contents", "tibo", 20)
    y, number, page = 126.0, 1, 3
    while y < 480:
        is_chapter = rng.random() < 0.35
        face, size, left = ("tibo", 11.0, 72.0) if is_chapter else ("tiro", 10.5, 92.0)
        title = f"{number} {words.headline(3)}" if is_chapter else words.item()
        sheet.put(left, y, title, face, size)
        sheet.put(523, y, str(page), face, size, "right")
        start = left + font(face).text_length(title, size) + 6
        dots = int((500 - start) / font("tiro").text_length(" .", size))
        sheet.put(start, y, " ." * dots, "tiro", size)
        sheet.pieces.append(f"{title} {page}")
        y, page, number = y + 17, page + rng.randint(1, 9), number + is_chapter
    return sheet


def few_words(rng: random.Random) -> Sheet:
    """A title page, a separator between files, a page with a line or two."""
    words, sheet = Words(rng), Sheet(*A4, rng)
    form = rng.randrange(3)
    if form == 0:
        sheet.say(298, 260, words.headline(4), "tibo", 26, "centre")
        sheet.say(298, 300, words.item(), "tiit", 15, "centre")
        sheet.say(298, 700, f"{words.place()} {rng.randint(1900, 2026)}", "tiro", 12, "centre")
    elif form == 1:
        sheet.say(298, 400, f"Box {rng.randint(1, 99)}", "hebo", 34, "centre")
        sheet.say(298, 440, f"{words.date()} to {words.date()}", "helv", 14, "centre")
    else:
        sheet.say(72, 100, words.sentence()[:60].rsplit(" ", 1)[0], "tiro", 11)
    return sheet
