"""The view `chunks`: where it cuts, held to the same in Python on both databases; and the boxes of its pieces."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from pipeline.store.pages import NewPage
from schemas.page_chunks import MAX_CHARACTERS, chunks
from tests.conftest import LIMITS, Archive, answer, complete_page, sha

DATABASES = ("sqlite", "postgresql")

_BLANKS = " \n\r\t\f\u3000"
_ENDS = [f"{end} " for end in (".", "!", "?", "…", "।", "؟", "۔", '."', ".”", ".)", "!”", "?”")]


def cut(text: str, most: int) -> list[tuple[int, str]]:
    """What the view says in SQL: each piece with its offset."""
    text, start, pieces = text.rstrip(_BLANKS), 0, []
    while start < len(text):
        rest = text[start:]
        taken = len(rest) if len(rest) <= most else last_break(rest[:most], most // 2) or most
        piece = rest[:taken]
        if piece.strip(_BLANKS):
            pieces.append((start + len(piece) - len(piece.lstrip(_BLANKS)), piece.strip(_BLANKS)))
        start += taken
    return pieces


def last_break(window: str, half: int) -> int:
    tail, words = window[half:], [*_BLANKS, *"，、；："]
    for ends in (["\n\n#"], ["\n\n"], ["\n"], [*_ENDS, *"。！？"], words):
        places = [place + len(end.rstrip("#")) for end in ends for place in all_places(tail, end)]
        if places:
            return half + max(places)
    return max((window.rfind(end, 0, half) + 1 for end in words), default=0)


def all_places(text: str, part: str) -> list[int]:
    """Not overlapping, from the left, as `replace` finds them."""
    return [match.start() for match in re.finditer(re.escape(part), text)]


def store(archive: Archive, texts: list[str]) -> None:
    waiting = archive.ingest(archive.see("/in/a.pdf") or 0, [f"page {n}" for n in range(len(texts))])
    for page, text in zip(waiting, texts, strict=True):
        archive.read(page, text)


def random_text(chance: random.Random) -> str:
    parts = ["tide", "a", "garden", "Ω", "年度", "报告", "स्पष्ट", "x" * 30, "😀"]
    marks = [" ", " ", " ", " ", ". ", "\n", "\n\n", "\n\n## ", "。", "，", "! ", ".) ", "  \n", "\t", "\u3000", "-"]
    return "".join(chance.choice(parts) + chance.choice(marks) for _ in range(chance.randrange(60)))


def test_pieces_end_where_the_text_has_its_breaks(archive: Archive) -> None:
    chance = random.Random(17)
    texts = [random_text(chance) for _ in range(40)]
    texts += ["x" * 95, "x" * 40 + "\n", "", " \n ", "年" * 41, "one " + "y" * 200 + " two", "a\n\n\n\n" * 20]
    store(archive, texts)
    for most in (2, 7, 40):
        rows = archive.rows(
            "SELECT page_number, chunk_number, start_offset, end_offset, text "
            f"FROM ({chunks(archive.db.dialect, most)}) o ORDER BY page_number, chunk_number"
        )
        for number, text in enumerate(texts, 1):
            found = [row[1:] for row in rows if row[0] == number]
            wanted = cut(text, most)
            assert found == [(n, at, at + len(piece), piece) for n, (at, piece) in enumerate(wanted, 1)], (most, text)
            assert all(0 < len(piece) <= most and piece == piece.strip(_BLANKS) for _, piece in wanted)
            assert re.sub(r"\s", "", "".join(piece for _, piece in wanted)) == re.sub(r"\s", "", text), (
                "nothing is lost"
            )


def test_a_long_page_is_cut_before_headings_then_between_paragraphs(archive: Archive) -> None:
    paragraph = "The garden was open on all days but one. " * 8
    page = f"# Report\n\n{paragraph}\n\n{paragraph}\n\n## Visitors\n\n{paragraph}\n\n{paragraph * 3}"
    store(archive, [page, "年度报告。" * 500])
    rows = archive.rows("SELECT text FROM chunks WHERE page_number = 1 ORDER BY chunk_number")
    assert [text.partition(" ")[0] for (text,) in rows] == ["#", "##", "The"]
    assert all(len(text) <= MAX_CHARACTERS and text.endswith(".") for (text,) in rows)
    wide = archive.rows("SELECT text FROM chunks WHERE page_number = 2")
    assert len(wide) == 3 and all(text.endswith("。") for (text,) in wide)


def test_a_piece_has_the_box_of_its_lines(archive: Archive) -> None:
    said = [f"line {n:02} of the garden's report, with a coop-" for n in range(40)]
    lines: list[list[Any]] = [[10, 20 * n, 500, 20 * n + 15, 0.9, text] for n, text in enumerate(said)]
    lines += [[0, 0, 600, 900, 0.9, "garden"], [0, 0, 600, 900, 0.9, "nowhere"], [0, 0, 600, 900, 0.9, ""]]
    text = "\n".join(line.rstrip("-") + "eration" for line in said)
    pages = archive.ingest(
        archive.see("/in/a.pdf") or 0, [NewPage(0, sha("0"), 608, 912), NewPage(1, sha("1"), 16, 16)]
    )
    for page, details in zip(pages, ({"lines": lines}, {"lines": None}), strict=True):
        claim = archive.claim(page)
        assert claim
        complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer(text, details=details)}, LIMITS)
    box = "left_px, top_px, right_px, bottom_px, left_fraction, bottom_fraction"
    found = archive.rows(f"SELECT text, {box} FROM chunks WHERE page_number = 1 ORDER BY chunk_number")
    held = [number for number in range(40) if f"line {number:02}" in found[0][0]]
    bottom = 20 * held[-1] + 15
    assert 0 < held[-1] < 39
    assert found[0][1:] == (10, 0, 500, bottom, pytest.approx(10 / 608), pytest.approx(bottom / 912))
    assert found[1][2] == bottom + 5 and found[-1][4] == 795
    assert set(archive.rows(f"SELECT {box} FROM chunks WHERE page_number = 2")) == {(None,) * 6}
    archive.execute("UPDATE sources SET gone_at = seen_at")
    assert archive.rows("SELECT * FROM chunks") == []


@pytest.mark.only("sqlite")
def test_pieces_of_one_file_or_a_few_are_cut_alone(archive: Archive) -> None:
    plan = archive.rows("EXPLAIN QUERY PLAN SELECT * FROM chunks WHERE source_path = '/in/a.pdf'")
    tables = [step for *_, step in plan if re.match(r"(SCAN|SEARCH) [sdpca]\b", step)]
    assert len(tables) == 5 and all(step.startswith("SEARCH") for step in tables), plan
