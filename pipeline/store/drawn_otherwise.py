"""Files of a batch whose pages were drawn before, at another detail or for another model: they keep their images.

In plain SQL: the closing summary looks without SQLAlchemy.
"""

from __future__ import annotations

from pipeline.database.looking import Looking

_DRAWN_OTHERWISE = """SELECT d.detail, b.detail AS wished, count(*) FROM batch_sources s
JOIN batches b ON b.id = s.batch_id JOIN documents d ON d.id = s.document_id
WHERE s.batch_id = :batch AND d.detail <> b.detail AND EXISTS (SELECT 1 FROM pages p WHERE p.document_id = d.id)
GROUP BY d.detail, b.detail"""


def files_drawn_otherwise(db: Looking, batch_id: int) -> int:
    """Of which another batch had the pages drawn at another `--detail`, or for another model."""
    with db.looking() as look:
        return sum(count for _, _, count in look.rows(_DRAWN_OTHERWISE, batch=batch_id))


def files_drawn_for_another_model(db: Looking, batch_id: int) -> int:
    """Of these, those that differ in the model: it stands behind the detail, as `raster.py` there keeps it."""
    with db.looking() as look:
        drawn = look.rows(_DRAWN_OTHERWISE, batch=batch_id)
    return sum(count for one, wished, count in drawn if one.partition(" ")[2] != wished.partition(" ")[2])
