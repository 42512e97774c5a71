"""How much of a page was read, and how well: words, characters in reading order, cells of tables.

Before anything is compared, both texts lose what is a matter of writing and not of reading: Markdown's and HTML's
signs, the kind of a quotation mark, dash, bullet or space, dot leaders, spaces beside Chinese, full-width punctuation.

    words      multisets of words (a Chinese character is one), without case: recall and precision, in whatever order
    order      edit distance over the length of the truth, at most 1 a page: of characters, with case and punctuation,
               and of words, without. A text whose columns are swapped has all its words and a high error rate
    cells      rows of truth and of reading are aligned, then the cells within two rows, so that as many cells as may be
               are equal: F1 = 2 · equal / (cells of the truth + cells read). An empty cell counts as any other: one
               that vanishes shifts the columns behind it
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TypeVar

from rapidfuzz.distance import Levenshtein

Item = TypeVar("Item")
Grid = list[list[str]]
_SAME = str.maketrans({**dict.fromkeys("“”„«»″", '"'), **dict.fromkeys("‘’‚′`´", "'"), **dict.fromkeys("‐‑‒–—―−", "-"),
                       **dict.fromkeys("•●○▪■◦‣□☐☑☒✓·*|_", " "), "。": ".", "、": ",", "\u00ad": None})  # fmt: skip
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}]) +| +(?=[{_CJK}])")
_RULE = re.compile(r"\|?\s*:?-{3,}:?\s*(\|\s*:?-{3,}:?\s*)*\|?")
_BAR = re.compile(r"(?<!\\)\|")
_MOST_COLUMNS = 1_000  # that a cell spans, as browsers have it: an answer may say any number


@dataclass(frozen=True, slots=True)
class Measured:
    """A text against its truth. Errors are at most as many as the truth has characters, or words."""

    characters: int  # of the truth
    character_errors: int
    words: int
    word_errors: int
    recall: float
    precision: float

    @property
    def error_rate(self) -> float:
        return self.character_errors / max(self.characters, 1)

    @property
    def words_missed(self) -> int:
        return round(self.words * (1.0 - self.recall))

    @property
    def word_error_rate(self) -> float:
        return self.word_errors / max(self.words, 1)


def measure(truth: str, read: str) -> Measured:
    """`truth` and `read` may both be Markdown."""
    true, got = normal(plain_text(truth)), normal(plain_text(read))
    true_words, got_words = word_list(true), word_list(got)
    recall, precision = _overlap(Counter(true_words), Counter(got_words))
    return Measured(
        characters=len(true),
        character_errors=_errors(true, got),
        words=len(true_words),
        word_errors=_errors(true_words, got_words),
        recall=recall,
        precision=precision,
    )


def _errors(true: Sequence[Hashable], read: Sequence[Hashable]) -> int:
    """Nothing is lost of a page without text, and one thing at most: what was invented is seen in the precision."""
    return min(Levenshtein.distance(true, read), max(len(true), 1))


def plain_text(markdown: str) -> str:
    """The words of a Markdown text: no marks of headings, emphasis and tables, no tags."""
    text = re.sub(r"<br\s*/?>|</t[dh]>|</tr>|</p>", " ", markdown)
    text = html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", text))
    kept = [line for line in text.splitlines() if not _RULE.fullmatch(line.strip())]
    text = "\n".join(re.sub(r"^\s{0,3}#{1,6}\s+", "", line) for line in kept)
    return re.sub(r"\\([\\`*_{}\[\]()#+.!|<>~-])", r"\1", text)


def normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_SAME)
    text = re.sub(r"(\. ?){3,}|…", " ", text)
    return _BESIDE_CJK.sub("", " ".join(text.split()))


def word_list(text: str) -> list[str]:
    return re.findall(rf"[{_CJK}]|[^\W{_CJK}]+", text.casefold())


def _overlap(true: Counter[str], read: Counter[str]) -> tuple[float, float]:
    """Recall and precision; 1 where there was nothing to be found, or nothing was said."""
    both = (true & read).total()
    return both / true.total() if true else 1.0, both / read.total() if read else 1.0


def table_rows(markdown: str) -> Grid:
    """Rows of cells of every Markdown and HTML table. A line with bars between texts is a row, too."""
    parser = _Tables()
    parser.feed(markdown)
    rows = list(parser.rows)
    for line in re.sub(r"<table.*?</table>", "", markdown, flags=re.S).splitlines():
        line = line.strip()
        if _BAR.search(line) and not _RULE.fullmatch(line):
            cells = _BAR.split(line.removeprefix("|").removesuffix("|"))
            if len(cells) > 1:
                rows.append([cell.strip() for cell in cells])
    return rows


class _Tables(HTMLParser):
    """A cell that spans several columns or rows stands in the first of them; the others are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Grid = []
        self._text: list[str] | None = None
        self._spans: dict[int, int] = {}  # column → rows below that a cell reaches into
        self._width, self._height = 1, 1

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
            self._skip_spanned()
        elif tag in ("td", "th"):
            given = {name: int(value) for name, value in attributes if value and value.isdigit()}
            self._width, self._height = min(given.get("colspan", 1), _MOST_COLUMNS), given.get("rowspan", 1)
            self._text = []
        elif tag == "br" and self._text is not None:
            self._text.append(" ")

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._text is not None and self.rows:
            for column in range(self._width):
                if self._height > 1:
                    self._spans[len(self.rows[-1])] = self._height - 1
                self.rows[-1].append("".join(self._text).strip() if column == 0 else "")
            self._text = None
            self._skip_spanned()
        elif tag == "table":
            self._spans = {}

    def _skip_spanned(self) -> None:
        row = self.rows[-1]
        while self._spans.get(len(row), 0) > 0:
            self._spans[len(row)] -= 1
            row.append("")


def cell_f1(true: Grid, read: Grid) -> float:
    one, other = ([[_cell(cell) for cell in row] for row in rows] for rows in (true, read))
    equal = _aligned(one, other, lambda a, b: _aligned(a, b, lambda c, d: float(c == d)))
    return 2 * equal / sum(len(row) for rows in (one, other) for row in rows)


def _cell(text: str) -> str:
    return normal(plain_text(text)).replace(" ", "").casefold()


def _aligned(a: Sequence[Item], b: Sequence[Item], worth: Callable[[Item, Item], float]) -> float:
    """The most that pairs in order can be worth; as a longest common subsequence, with weights."""
    best = [0.0] * (len(b) + 1)
    for one in a:
        before, best = best, [0.0] * (len(b) + 1)
        for i, other in enumerate(b):
            best[i + 1] = max(before[i + 1], best[i], before[i] + worth(one, other))
    return best[-1]
