"""Text as words to search for, the same when it is stored and when it is asked for.

Chinese, Japanese and Korean write no spaces, so a word breaker would need a dictionary, and a wrong break hides a word
for ever. Each such character is a term of its own here, and a word of several is asked for as a phrase: 年度报告 finds
every place where these four stand in this order, and nothing else. Latin and other scripts go by words; SQLite's
tokenizer folds their case and accents.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

CJK = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Inside the brackets of a regular expression: the characters that are terms of their own."""

_CJK = re.compile(f"([{CJK}])")
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*")  # an accent that stands alone breaks no word


def search_terms(text: str) -> str:
    """The text that goes into the index: compatibility forms folded (ﬁ → fi, １ → 1), CJK characters set apart."""
    return _CJK.sub(r" \1 ", unicodedata.normalize("NFKC", text))


class Phrase(NamedTuple):
    """Terms that stand together; with `is_prefix` the last one may go on."""

    terms: list[str]
    is_prefix: bool = False


def query_phrases(words: str) -> list[Phrase]:
    """A user's query as phrases, all of which must occur: words between blanks, or as one phrase in quotes.

    A `*` at the end of a word, or after the quotes, makes its phrase a prefix.

    `net "annual report" 利* tid*` → net · annual report · 利… · tid…
    """
    phrases = []
    for quoted, star, bare in re.findall(r'"([^"]*)"(\*?)|([^\s"]+)', words):
        text = quoted or bare
        terms = _WORD.findall(search_terms(text))
        if terms:
            phrases.append(Phrase(terms, bool(star) or text.rstrip().endswith("*")))
    return phrases
