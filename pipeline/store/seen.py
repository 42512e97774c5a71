"""Marks of reviewers: this answer was seen on this page. The answer that a page shows after it has none."""

from __future__ import annotations

import sqlalchemy as sa

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from schemas.columns import server_now
from schemas.evaluation_tables import SeenPage
from schemas.tables import CurrentAnswer


@retried
def mark_seen(db: Database, page_id: int, answer_id: int) -> bool:
    """False where the page shows another answer by now: whoever marks it has not seen that one."""
    shown = sa.select(CurrentAnswer.page_id, CurrentAnswer.answer_id, server_now())
    shown = shown.where(CurrentAnswer.page_id == page_id, CurrentAnswer.answer_id == answer_id)
    mark = sa.select(SeenPage.page_id).where(SeenPage.page_id == page_id, SeenPage.answer_id == answer_id)
    with db.write() as connection:
        if connection.execute(mark).first() is not None:
            return True
        columns = [SeenPage.page_id, SeenPage.answer_id, SeenPage.seen_at]
        found = connection.execute(sa.insert(SeenPage).from_select(columns, shown))
        return bool(found.rowcount)


@retried
def mark_unseen(db: Database, page_id: int, answer_id: int) -> None:
    with db.write() as connection:
        mark = sa.delete(SeenPage).where(SeenPage.page_id == page_id, SeenPage.answer_id == answer_id)
        connection.execute(mark)
