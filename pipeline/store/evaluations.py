"""How well answers fit a truth, into the database: one transaction for each evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from schemas.evaluation_tables import EvaluationItem, EvaluationPage, EvaluationRun


@retried
def record_evaluation(
    db: Database,
    run: Mapping[str, Any],
    pages: Sequence[Mapping[str, Any]],
    items: Sequence[Mapping[str, Any]],
) -> int:
    """Rows as the tables have them, without ids; the evaluation's own."""
    with db.write() as connection:
        evaluation_id: int | None = connection.scalar(insert(EvaluationRun).values(**run).returning(EvaluationRun.id))
        assert evaluation_id is not None
        for table, rows in ((EvaluationPage, pages), (EvaluationItem, items)):
            if rows:
                connection.execute(insert(table), [{**row, "evaluation_id": evaluation_id} for row in rows])
        return evaluation_id
