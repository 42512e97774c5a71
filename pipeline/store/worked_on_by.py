"""Who works on a batch now, in plain SQL, for commands that look; `attendance` writes what is read here."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pipeline.database.home import is_in_use
from pipeline.database.looking import Looking

DISPATCH = "dispatch"
"""The row of the worker host that leads: it dispatches all running batches."""


class WorkedOnBy(StrEnum):
    RUN = "run"
    WORKERS = "workers"
    NOBODY = "nobody"


def worked_on_by(db: Looking, batch_id: int, is_question: bool = False) -> WorkedOnBy:
    """Who works on a batch now; a run in a home also answers questions that are asked there."""
    is_home = db.dialect == "sqlite"
    with db.looking() as look:
        names = look.values("SELECT name FROM leaders WHERE held_until > :now", now=look.now())
    runs = [name for name in names if name == run_name(batch_id) or (is_home and is_question and name != DISPATCH)]
    if not (runs or DISPATCH in names) or (is_home and not is_in_use(Path(db.name).parent)):
        return WorkedOnBy.NOBODY
    return WorkedOnBy.RUN if runs else WorkedOnBy.WORKERS


def run_name(batch_id: int) -> str:
    """The name of the row by which a run says that it works on this batch."""
    return f"run {batch_id}"
