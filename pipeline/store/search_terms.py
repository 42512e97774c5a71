"""Text as words to search for, the same when it is stored and when it is asked for, on SQLite and on PostgreSQL.

Chinese, Japanese and Korean write no spaces, so a word breaker would need a dictionary, and a wrong break hides a word
for ever. Each such character is a term of its own here, and a word of several is asked for as a phrase: 年度报告 finds
every place where these four stand in this order, and nothing else. Latin and other scripts go by words.

Case and accents are folded here: PostgreSQL's `simple` dictionary leaves accents and, by locale, capitals as they are.
Its parser is not asked either, for it takes a URL or a number with a sign for one word.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

CJK = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Inside the brackets of a regular expression: the characters that are terms of their own."""

_TERM = re.compile(f"[{CJK}]|(?:(?![{CJK}])[^\\W_])+")
_WORD = re.compile(r"[^\W_]+")  # a term where nothing is CJK, in half the time
_HAS_CJK = re.compile(f"[{CJK}]")
_BREAKS = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})
_ACCENTS = re.compile("[\u0300-\u036f]+")
_MAX_TERM_CHARACTERS = 255  # a longer word counts by its beginning; PostgreSQL takes 2,046 bytes
_MAX_VECTOR_BYTES = 1_000_000  # of a page; PostgreSQL takes 1,048,575. Words after that are not found
_SURELY_FITS = 60_000  # characters: each is at most a term of 4 bytes, which takes 12
_ENOUGH_PLACES = 2_500  # characters of an entry: PostgreSQL keeps 256 of its places, none after 16,383


def fold(text: str) -> str:
    """Compatibility forms (ﬁ → fi, １ → 1), capitals and accents folded away; Hangul and kana stay whole."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).lower())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", plain)).replace("ς", "σ")


def terms(text: str) -> list[str]:
    """In their order; letters and digits only, so that none can leave the quotes around it."""
    plain = fold(text)
    if plain.isascii():
        found = plain.translate(_BREAKS).split()  # a tenth of the time
    else:
        found = (_TERM if _HAS_CJK.search(plain) else _WORD).findall(plain)
    return [term[:_MAX_TERM_CHARACTERS] for term in found]


def search_terms(text: str) -> str:
    """The text that goes into SQLite's index."""
    return " ".join(terms(text))


def search_vector(text: str) -> str:
    """What goes into PostgreSQL's index, as a literal of its type `tsvector`: `'net':1 'income':2,7`."""
    found = terms(text)
    if len(text) > _SURELY_FITS:
        found = found[: _how_many_fit(found)]
    entries: dict[str, str] = {}
    for place, term in enumerate(found, 1):
        if term not in entries:
            entries[term] = f"'{term}':{place}"
        elif len(entries[term]) < _ENOUGH_PLACES:
            entries[term] += f",{place}"
    return " ".join(entries.values())


def _how_many_fit(found: list[str]) -> int:
    seen: set[str] = set()
    size = 0
    for count, term in enumerate(found):
        size += 2 if term in seen else 8 + len(term.encode())
        if size > _MAX_VECTOR_BYTES:
            return count
        seen.add(term)
    return len(found)


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
        found = terms(text)
        if found:
            phrases.append(Phrase(found, bool(star) or text.rstrip().endswith("*")))
    return phrases
