"""Lines in a script, or a hand, that the recognizer does not read.

It knows Latin, Chinese and Japanese letters, and some Greek ones. Of other scripts it gives what looks alike: commas,
digits, a few letters, at a confidence up to 0.9. Such a line has next to no letters for its length, in line heights:

    Latin, Chinese, Japanese     1.4 to 2.9      Cyrillic, Arabic, Hebrew, Korean, Thai, Hindi, Armenian   0 to 0.3

Greek has enough letters (1.1 to 1.8), for it lacks those with accents; its lines are known by what they are made of.
"""

from __future__ import annotations

import unicodedata

from workers.engines.regions import Reading, Region, letters

_LEAST_LENGTH = 5.0  # line heights; a shorter box may hold a sign, a letter or a smudge
_LEAST_LETTERS = 0.5  # in a line height
_SURE = 0.95  # a row of a table whose cells stand far apart has few letters, too, and is read surely
_LEADERS = "._-–—·…="  # as in a table of contents; so many of them are no slips
_NUM_LEADERS = 5


def is_unread_script(region: Region, reading: Reading, least_confidence: float, reads_greek: bool = False) -> bool:
    length = region.length_in_heights
    if length < _LEAST_LENGTH:
        return False
    if reading.confidence < least_confidence:
        return True
    if reading.confidence >= _SURE:
        return False
    return known_letters(reading.text) < _LEAST_LETTERS * length or (not reads_greek and is_greek(reading.text))


def known_letters(text: str) -> float:
    """Letters and digits, and leaders; not the commas that a recognizer makes of letters that it does not know."""
    leaders = {char for char in _LEADERS if text.count(char) >= _NUM_LEADERS}
    return letters("".join(char for char in text if char.isalnum() or char in leaders))


def is_greek(text: str) -> bool:
    """Most of its letters are; a word or a sign in another text does not make it so."""
    known = [char for char in text if char.isalpha()]
    return 2 * sum(unicodedata.name(char, "").startswith("GREEK") for char in known) > len(known)
