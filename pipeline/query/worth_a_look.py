"""Pages that were read and yet deserve a person's eye: answers that were cut off, or that their engine doubts."""

from __future__ import annotations

import sqlalchemy as sa

from pipeline.database.engine import Database

# RapidOCR reads print that lies right at above 0.9 and a page on its head at under 0.75; below 0.8 it doubts the page
# itself, and tries it turned (workers/engines/rapidocr.py). Other engines have no confidence.
DOUBTED_BELOW = 0.8

_IS = {
    "length": "finish_reason = 'length'",
    "deadline": "finish_reason = 'deadline'",
    "confidence": f"confidence < {DOUBTED_BELOW}",
}
_OF = f"FROM answers WHERE batch_id = '{{}}' AND is_current AND ({' OR '.join(_IS.values())})"


def worth_a_look(db: Database, batch_id: str) -> dict[str, int]:
    """Reason → pages that were read for this batch; without reasons that no page has."""
    counts = ", ".join(
        f"count(DISTINCT CASE WHEN {condition} THEN document_id || ' ' || page_number END)"
        for condition in _IS.values()
    )
    with db.read() as connection:
        row = connection.execute(sa.text(f"SELECT {counts} {_OF.format(batch_id)}")).one()
    return {reason: count for reason, count in zip(_IS, row, strict=True) if count}


def statement(batch_id: str) -> str:
    """For `pagepack sql`: those pages, the most doubtful first."""
    return f"SELECT source_path, page_number, finish_reason, confidence {_OF.format(batch_id)} ORDER BY confidence"
