"""Phrases of words that stand on very many pages: PostgreSQL's index knows pages, not places, so it cannot find them.

It gives all pages that hold the words, and each is looked at: 400 ms for two words on half of a million pages that
stand side by side on one of 350. So where many pages would be looked at, they are taken in slices of the answers'
numbers, newest first and each twice as wide as the one before, until there are enough.

    half of a million pages    25,000 answers, then 50,000 … ; 1.2 µs each
    a twentieth                120,000, in which 6,000 pages hold the words; 4 µs each
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.database.looking import Look

_MANY = 12_000  # pages that hold the words: it takes 50 ms to look at so many
_SLICE = 25_000  # answers at least; it takes 30 ms
_HOLDING = 6_000  # pages in the first slice that hold the words


def rows_of(look: Look, statement: str, values: Mapping[str, Any], most: int, enough: int) -> tuple[list[Any], bool]:
    """At most so many rows of a SELECT without a LIMIT, and whether there may be more; from `page_search f` and
    `current_answers c`.

    `values["match"]` is a tsquery.
    """
    follow_each_other = "<" in values["match"]  # words; as no letter is
    if follow_each_other and _estimate(look, statement, values) > _MANY:
        return _in_slices(look, statement, values, most, enough)
    found = list(look.rows(f"{statement} LIMIT :limit", **values, limit=most + 1))
    return found[:most], len(found) > most


def _estimate(look: Look, statement: str, values: Mapping[str, Any]) -> int:
    """The planner takes a phrase to be on all pages that hold its words."""
    (plan,) = look.value(f"EXPLAIN (FORMAT JSON) {statement}", **values)
    return int(plan["Plan"]["Plan Rows"])


def _in_slices(look: Look, statement: str, values: Mapping[str, Any], most: int, enough: int) -> tuple[list[Any], bool]:
    beyond = int(look.value("SELECT coalesce(max(rowid), 0) + 1 FROM page_search"))
    holding = _estimate(look, _HOLDING_THEM, {"match": values["match"]})  # in whatever folder or batch
    width = max(_SLICE, _HOLDING * beyond // holding)
    found: list[Any] = []
    while beyond > 0 and len(found) < max(enough, 1):
        first = beyond - width
        found += look.rows(
            f"{statement}{_SLICED} LIMIT :limit",
            **values, first_of_slice=first, beyond_slice=beyond, limit=most + 1 - len(found),
        )  # fmt: skip
        beyond, width = first, 2 * width
    return found[:most], beyond > 0 or len(found) > most


# Of both, for the planner tells neither about the other's: it might read one of them from its beginning.
_SLICED = "".join(
    f" AND {column} >= :first_of_slice AND {column} < :beyond_slice" for column in ("f.rowid", "c.answer_id")
)
_HOLDING_THEM = "SELECT 1 FROM page_search f WHERE f.terms @@ CAST(:match AS tsquery)"
