"""In which code a ZIP's names are written that are no UTF-8: guessed, for the format does not say it.

Windows packs them in the code of its country: 'Договор' in cp866, 'テスト' in cp932. Python takes all for cp437, which
is right for German and French names and shows others as 'âeâXâg'. Here each code says how likely it makes the names,
all of an archive together, by a small model: in Japanese half of the characters are one of 170 kana, in Chinese most
are one of 3,755 hanzi, a Cyrillic capital is rarer than a small letter, and a frame of a table is in no name. cp437
stays unless another code is a thousand times likelier. The same archive always gets the same names.

charset-normalizer, which some packages bring along, was tried on 31 names in twelve codes: alone, 发票 came out as
UTF-16, and фото as Chinese; its answers also differ between its versions, and a name is an address here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

USUAL = "cp437"
_MOST_NAMES = 1_000  # that are looked at
_MARGIN = math.log(1000)
_ASCII = math.log(1 / 60)
_RARER = {"cp949": math.log(1 / 4)}  # than archives in Chinese, whose commonest signs have the same bytes
_NEVER = math.log(1e-6)  # of a sign that is in no name

_OFTEN = frozenset("äöüßéèàçñáíó")
_LATIN = _OFTEN | frozenset("êëâúîïôûåæøãõìòùœžšýÿłąęćńśźżřčěůťďňőűășțđğış")
_SIGNS = "№«»–—’°£§ºª"


def code_of(names: Iterable[bytes]) -> str:
    """Of names that are no UTF-8, the code in which all of them make most sense."""
    seen = [name for name, _ in zip(names, range(_MOST_NAMES), strict=False)]
    if not seen:
        return USUAL
    likely = {
        code: _RARER.get(code, 0.0) + sum(_likelihood(name, code, model) for name in seen)
        for code, model in _MODELS.items()
    }
    best = max(likely, key=lambda code: likely[code])  # the first of equals
    return best if likely[best] > likely[USUAL] + _MARGIN else USUAL


def _likelihood(name: bytes, code: str, model: Callable[[str, bytes], float]) -> float:
    """The logarithm, up to what is the same for all codes."""
    try:
        text = name.decode(code)
    except UnicodeDecodeError:
        return _NEVER * (len(name) + 1)  # less than cp437, which decodes all, makes of any
    total, before = 0.0, " "
    mixes = 0.0 if model is _latin else math.log(0.1)
    for sign in text:
        if sign < "\x80":
            total += _ASCII if sign >= " " else _NEVER
        else:
            total += model(sign, sign.encode(code))
        if sign.isupper() and before.islower():  # within a word
            total += math.log(0.05)
        if sign.isalpha() and before.isalpha() and sign.isascii() != before.isascii():
            total += mixes  # of two scripts in one word
        before = sign
    return total


def _latin(sign: str, _: bytes) -> float:
    """Of a code of letters that stand among those of ASCII."""
    if sign in _OFTEN:
        return math.log(0.1 * 0.7 / 12)
    return math.log(0.1 * 0.2 / 40) if sign in _LATIN else _capital_or_sign(sign, _LATIN, 0.1)


def _cyrillic(sign: str, _: bytes) -> float:
    return math.log(0.85 / 33) if sign in _CYRILLIC else _capital_or_sign(sign, _CYRILLIC, 1.0)


def _capital_or_sign(sign: str, letters: frozenset[str], share: float) -> float:
    if sign.lower() in letters:
        return math.log(share * 0.1 / 33)
    return math.log(share * 0.02 / 100) if sign.isalpha() or sign in _SIGNS else _NEVER


def _japanese(sign: str, data: bytes) -> float:
    if len(data) == 1:
        return math.log(0.005 / 63)  # kana of half the width
    if "\u3040" <= sign <= "\u30ff":
        return math.log(0.45 / 170)
    if 0x88 <= data[0] <= 0x97 or data[:1] == b"\x98":
        return math.log(0.45 / 2_965)  # kanji of the first level
    return math.log(0.05 / 4_000)


def _double(first: int, last: int, size: int, sign: str, data: bytes) -> float:
    """Of a code of two bytes: most signs begin with one of some, and are one of so many."""
    if first <= data[0] <= last and len(data) == 2 and (data[1] >= 0xA1 or size > 5_000):
        return math.log(0.92 / size)
    return math.log(0.08 / 20_000)


_CYRILLIC = frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяё")
_MODELS: dict[str, Callable[[str, bytes], float]] = {
    USUAL: _latin,
    "cp850": _latin,
    "cp852": _latin,
    "cp1252": _latin,
    "cp866": _cyrillic,
    "cp1251": _cyrillic,
    "cp932": _japanese,
    "gb18030": partial(_double, 0xB0, 0xD7, 3_755),
    "cp949": partial(_double, 0xB0, 0xC8, 2_350),
    "big5hkscs": partial(_double, 0xA4, 0xC6, 5_401),
}
