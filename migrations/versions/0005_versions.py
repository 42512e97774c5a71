"""versions of answers and prompts, times and batches of attempts, sizes of pages, files as batches saw them

The tables of answers and prompts are called after what they hold: `answers` and `prompts` become names of views. Their
constraints and the sequence keep the names that they were made with, for SQLite renames none of them without copying
the table. The new columns are null in old rows, but for the moment in which a prompt was first asked: there, the start
of the first batch that asks it; and for the size and time of a file that has not changed since a batch saw it.

Lock: on PostgreSQL ACCESS EXCLUSIVE on answers, prompts, pages, page_tasks, batch_sources and task_attempts from the
renaming and the adding of columns, which rewrite nothing, to the end: one pass over batch_sources, which writes each
row, and one over pages for their index of failures.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_RENAMED = {"answers": "answer_versions", "prompts": "prompt_versions"}
_NEW: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {
    "prompt_versions": {"created_at": sa.DateTime(timezone=True)},
    "pages": {"width_pt": sa.Float(), "height_pt": sa.Float()},
    "page_tasks": {"leased_at": sa.DateTime(timezone=True)},
    "batch_sources": {"size_bytes": sa.BigInteger(), "modified_ns": sa.BigInteger()},
    "task_attempts": {"batch_id": sa.BigInteger(), "started_at": sa.DateTime(timezone=True)},
}


def upgrade() -> None:
    for name, new_name in _RENAMED.items():
        op.rename_table(name, new_name)
    for table, columns in _NEW.items():
        for column, kind in columns.items():
            op.add_column(table, sa.Column(column, kind, nullable=True))
    op.execute("""
        UPDATE prompt_versions SET created_at = (
            SELECT min(b.started_at) FROM batch_prompts bp JOIN batches b ON b.id = bp.batch_id
            WHERE bp.prompt_version = prompt_versions.version)""")
    op.execute("""
        UPDATE batch_sources SET size_bytes = s.size_bytes,
          modified_ns = CASE WHEN substr(s.location, 1, 5) = 'file:' THEN s.modified_ns END
        FROM sources s
        WHERE s.id = batch_sources.source_id
          AND coalesce(s.document_id, 0) = coalesce(batch_sources.document_id, 0)""")
    where = sa.text("cause IS NOT NULL")
    op.create_index("ix_pages_failed", "pages", ["document_id"], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_index("ix_pages_failed", table_name="pages")
    for table, columns in _NEW.items():
        for column in columns:
            op.drop_column(table, column)
    for name, new_name in _RENAMED.items():
        op.rename_table(new_name, name)
