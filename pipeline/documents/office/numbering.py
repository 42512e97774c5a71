"""Numbers of paragraphs in a DOCX, which stand in no text: `2.1`, `§ 7`, `(b)`; each level counts on its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from pipeline.documents.office.package import Package, attribute, local

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"))
_SMALL_ROMAN = ((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))
_MOST_LEVELS = 9


@dataclass(frozen=True, slots=True)
class _Level:
    form: str  # decimal, lowerLetter, bullet …
    text: str  # `%1.%2`: the numbers of the levels
    start: int


@dataclass(slots=True)
class Numbering:
    """Lists of a document, and how far each has counted."""

    _levels: dict[tuple[str, int], _Level] = field(default_factory=dict)  # by list and level
    _counted_with: dict[str, str] = field(default_factory=dict)  # lists that share a definition count on
    _of_styles: dict[str, tuple[str, int]] = field(default_factory=dict)  # list and level of a paragraph's style
    _counts: dict[tuple[str, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, package: Package) -> Numbering:
        found = cls()
        tree, styles = package.xml("word/numbering.xml"), package.xml("word/styles.xml")
        levels: dict[str, dict[int, _Level]] = {}
        for one in tree if tree is not None else ():
            if local(one) == "abstractNum":
                levels[attribute(one, "abstractNumId") or ""] = dict(_levels(one))
            elif local(one) == "num":
                name, definition = attribute(one, "numId") or "", _value(one, "abstractNumId")
                own = dict(_levels(one))
                starts = {
                    _number(attribute(other, "ilvl"), 0): _number(_value(other, "startOverride"), 1)
                    for other in one
                    if local(other) == "lvlOverride" and any(local(below) == "startOverride" for below in other)
                }
                for index, level in (levels.get(definition, {}) | own).items():
                    found._levels[name, index] = _Level(level.form, level.text, starts.get(index, level.start))
                found._counted_with[name] = name if starts else definition
        for style in styles if styles is not None else ():
            numbered = next((one for one in style.iter() if local(one) == "numPr"), None)
            if numbered is not None:
                found._of_styles[attribute(style, "styleId") or ""] = (
                    _value(numbered, "numId"),
                    _number(_value(numbered, "ilvl"), 0),
                )
        return found

    def next(self, numbered: Element | None, style: str) -> str:
        """What stands before the next paragraph, with a space behind; "" before one that is not numbered."""
        name, index = self._of_styles.get(style, ("", 0))
        if numbered is not None:
            name, index = _value(numbered, "numId") or name, _number(_value(numbered, "ilvl"), index)
        if name == "0" or not name:  # a paragraph may say that its style's number is not wanted
            return ""
        level = self._levels.get((name, index))
        if level is None or level.form == "bullet":
            return "• "
        counter = self._counted_with[name]
        for below in range(index + 1, _MOST_LEVELS):
            self._counts.pop((counter, below), None)
        self._counts[counter, index] = self._counts.get((counter, index), level.start - 1) + 1
        if level.form == "none":
            return ""
        text = re.sub(r"%([1-9])", lambda found: self._said(name, int(found[1]) - 1), level.text)
        return f"{text} " if text else ""

    def _said(self, name: str, index: int) -> str:
        level = self._levels.get((name, index))
        count = self._counts.get((self._counted_with[name], index), level.start if level else 1)
        return _written(count, level.form if level else "decimal")


def _levels(element: Element) -> list[tuple[int, _Level]]:
    return [
        (
            _number(attribute(one, "ilvl"), 0),
            _Level(_value(one, "numFmt") or "decimal", _value(one, "lvlText"), _number(_value(one, "start"), 1)),
        )
        for one in element.iter()
        if local(one) == "lvl"
    ]


def _value(element: Element, name: str) -> str:
    return next((attribute(one, "val") or "" for one in element.iter() if local(one) == name), "")


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 7 else default


def _written(count: int, form: str) -> str:
    if form in ("lowerLetter", "upperLetter") and count > 0:
        letters = chr(ord("a") + (count - 1) % 26) * min((count - 1) // 26 + 1, 9)
        return letters if form == "lowerLetter" else letters.upper()
    if form in ("lowerRoman", "upperRoman") and 0 < count < 4000:
        said = ""
        for value, sign in _ROMAN + _SMALL_ROMAN:
            said, count = said + sign * (count // value), count % value
        return said if form == "lowerRoman" else said.upper()
    return f"{count:02}" if form == "decimalZero" else str(count)
