"""Text with all folded away that does not tell words apart, the same when it is stored and when it is asked for.

    case, width, ligatures           Größe → grosse · ﬁ → fi · Ａ → a · ΟΔΌΣ → οδοσ
    accents                          Café → cafe · й → и · Việt → viet
    strokes and joined letters       Łódź → lodz · Ø → o · Đ → d · Æ → ae · ı and İ → i
    points of Hebrew, harakat        שָׁלוֹם → שלום · مُحَمَّد → محمد · the tatweel goes
    forms of one Arabic letter       أ إ آ → ا · ى ی → ي · ک → ك · ة → ه
    digits                           २०१९, ٢٠١٩ → 2019
    soft hyphens, joiners, marks of direction   go

Vowel signs of Devanagari and its kin, of Thai and of Khmer are letters in all but name: they stay, and so do kana and
Hangul, which are composed again. The tables are written out, not read from the `unicodedata` of the Python that runs,
so that two machines fold alike.
"""

from __future__ import annotations

import re
import unicodedata

MARKS = (
    "\u07a6-\u07f3\u07fd\u0816-\u082d\u0859-\u085b\u0900-\u0963\u0981-\u09e3\u09fe-\u0a75\u0a81-\u0ae3\u0afa-\u0b63"
    "\u0b82-\u0bd7\u0c00-\u0c63\u0c81-\u0c83\u0cbc-\u0d4d\u0d57-\u0d63\u0d81-\u0df3"
    "\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84\u0f86-\u0fbc\u0fc6"
    "\u1712-\u1734\u1752-\u1773\u1885-\u193b\u1a17-\u1a1b\u1a55-\u1a7f\u1b00-\u1b44\u1b6b-\u1b73\u1b80-\u1bf3"
    "\u1c24-\u1c37\u1cd0-\u1cd2\u1cd4-\u1cf9\u2cef-\u2cf1\u2d7f-\u2dff\ua66f-\ua672\ua674-\ua67d"
    "\ua69e-\ua6f1\ua802-\ua827\ua82c\ua880-\ua8c5\ua8e0-\ua8f1\ua8ff-\ua92d\ua947-\ua953\ua980-\ua9c0\ua9e5-\uaa4d"
    "\uaa7b-\uaac1\uaaeb-\uaaef\uaaf5\uaaf6\uabe3-\uabea\uabec\uabed\U000101fd-\U0001037a\U00010a01-\U00010a3f"
    "\U00010ae5\U00010ae6\U00010d24-\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011000-\U00011046"
    "\U00011070-\U000110ba\U000110c2\U00011100-\U00011134\U00011145-\U00011173\U00011180-\U000111c0"
    "\U000111c9-\U000111cc\U000111ce\U000111cf\U0001122c-\U00011237\U0001123e\U000112df-\U00011446"
    "\U0001145e-\U000114c3\U000115af-\U000115c0\U000115dc-\U00011640\U000116ab-\U000116b7\U0001171d-\U0001172b"
    "\U0001182c-\U0001183a\U00011930-\U00011943\U000119d1-\U000119e0\U000119e4-\U00011a3e\U00011a47-\U00011a99"
    "\U00011c2f-\U00011c3f\U00011c92-\U00011ef6\U00016af0-\U00016af4\U00016b30-\U00016b36\U00016f4f-\U00016f92"
    "\U00016fe4-\U00016ff1\U0001bc9d\U0001bc9e\U0001cf00-\U0001cf46\U0001d165-\U0001d169\U0001d16d-\U0001d172"
    "\U0001d17b-\U0001d182\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001da00-\U0001da36"
    "\U0001da3b-\U0001da6c\U0001da75\U0001da84\U0001da9b-\U0001e136\U0001e2ae-\U0001e2ef\U0001e8d0-\U0001e94a"
)
"""Inside the brackets of a regular expression: marks that belong to their word, with letters that stand among them.
Those of scripts without spaces are in `search_terms.py`."""

_POINTS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u0898-\u089f\u08ca-\u08e1\u08e3-\u08ff"
    "\u093c\u135d-\u135f\u180b-\u180d\u180f\u1ab0-\u1ace\u1dc0-\u1dff\u20d0-\u20f0\u302a-\u302f\ufb1e\ufe00-\ufe0f"
    "\ufe20-\ufe2f\U000e0100-\U000e01ef"
)
_UNSEEN = "\u00ad\u0640\u034f\u061c\u180e\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
DROPPED = _POINTS + _UNSEEN
"""As `MARKS`: accents, points and what is not seen, which go. A search with and without them finds the same."""

_DROPPED = re.compile(f"[{DROPPED}]+")
_LATIN = (
    "øđħłŧƀƃƈƌƒƙƚƞƥƫƭƴƶǥȡȥȴȵȶȼȿɀɇɉɋɍɏɓɗðıȷĸŋ",
    "odhltbbcdfklnpttyzgdzlntcszejqrybddijkn",
)
_ARABIC = ("\u06cc\u0649\u06a9\u0629\u06c1\u06d5\u0671", "\u064a\u064a\u0643\u0647\u0647\u0647\u0627")
_ZEROS = (
    "\u0660\u06f0\u07c0\u0966\u09e6\u0a66\u0ae6\u0b66\u0be6\u0c66\u0ce6\u0d66\u0e50\u0ed0\u0f20\u1040\u1090\u17e0\u1810"
)
_LETTERS = (
    dict(zip(*_LATIN, strict=True))
    | dict(zip(*_ARABIC, strict=True))
    | {"æ": "ae", "œ": "oe", "þ": "th", "_": " "}
    | {chr(ord(zero) + digit): str(digit) for zero in _ZEROS for digit in range(10)}
)
_LETTER = re.compile(f"[{''.join(_LETTERS)}]")  # `str.translate` takes fifty times as long where there is none


def fold(text: str) -> str:
    """Nothing in it changes when it is folded again."""
    if text.isascii():
        return text.lower().replace("_", " ")
    plain = _DROPPED.sub("", unicodedata.normalize("NFKD", text)).casefold()
    plain = _DROPPED.sub("", unicodedata.normalize("NFKD", plain))  # İ falls into i and a dot
    return unicodedata.normalize("NFC", _LETTER.sub(lambda found: _LETTERS[found.group()], plain))
