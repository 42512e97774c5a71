"""What is known of the text that a PDF page carries: the words of `text_layers.verdict`, each with its sentence."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    SOUND = "sound"
    GARBLED = "garbled"
    INVISIBLE = "invisible"
    COVERED = "covered"
    STUB = "stub"
    UNJUDGED = "unjudged"


SENTENCES = {
    Verdict.SOUND: "it says what the page shows",
    Verdict.GARBLED: "characters in it are unknown, or make no words: its fonts do not say what they mean",
    Verdict.INVISIBLE: "it is not drawn, as where somebody's OCR lies over a scan",
    Verdict.COVERED: "some of it is hidden on the page, under a picture or in the colour of the paper",
    Verdict.STUB: "more is printed on the page than it says, as where a stamp lies on a scan",
    Verdict.UNJUDGED: "it has too many lines to look at",
}
