"""How many pages of a batch deserve a person's eye, and why: counts over the view `review`."""

from __future__ import annotations

from pipeline.database.looking import Look
from schemas.review import ReviewReason

_OF = "FROM review WHERE batch_id = "
_COUNTS = (
    f"SELECT reason, count(*) FROM (SELECT DISTINCT reason, document_id, page_number {_OF}:batch) o GROUP BY reason"
)


def worth_a_look(look: Look, batch_id: str) -> dict[str, int]:
    """Reason → pages that were read for this batch, the gravest first; without reasons that no page has."""
    counts = dict(look.rows(_COUNTS, batch=batch_id))
    known = [str(reason) for reason in ReviewReason]
    return {reason: counts[reason] for reason in sorted(counts, key=lambda word: [*known, word].index(word))}


def statement(batch_id: str) -> str:
    """For `pagepack sql`: those pages, the worst first."""
    columns = "source_path, page_number, reason, score, detail"
    return f"SELECT {columns} {_OF}'{batch_id}' ORDER BY score DESC, source_path, page_number"
