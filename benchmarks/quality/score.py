"""The score of a drawn page: the measures of `pipeline/evaluation/measures.py`, and what is known of its drawing."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.quality.draw import Page
from pipeline.evaluation.measures import measure
from pipeline.evaluation.tables import cell_f1, table_rows


@dataclass(frozen=True)
class Score:
    """Of one page. `cells` is None where it has no table, `is_false_table` where it has one, both where it is not
    judged."""

    recall: float
    precision: float
    error: float
    word_error: float
    characters: int
    character_errors: int
    cells: float | None
    is_false_table: bool | None  # text that stands in no table was read as one
    is_upright: bool  # half the words or more: a page read lying wrong gives next to none


def score(page: Page, text: str) -> Score:
    found = measure(page.text, text)
    cells = is_false_table = None
    if page.tables is not None:
        rows, got = [row for grid in page.tables for row in grid], table_rows(text)
        cells, is_false_table = (cell_f1(rows, got), None) if rows else (None, bool(got))
    return Score(
        found.recall,
        found.precision,
        found.error_rate,
        found.word_error_rate,
        found.characters,
        found.character_errors,
        cells,
        is_false_table,
        found.recall >= 0.5,
    )
