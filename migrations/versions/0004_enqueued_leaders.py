"""a row is enqueued, and a process leads

Names only: `rung_at` is `enqueued_at`, the index of what was enqueued follows, and the table of the process that
dispatches for all is `leaders`. Its one row is taken anew within a lease.

Lock: on PostgreSQL ACCESS EXCLUSIVE on documents and page_tasks for a moment; nothing is rewritten. On SQLite the index
is made anew, over the few rows that wait.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = ("documents", "page_tasks")


def upgrade() -> None:
    _rename("rung_at", "enqueued_at", "rung", "enqueued")
    _replace("duties", "leaders")


def downgrade() -> None:
    _replace("leaders", "duties")
    _rename("enqueued_at", "rung_at", "enqueued", "rung")


def _rename(column: str, new_column: str, index: str, new_index: str) -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO {new_column}")
        if op.get_bind().dialect.name == "postgresql":
            op.execute(f"ALTER INDEX ix_{table}_{index} RENAME TO ix_{table}_{new_index}")
        else:
            op.drop_index(f"ix_{table}_{index}", table_name=table)
            where = sa.text(f"state = 'pending' AND {new_column} IS NOT NULL")
            op.create_index(f"ix_{table}_{new_index}", table, ["batch_id", new_column], sqlite_where=where)


def _replace(table: str, new_table: str) -> None:
    op.drop_table(table)
    op.create_table(
        new_table,
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f(f"pk_{new_table}")),
    )
