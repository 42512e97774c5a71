"""Whether an answer has fallen into a loop, while it is written: a few look-ups a token, on the host.

A model that loops writes what it wrote, and goes on so to its last token. A page may do the same, and may not be cut:
empty rows of a table, dotted lines, rows of noughts, a sheet of labels. What tells them apart is that a page ends. So
what counts is not how often something comes, but whether a page has room for it.

A *stretch* is the end of an answer in which all is old: each run of RUN tokens stood in the answer before. One that is
new costs as much as NEW old ones are worth, and a stretch that loses DROP so is over: a loop may stumble over a word
now and then, but a new figure ends it, for labels may be numbered. Its *copies* are its tokens for each run that was
new to it:

    a b c d | a b c d a b c d a b x d a b c d …        one copy, and the stretch after it

| what is old | a loop where the stretch has |
|---|---|
| prose: four different words, not the rows of a table | 1,024 tokens in 5 copies, or 2,048 in 3, beside the first |
| other lines: few words, figures, dots, table rows | 200 tokens in 7 copies, more lines than the page has room for |
| a line without an end | 200 tokens in 7 copies, and 1,024 characters |
| lines that are alike but for their figures | 7 copies, and three times as many lines as the page has room for |

64 labels of 15 tokens, and four large forms on a sheet, are under the first row; the widest line of a printed sheet
is under the third. The last takes a list that counts on for ever: any run of digits, points and commas is one figure.

The answer is cut where the stretch began: one copy stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

RUN = 8  # tokens: less comes again by chance, in a list of yes and no
NEW, DROP = 6, 64  # one other token makes RUN runs new, 48; two close together end a stretch
LEAST_TOKENS = 200
LEAST_COPIES = 7  # beside the first: eight in all
PROSE = ((1024, 5), (2048, 3))  # tokens, copies beside the first
PROSE_WORDS = 4
LINE_CHARACTERS = 1024
LINES = 100  # that any page has room for
LINE_PX = 16  # page images are drawn so that small print is so high
NUMBERED = 3

_TAGS = re.compile(r"</?[a-zA-Z][^<>]*>|\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_FIGURES = re.compile(rb"[\d.,]+")
_FIGURE = -1


@dataclass(frozen=True, slots=True)
class Loop:
    """Where an answer began to repeat itself, in tokens of it, and how it did."""

    first: int  # the first token that is too much
    tokens: int  # that were written after it
    copies: int  # of what came again, about


def lines_of_page(height_px: int) -> int:
    """How many lines a page of that height has room for; generously."""
    return max(LINES, height_px // LINE_PX)


@dataclass(slots=True)
class _Stretch:
    """The end of a row of symbols in which all is old."""

    symbols: list[int] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)  # a run's hash (a third of its memory) → where it ended last
    first: int = 0
    worth: int = 0
    best: int = 0
    distinct: int = 0
    look_at: int = LEAST_TOKENS

    def add(self, symbol: int, is_figure: bool) -> bool:
        """Whether the stretch is worth a look: its text is read now and then, not at each token."""
        symbols, place = self.symbols, len(self.symbols)
        symbols.append(symbol)
        run = hash(tuple(symbols[-RUN:]))
        before = self.seen.get(run, -1)
        self.seen[run] = place
        self.distinct += before < self.first
        if before < 0:
            self.worth -= DROP if is_figure else NEW
        else:
            self.worth += 1
            self.best = max(self.best, self.worth)
        if self.worth <= max(0, self.best - DROP):
            self.first, self.worth, self.best, self.distinct, self.look_at = place + 1, 0, 0, 0, LEAST_TOKENS
        if place + 1 - self.first < self.look_at:
            return False
        self.look_at += self.look_at // 8
        return True

    @property
    def length(self) -> int:
        return len(self.symbols) - self.first

    @property
    def copies(self) -> float:
        return self.length / max(self.distinct, 1)


class Watch:
    """Watches one answer; `piece` gives the bytes of a token, `lines` is what its page has room for."""

    def __init__(self, piece: Callable[[int], bytes], lines: int = LINES) -> None:
        self._piece, self._lines = piece, lines
        self._words, self._counted = _Stretch(), _Stretch()
        self._places: list[int] = []  # of each counted symbol among the tokens

    def add(self, token: int) -> Loop | None:
        """The loop that this token has made certain."""
        is_figure = _FIGURES.fullmatch(self._piece(token)) is not None
        if self._words.add(token, is_figure) and self._is_loop():
            return self._loop(max(0, self._words.first - RUN + 1), self._words)
        counted = self._counted.symbols
        if is_figure and counted and counted[-1] == _FIGURE:
            return None
        self._places.append(len(self._words.symbols) - 1)
        if self._counted.add(_FIGURE if is_figure else token, False) and self._counts_on():
            return self._loop(self._places[max(0, self._counted.first - RUN + 1)], self._counted)
        return None

    def _loop(self, first: int, stretch: _Stretch) -> Loop:
        return Loop(first, len(self._words.symbols) - first, round(stretch.copies) + 1)

    def _is_loop(self) -> bool:
        stretch = self._words
        if stretch.copies < min(LEAST_COPIES, *(copies for _, copies in PROSE)):
            return False
        text = self._text(stretch.symbols[stretch.first :])
        if _is_prose(text):
            return any(stretch.length >= tokens and stretch.copies >= copies for tokens, copies in PROSE)
        lines = text.split("\n")
        is_too_much = len(lines) > self._lines or max(map(len, lines)) > LINE_CHARACTERS
        return stretch.copies >= LEAST_COPIES and is_too_much

    def _counts_on(self) -> bool:
        stretch = self._counted
        if stretch.copies < LEAST_COPIES:
            return False
        tokens = self._words.symbols[self._places[stretch.first] :]
        return self._text(tokens).count("\n") > NUMBERED * self._lines

    def _text(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._piece, tokens)).decode(errors="replace")


def _is_prose(text: str) -> bool:
    """Four different words, or as many different letters of a script that writes none apart; in no table's rows."""
    lines = [line for line in text.split("\n") if line.strip()]
    if 2 * sum(line.count("|") > 1 or line.count("&") > 1 or "<td" in line for line in lines) > len(lines):
        return False
    plain = _TAGS.sub(" ", text)
    if len(set(_WORD.findall(plain.lower()))) >= PROSE_WORDS:
        return True
    return len({letter for letter in plain if letter.isalpha() and letter.lower() == letter.upper()}) >= 3 * PROSE_WORDS
