"""Which piece of an answer's text is which line of the page, and the text as blocks that a page shows.

An engine leaves the lines that it found, each with its box; the text is made of them, with headings, tables and joined
words. Letters and digits are compared alone, so that marks of Markdown, blanks and hyphens at a line's end are no
matter:

    lines  "har-", "bour, est. 1862"     text  "## harbour, est. 1862"
                                                   ~~~               line 0
                                                      ~~~~~~~~~~~~~~ line 1

Each line takes the first place after that of the line before, else the first that is free.
"""

from __future__ import annotations

import html
import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

from pipeline.query.one_page import Doubt, Line

DOUBTED_LINE_BELOW = 0.95
"""Sound print is read at 0.95 and more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text; of a line where that is known, doubted where the model was not sure of it."""

    text: str
    line: int | None = None
    doubt: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    pieces: list[Piece]
    num_rows: int = 1
    num_columns: int = 1
    is_head: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A table, or text with its line ends; one of both."""

    pieces: list[Piece] = field(default_factory=list)
    table: list[list[Cell]] = field(default_factory=list)
    heading: int = 0  # level; 0: none


def linked(text: str, lines: Sequence[Line], doubts: Sequence[Doubt]) -> list[Block]:
    """The text's blocks in their order; every character but the marks of tables and headings is in one of them."""
    marks = _Marks(text, lines, doubts)
    blocks = []
    for start, end in _paragraphs(text):
        part = text[start:end]
        if table := _html_table(part, start, marks) or _markdown_table(part, start, marks):
            blocks.append(Block(table=table))
            continue
        heading = _HEADING.match(part)
        level = len(heading[1]) if heading else 0
        blocks.append(Block(marks.pieces(start + (heading.end() if heading else 0), end), heading=level))
    return blocks


_HEADING = re.compile(r"(#{1,6})\s+(?=[^\n]*\Z)")
_GAP = re.compile(r"\n[ \t]*\n\s*")


def _paragraphs(text: str) -> list[tuple[int, int]]:
    places, start = [], 0
    for gap in [*_GAP.finditer(text), None]:
        end = gap.start() if gap else len(text)
        if text[start:end].strip():
            places.append((start, end))
        start = gap.end() if gap else end
    return places


_MOST_LINES, _MOST_DOUBTS, _MOST_CHARACTERS = 4_000, 200, 500_000  # more are not linked: a page must not take seconds
_TAGS = re.compile(r"<[^<>]*>|&#?\w+;")


