"""Queries for people to begin with: those of docs/sql.md, which the web page offers beside its box for SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class WorkedQuery:
    """`title` is short, `answers` says more in a sentence; `dialect` is None where both databases read it."""

    group: str
    title: str
    answers: str
    sql: str
    dialect: str | None


def worked_queries(dialect: str | None = None) -> list[WorkedQuery]:
    """Those of a database (`sqlite` or `postgresql`), or all, in the order of the file."""
    found, group = [], ""
    for part in re.split(r"(?m)^-- (?=##? )", files(__package__).joinpath("worked_queries.sql").read_text("utf-8"))[1:]:
        head, _, sql = part.partition("\n")
        if head.startswith("# "):
            group = head[2:]
            continue
        title, answers, only = _HEAD.fullmatch(head[3:]).groups()  # type: ignore[union-attr]
        found.append(WorkedQuery(group, title, answers, sql.strip().removesuffix(";"), only))
    return [query for query in found if dialect is None or query.dialect in (None, dialect)]


_HEAD = re.compile(r"([^:]+): (.*?)(?: \[(sqlite|postgresql)\])?")
