"""How much of a page was read, and how well: words, and characters in reading order. Tables: `tables.py`.

Before anything is compared, both texts lose what is a matter of writing and not of reading: Markdown's and HTML's
signs, the kind of a quotation mark, dash, bullet or space, dot leaders, spaces beside Chinese, full-width punctuation.

    words      multisets of words (a Chinese character is one), without case: recall and precision, in whatever order
    order      edit distance over the length of the truth, at most 1 a page: of characters, with case and punctuation,
               and of words, without. A text whose columns are swapped has all its words and a high error rate
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

_SAME = str.maketrans({**dict.fromkeys("“”„«»″", '"'), **dict.fromkeys("‘’‚′`´", "'"), **dict.fromkeys("‐‑‒–—―−", "-"),
                       **dict.fromkeys("•●○▪■◦‣□☐☑☒✓·*|_", " "), "。": ".", "、": ",", "\u00ad": None})  # fmt: skip
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}]) +| +(?=[{_CJK}])")
RULE = re.compile(r"\|?\s*:?-{3,}:?\s*(\|\s*:?-{3,}:?\s*)*\|?")


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
    kept = [line for line in text.splitlines() if not RULE.fullmatch(line.strip())]
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
