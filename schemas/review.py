"""Why a page that was read is worth a person's look: the words of `review_reason`, each with its sentence.

An answer has one reason: the first of these that holds, since the gravest stands first. The last three are not an
engine's: the view finds them (`review_view.py`).
"""

from __future__ import annotations

from enum import StrEnum

LEGIBLE_PX = 8
"""Font size of print in a page's image: engines guess what is smaller."""


class ReviewReason(StrEnum):
    EMPTY = "empty"
    UNREAD_SCRIPT = "unread-script"
    DEADLINE = "deadline"
    REPETITION = "repetition"
    LENGTH = "length"
    FILTERED = "filtered"
    UNREAD_REGIONS = "unread-regions"
    LOW_CONFIDENCE = "low-confidence"
    SMALL_PRINT = "small-print"
    TURN_IN_DOUBT = "turn-in-doubt"
    TEXT_LAYER = "text-layer"
    UNKNOWN_CHARACTERS = "unknown-characters"
    WARNING = "warning"


SENTENCES = {
    ReviewReason.EMPTY: "nothing was read, and the page is not blank or carries text of its own",
    ReviewReason.UNREAD_SCRIPT: "the page, or a part of it, is in a script that the engine does not read",
    ReviewReason.DEADLINE: "time was over before the whole page was read; the text is what was read until then",
    ReviewReason.REPETITION: "the model fell into a loop whatever was tried; the text is that of the best try",
    ReviewReason.LENGTH: "the answer was cut off at its longest length",
    ReviewReason.FILTERED: "a filter of the server that reads cut the answer off",
    ReviewReason.UNREAD_REGIONS: "the engine found lines of text that it could not read",
    ReviewReason.LOW_CONFIDENCE: "the engine is less sure of this page's text than of sound print",
    ReviewReason.SMALL_PRINT: "the print is too small in the page's image to be read well",
    ReviewReason.TURN_IN_DOUBT: "the page may lie on its side or on its head, and no way to hold it made good sense",
    ReviewReason.TEXT_LAYER: "the page's own text was taken, as was asked for, and it is not sound",
    ReviewReason.UNKNOWN_CHARACTERS: "the page's own text was taken, and some characters in it have no meaning",
    ReviewReason.WARNING: "the renderer mended or left out something",
}
