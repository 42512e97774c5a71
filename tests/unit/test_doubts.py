"""When a page that was read is worth a look, from its lines alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.layout.lines import Line
from schemas.review import ReviewReason
from workers.engines.doubts import Doubt, confidence_of, doubt_of, is_unreadable
from workers.engines.page_lines import PageLines
from workers.engines.regions import Quad, Reading, Region
from workers.engines.scripts import is_unread_script

IMAGE = np.zeros((1, 1, 3), np.uint8)


def quad(width: float, height: float = 20) -> Quad:
    return (0, 0), (width, 0), (width, height), (0, height)


def region(width: float, height: float = 20) -> Region:
    return Region(quad(width, height), IMAGE)


SOUND = PageLines([Line(quad(400), "A line of a sound page, quite sure", 0.99)] * 5)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (SOUND, None),
        (replace(SOUND, unread=[region(30)]), None),
        (replace(SOUND, unread=[region(30)] * 10), ReviewReason.UNREAD_REGIONS),
        (replace(SOUND, foreign=[region(400)]), ReviewReason.UNREAD_SCRIPT),
        (replace(SOUND, is_late=True, not_reached=[region(400)]), ReviewReason.DEADLINE),
        (replace(SOUND, foreign=[region(400)], is_late=True), ReviewReason.UNREAD_SCRIPT),
        (replace(SOUND, is_turn_in_doubt=True), ReviewReason.TURN_IN_DOUBT),
        (PageLines([Line(quad(400), "A line of doubtful print", 0.9)]), ReviewReason.LOW_CONFIDENCE),
        (PageLines([]), ReviewReason.EMPTY),
        (PageLines([], is_blank=True), None),
    ],
)
def test_the_gravest_reason_is_given(page: PageLines, reason: ReviewReason | None) -> None:
    doubt = doubt_of(page, 0.98)
    assert (doubt.reason if doubt else None) == reason
    assert doubt is None or 0 < doubt.score <= 1


def test_score_says_how_much_of_the_page_is_meant() -> None:
    half = replace(SOUND, foreign=[region(400)] * 5)
    assert doubt_of(half, 0.98) == Doubt(ReviewReason.UNREAD_SCRIPT, 0.5)


def test_page_number_beside_lines_in_another_script_does_not_make_them_read() -> None:
    number = [Line(quad(20), "12", 0.99)]
    assert is_unreadable(PageLines(number, foreign=[region(400)] * 5))
    assert not is_unreadable(PageLines(number, foreign=[region(400)] * 5, is_late=True))
    assert not is_unreadable(PageLines(SOUND.lines, foreign=[region(400)] * 5))
    assert not is_unreadable(PageLines([], foreign=[region(120)]))  # perhaps the texture of a picture


def test_noise_beside_lines_in_another_script_is_no_text() -> None:
    """Hindi and Thai: some lines come out as letters that nobody wrote."""
    foreign = [region(400)] * 2
    noise = [Line(quad(460), "HRA RER GRT GRFARIT TT", 0.66), Line(quad(400), "nsvnušs Šəν šuaAsnιšgu", 0.77)]
    assert is_unreadable(PageLines(noise, foreign=foreign))
    assert is_unreadable(PageLines([Line(quad(400), "Aau:nssuasuəunsUs:uanI", 0.61)] * 7)), (
        "Thai, as letters throughout"
    )
    assert not is_unreadable(PageLines([Line(quad(400), "The commatke bas cectdeal", 0.8)] * 7)), "a noisy page"
    assert not is_unreadable(PageLines([Line(quad(120), "X7", 0.6)])), "a smudge"
    assert not is_unreadable(PageLines([*noise, SOUND.lines[0]], foreign=foreign)), "a line that is sure"
    assert not is_unreadable(PageLines(noise * 5, foreign=foreign)), "a bad scan with a few odd lines"


@pytest.mark.parametrize(
    ("text", "confidence", "width", "is_foreign"),
    [
        (",      11", 0.846, 400, True),  # Cyrillic
        (",  1913 .", 0.89, 190, True),
        ("Total                    12", 0.98, 800, False),
        ("Index . . . . . . . . . . . . . . . . . . 312", 0.9, 800, False),
        ("επιστλ, βιβλα και σχδια, τα πειστεα", 0.874, 400, True),
        ("The waves are α and β of the same kind", 0.94, 400, False),
        ("", 0.0, 400, True),
        ("", 0.0, 60, False),  # a smudge
        ("1. Introduction ................ 7", 0.93, 400, False),
        ("T I T L E   P A G E   O N E", 0.97, 400, False),
        ("港务局档案共四十一箱，内有信件", 0.95, 400, False),
    ],
)
def test_line_in_another_script_is_known_by_its_letters(
    text: str, confidence: float, width: float, is_foreign: bool
) -> None:
    assert is_unread_script(region(width), Reading(text, confidence), 0.5) == is_foreign


def test_confidence_is_the_mean_over_characters() -> None:
    assert confidence_of([]) is None
    assert confidence_of([Line(quad(9), "abc", 1.0), Line(quad(9), "d", 0.6)]) == pytest.approx(0.9)
