"""An evaluation into the database."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.database.engine import Database
from pipeline.evaluation.evaluate import Evaluation
from pipeline.store.evaluations import record_evaluation


def keep(db: Database, found: Evaluation) -> int:
    """Its id."""
    run = {
        "kind": found.kind,
        "name": found.name,
        "answers": found.answers,
        "prompt": found.prompt,
        "worst_tenth_share": found.worst_tenth_share,
    }
    pages = [
        {
            "page_id": page.page_id,
            "answer_id": page.answer_id,
            "truth": page.truth,
            "table_score": page.table_score,
            **asdict(page.measured),
        }
        for page in found.pages
    ]
    return record_evaluation(db, run, pages, [asdict(item) for item in found.items])
