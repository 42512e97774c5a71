"""Why a page that was read is worth a person's look: the words of `review_reason`, each with its sentence.

An answer has one reason: the first of these that holds, since the gravest stands first. The last three are not an
engine's: the view finds them (`review_view.py`).
"""

from __future__ import annotations

from enum import StrEnum

LEGIBLE_PX = 8
"""Font size of print in a page's image: engines guess what is smaller."""


LOST_PARTS, LOST_TEXT, LOST_PRINT, NOTHING_LOST = 0.5, 0.3, 0.1, 0.02
"""How much a warning makes a page worth a look: by what the reader of its text misses. A figure is one of many that
would do; their order counts, and that a note of what was mended comes after all texts in doubt."""

WARNINGS = {
    LOST_PARTS: (  # of the picture, or pages
        "of the picture is missing",
        "of the picture, its ",
        "parts may be missing",
        "rows of it are missing",
        "it may be missing, and is drawn white",
        "the frames after the first cannot be read",
        "no page is there",
        "a dynamic XFA form",
        "though it has a text of its own",
        "premature end of file in jpeg",  # from here on in MuPDF's words
        "padding truncated image",
        "treating as end of file",
        "cannot find XObject",
        "unknown colorspace",
        "unknown filter name",
        "argument error",
    ),
    LOST_TEXT: (
        "the page's own text is unknown or control characters alone",
        "library error",
        "format error",
    ),
    LOST_PRINT: (
        "too small to be read well",
        "rows are missing",  # the last few of a picture
        "nobody knows",
        "frames is read",  # the others mostly show it in motion
        "frames, and a blank one, is read",
        "the page is filled with one colour",
    ),
}
"""Weight → parts of warnings. Those that hold none of these tell what was mended, or lies beside the page."""


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

CUT_SCORES = {
    ReviewReason.EMPTY: 1.0,
    ReviewReason.DEADLINE: 0.9,
    ReviewReason.REPETITION: 0.85,
    ReviewReason.LENGTH: 0.8,
}
"""How much a page is worth a look for how its answer ended: by its finish_reason, which is the reason."""

ENGINE_SCORE = 0.5
"""Where an engine says why, and not how much."""
