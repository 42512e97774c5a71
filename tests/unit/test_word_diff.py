"""Changes between two texts, word by word, as `pagepack diff` marks them."""

from __future__ import annotations

import pytest

from pipeline.query.word_diff import Change, diff, marked, words_changed, words_of
from pipeline.store.answer_sets import fits


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("the old house stood", "the new house stood", "the [-old-]{+new+} house stood"),
        ("the house", "the house stood", "the house {+stood+}"),
        ("a house stood", "house stood", "[-a-] house stood"),
        ("", "words", "{+words+}"),
        ("words", "", "[-words-]"),
        ("one\n\ntwo  three", "one two\nfour", "one two [-three-]{+four+}"),
        ("共2025年", "共2026年", "共[-2025-]{+2026+}年"),
        ("鹭湾潮汐花园", "鹭湾湖汐花园", "鹭湾[-潮-]{+湖+}汐花园"),
        ("im Jahr 1913 und", "im Jahr 1918 und", "im Jahr [-1913-]{+1918+} und"),
        ("a [-b-] c", "a [-b-] d", "a [-b-] [-c-]{+d+}"),
    ],
)
def test_what_changed_is_marked_where_it_stands(before: str, after: str, shown: str) -> None:
    assert marked(diff(before, after)) == shown


def test_words_far_from_any_change_are_left_out() -> None:
    same = [f"w{number}" for number in range(40)]
    before, after = " ".join([*same, "old", *same]), " ".join([*same, "new", *same])
    assert marked(diff(before, after)) == "… w35 w36 w37 w38 w39 [-old-]{+new+} w0 w1 w2 w3 w4 …"
    two = " ".join(["x", *same, "y"])
    assert marked(diff(" ".join(same), two)) == "{+x+} w0 w1 w2 w3 w4 … w35 w36 w37 w38 w39 {+y+}"


def test_both_texts_can_be_read_out_of_all_pieces_of_short_ones() -> None:
    before, after = "a b c d e f", "a x c e f g"
    pieces = diff(before, after)
    olds = " ".join(piece.text for piece in pieces if piece.change != Change.INSERTED)
    news = " ".join(piece.text for piece in pieces if piece.change != Change.DELETED)
    assert (olds.split(), news.split()) == (before.split(), after.split())
    assert words_changed(words_of(before), words_of(after)) == 3


@pytest.mark.parametrize(
    ("path", "pattern", "is_fit"),
    [
        ("/in/letters/a.pdf", "letters/", True),
        ("/in/letters/a.pdf", "letters", True),
        ("/in/letters/a.pdf", "*.pdf", True),
        ("/in/letters/a.pdf", "letters/*.pdf", True),
        ("/in/letters/a.pdf", "a.pdf", True),
        ("/in/letters/a.pdf", "/in/letters", True),
        ("/in/letters/a.pdf", "etters", False),
        ("/in/letters/a.pdf", "*.png", False),
        ("s3://bucket/in/a.pdf", "s3://bucket/", True),
        ("in/a.pdf", "./in", True),
        ("/in/scan [1].pdf", "scan [1].pdf", True),
        ("/in/scan 1.pdf", "scan [1].pdf", True),
        ("/in/scan 2.pdf", "scan [1].pdf", False),
        ("/in/old [copy]/a.pdf", "old [copy]/", True),
        ("/in/letters.zip!/1913/a.tif", "letters.zip", True),
        ("/in/letters.zip!/1913/a.tif", "in/letters.zip/", True),
        ("/in/letters.zip!/1913/a.tif", "letters", False),
        ("/in/letters.zip!/1913/a.tif", "*.zip", True),
    ],
)
def test_a_pattern_fits_a_path_from_its_beginning_or_after_a_slash(path: str, pattern: str, is_fit: bool) -> None:
    assert fits(path, pattern) == is_fit
