"""Lines of a page find their place in its text, and the text comes out as blocks, whatever is in it."""

from __future__ import annotations

import time

import pytest

from pipeline.query.one_page import Doubt, Line
from pipeline.web.linked_text import Block, Piece, linked


def lines(*texts: str) -> list[Line]:
    return [Line(0, 10.0 * at, 100, 10.0 * at + 9, 0.99, text) for at, text in enumerate(texts)]


def pieces(blocks: list[Block]) -> list[Piece]:
    return [
        piece
        for block in blocks
        for piece in [*block.pieces, *(piece for row in block.table for cell in row for piece in cell.pieces)]
    ]


def places(blocks: list[Block]) -> dict[int, str]:
    """Line → the text that is linked to it."""
    found: dict[int, str] = {}
    for piece in pieces(blocks):
        if piece.line is not None:
            found[piece.line] = found.get(piece.line, "") + piece.text
    return found


def test_a_word_that_a_line_end_parted_belongs_to_both_lines() -> None:
    found = linked("# The har\n\nbour of 1862 stands", lines("The har-", "bour of 1862 stands"), [])
    assert places(found) == {0: "The har", 1: "bour of 1862 stands"}
    joined = linked("## The harbour, est. 1862", lines("The har-", "bour, est. 1862"), [])
    assert joined[0].heading == 2 and places(joined) == {0: "The har", 1: "bour, est. 1862"}


def test_a_word_that_stands_twice_is_linked_in_order() -> None:
    found = linked("Total 5\n\nSum\n\nTotal 5", lines("Total 5", "Sum", "Total 5"), [])
    assert [(piece.line, piece.text) for piece in pieces(found)] == [(0, "Total 5"), (1, "Sum"), (2, "Total 5")]


def test_cells_of_both_kinds_of_tables_are_linked() -> None:
    (markdown,) = linked("| Item | a \\| b |\n| --- | --- |\n| Book | 2 |", lines("Item", "a | b", "Book", "2"), [])
    assert [[cell.pieces[0].text for cell in row] for row in markdown.table] == [["Item", "a | b"], ["Book", "2"]]
    assert places([markdown]) == {0: "Item", 1: "a | b", 2: "Book", 3: "2"}
    text = '<table>\n<tr><td colspan="2">A &amp; B</td></tr>\n<tr><td>tr</td><td></td></tr>\n</table>'
    (merged,) = linked(text, lines("A & B", "tr"), [])
    assert [[(cell.num_columns, "".join(p.text for p in cell.pieces)) for cell in row] for row in merged.table] == [
        [(2, "A & B")],
        [(1, "tr"), (1, "")],
    ]
    assert places([merged]) == {0: "A & B", 1: "tr"}


@pytest.mark.parametrize(
    "text",
    [
        "<table><tr><td><script>alert(1)</script></td></tr></table>",
        "<table><tr><td><img src=x onerror=alert(1)></td></tr></table>",
        "<table onload=x><tr><td>open",
        "<table><tr>loose<td>x</td></tr></table>",
    ],
)
def test_what_is_more_than_a_table_is_shown_as_the_text_that_it_is(text: str) -> None:
    (block,) = linked(text, [], [])
    assert not block.table and "".join(piece.text for piece in block.pieces) == text


def test_a_span_of_a_million_columns_is_none() -> None:
    (block,) = linked('<table><tr><td colspan="1000000" rowspan="-3">x</td></tr></table>', [], [])
    assert (block.table[0][0].num_columns, block.table[0][0].num_rows) == (1, 1)


def test_doubted_places_are_cut_out_with_how_sure_the_model_was() -> None:
    (block,) = linked("the tide came", lines("the tide came"), [Doubt(4, 8, 0.31)])
    assert [(piece.text, piece.line, piece.doubt) for piece in block.pieces] == [
        ("the ", 0, None),
        ("tide", 0, 0.31),
        (" came", 0, None),
    ]


def test_a_page_of_many_equal_lines_takes_no_time() -> None:
    text = "\n".join(["0.00"] * 20_000) + "\n" + "\n".join(f"line {number} of the page" for number in range(4_000))
    many = lines(*["0.00"] * 3_000, *[f"line {number} of the page" for number in range(3_000)], *["absent"] * 500)
    started = time.process_time()
    assert len(places(linked(text, many, []))) > 3_000
    assert not places(linked("0.00 " * 1_000_000, many, []))  # a text of megabytes is shown, and not linked
    assert time.process_time() - started < 2
