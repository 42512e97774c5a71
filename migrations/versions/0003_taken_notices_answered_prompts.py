"""notices are taken, readers say which prompts they answer

A notice that was sent may lie in its queue still, and is sent again where the broker loses it. What was sent before
this counts as taken.

Lock: on PostgreSQL ACCESS EXCLUSIVE on notices while each of its rows is updated (seconds for a million): whoever
finishes a document that somebody shall be told of waits as long; on worker_processes for a moment.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("notices", sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE notices SET taken_at = sent_at")
    where = sa.text("sent_at IS NOT NULL AND taken_at IS NULL")
    op.create_index("ix_notices_lying", "notices", ["batch_id"], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "broker_marks",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_broker_marks")),
    )
    op.add_column("worker_processes", sa.Column("prompts", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("worker_processes", "prompts")
    op.drop_table("broker_marks")
    op.drop_index("ix_notices_lying", table_name="notices")
    op.drop_column("notices", "taken_at")