class _Marks:
    """For each place of the text its line, and whether it is doubted."""

    def __init__(self, text: str, lines: Sequence[Line], doubts: Sequence[Doubt]) -> None:
        self._text = text
        self._doubts = sorted((int(d.start), int(d.end), d.confidence) for d in doubts[:_MOST_DOUBTS])
        self._spans: list[tuple[int, int, int]] = []  # start, end, line; none overlap
        lines = lines[:_MOST_LINES] if len(text) <= _MOST_CHARACTERS else []
        passed = [found.span() for found in _TAGS.finditer(text)] if "<table" in text else []
        places = (
            [at for a, b in _between(passed, len(text)) for at in range(a, b) if text[at].isalnum()] if lines else []
        )
        letters = "".join([text[at] for at in places])
        taken = bytearray(len(letters))
        after = 0
        for number, line in enumerate(lines):
            wanted = "".join(filter(str.isalnum, line.text))
            if not wanted:
                continue
            at = letters.find(wanted, after)
            if at < 0 or any(taken[at : at + len(wanted)]):
                at = _first_free(letters, wanted, taken)
                if at < 0:
                    continue
            after = at + len(wanted)
            taken[at:after] = b"\1" * len(wanted)
            self._spans.append((places[at], places[after - 1] + 1, number))
        self._spans.sort()
        self._starts = [start for start, _, _ in self._spans]

    def pieces(self, start: int, end: int, is_html: bool = False) -> list[Piece]:
        """The text between two places, cut where a line or a doubt begins or ends."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        spans = list(itertools.takewhile(lambda span: span[0] < end, self._spans[first:]))
        doubts = [one for one in self._doubts if one[0] < end and one[1] > start]
        cuts = {at for a, b, _ in [*spans, *doubts] for at in (a, b) if start < at < end}
        found = []
        here = 0
        for a, b in itertools.pairwise(sorted(cuts | {start, end})):
            while here < len(spans) and spans[here][1] <= a:
                here += 1
            is_in = here < len(spans) and spans[here][0] <= a
            doubt = next((sure for first, last, sure in doubts if first <= a and b <= last), None)
            text = self._text[a:b]
            found.append(Piece(html.unescape(text) if is_html else text, spans[here][2] if is_in else None, doubt))
        return found


def _between(spans: Sequence[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """What lies outside of them."""
    ends = [0, *(last for _, last in spans)]
    return list(zip(ends, [*(first for first, _ in spans), end], strict=True))


def _first_free(letters: str, wanted: str, taken: bytearray) -> int:
    at = letters.find(wanted)
    for _ in range(50):  # a word that stands everywhere
        if at < 0 or not any(taken[at : at + len(wanted)]):
            return at
        at = letters.find(wanted, at + 1)
    return -1


_RULE = re.compile(r"\|(\s*:?-{3,}:?\s*\|)+\s*")
_BAR = re.compile(r"(?<!\\)\|")


def _markdown_table(part: str, start: int, marks: _Marks) -> list[list[Cell]]:
    rows = part.split("\n")
    if len(rows) < 2 or not _RULE.fullmatch(rows[1]) or not all(row.startswith("|") for row in rows):
        return []
    table, at = [], start
    for number, row in enumerate(rows):
        bars = [found.start() for found in _BAR.finditer(row)]
        if number != 1:
            cells = [(at + a + 1, at + b) for a, b in itertools.pairwise(bars)]
            table.append([Cell(_stripped(marks.pieces(a, b)), is_head=number == 0) for a, b in cells])
        at += len(row) + 1
    return table


def _stripped(pieces: list[Piece]) -> list[Piece]:
    """Without the blanks beside a cell's text, and with its bars as they read."""
    texts = [piece.text.replace("\\|", "|") for piece in pieces]
    if texts:
        texts[0], texts[-1] = texts[0].lstrip(), texts[-1].rstrip() if len(texts) > 1 else texts[-1].strip()
    return [Piece(text, piece.line, piece.doubt) for text, piece in zip(texts, pieces, strict=True) if text]


_MOST_SPANNED = 1_000


class _TableParser(HTMLParser):
    """Where the cells of one table lie in its source. What is no part of a table ends it: then it is shown as text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=False)
        self.rows: list[list[tuple[int, int, int, int, bool]]] = []  # start, end, rows, columns, head
        self.is_table = True
        self._starts = [0]
        for row in source.split("\n"):
            self._starts.append(self._starts[-1] + len(row) + 1)
        self._open: tuple[int, int, int, bool] | None = None
        self.feed(source)
        self.close()

    def _at(self) -> int:
        line, column = self.getpos()
        return self._starts[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self._open is None:
            given = dict(attrs)
            spans = [_span(given.get(name)) for name in ("rowspan", "colspan")]
            self._open = (self._at() + len(self.get_starttag_text() or ""), *spans, tag == "th")  # type: ignore[assignment]
        elif tag not in ("table", "thead", "tbody"):
            self.is_table = False

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._open is not None:
            start, num_rows, num_columns, is_head = self._open
            if not self.rows:
                self.rows.append([])
            self.rows[-1].append((start, self._at(), num_rows, num_columns, is_head))
            self._open = None
        elif tag not in ("table", "thead", "tbody", "tr"):
            self.is_table = False

    def handle_data(self, data: str) -> None:
        self.is_table &= self._open is not None or not data.strip()

    def handle_entityref(self, name: str) -> None:
        self.is_table &= self._open is not None

    handle_charref = handle_entityref


def _span(value: str | None) -> int:
    return min(max(int(value), 1), _MOST_SPANNED) if value is not None and value.isdecimal() and len(value) < 5 else 1


def _html_table(part: str, start: int, marks: _Marks) -> list[list[Cell]]:
    source = part.strip()
    if not (source.startswith("<table") and source.endswith("</table>")):
        return []
    start += part.index(source)
    parsed = _TableParser(source)
    if not parsed.is_table or parsed._open is not None:
        return []
    return [
        [
            Cell(_stripped(marks.pieces(start + a, start + b, is_html=True)), rows, columns, is_head)
            for a, b, rows, columns, is_head in row
        ]
        for row in parsed.rows
    ]
