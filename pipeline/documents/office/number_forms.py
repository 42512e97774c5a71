"""How a workbook shows the numbers of its cells: as dates, times, lengths of time, shares; others as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

_DATES = {*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)}  # formats that are built in
_ELAPSED, _SHARES = 46, {9: 0, 10: 2}


@dataclass(frozen=True, slots=True)
class Form:
    """What a number of one style is."""

    is_date: bool = False
    is_elapsed: bool = False  # hours that go on beyond 24
    share_digits: int | None = None  # of a percentage, behind the point
    is_from_1904: bool = False  # days are counted from there


def form_of(number: str, code: str | None, *, is_from_1904: bool) -> Form:
    """Of a format's number, and its code where the workbook defines it."""
    if code is None:
        built_in = int(number) if number.isdecimal() else 0
        if built_in in _DATES:
            return Form(is_date=True, is_from_1904=is_from_1904)
        return Form(is_elapsed=built_in == _ELAPSED, share_digits=_SHARES.get(built_in))
    shown = code.partition(";")[0]
    if re.search(r"\[(h+|m+|s+)\]", shown, re.IGNORECASE):
        return Form(is_elapsed=True)
    plain = re.sub(r'"[^"]*"|[\\_*].|\[[^\]]*\]', "", shown).lower()
    if "%" in plain:
        return Form(share_digits=len(re.sub(r"[^0#?]", "", plain.partition(".")[2])))
    if re.search(r"[ydh]|m{3}|s", plain) and "general" not in plain:
        return Form(is_date=True, is_from_1904=is_from_1904)
    return Form()


def formatted(value: str, form: Form) -> str:
    """The number as cells show it; what is none stays as it is."""
    try:
        number = float(value)
        if form.is_elapsed:
            seconds = round(abs(number) * 86_400)
            return f"{'-' if number < 0 else ''}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if form.share_digits is not None:
            return f"{number * 100:.{min(form.share_digits, 10)}f}%"
        return _date(number, datetime(1904, 1, 1) if form.is_from_1904 else datetime(1899, 12, 30))
    except (ValueError, OverflowError):
        return value


def plain_number(value: str) -> str:
    """As people write it: 0.1, not the 17 digits in which it is stored."""
    try:
        return f"{float(value):.15g}" if len(value) > 15 else value
    except ValueError:
        return value


def _date(days: float, first: datetime) -> str:
    moment = first + timedelta(seconds=round(days * 86_400))
    if 0 <= days < 1:
        return f"{moment:%H:%M:%S}"
    return f"{moment:%Y-%m-%d}" if days.is_integer() else f"{moment:%Y-%m-%d %H:%M:%S}"
