"""share the work among machines

Batches get a priority, a task to notify and two states more; indexes of what waits that stay small; tables of the
workers, of the one duty that a single process has, and of the outbox.

Lock: on PostgreSQL ACCESS EXCLUSIVE on batches and pages for the moment of adding columns without a rewrite, and SHARE
on documents, page_tasks and pages while their indexes are built: workers wait as long.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_WORK = {
    "due": (["batch_id", "state", "id"], "state = 'pending' AND rung_at IS NULL"),
    "rung": (["batch_id", "rung_at"], "state = 'pending' AND rung_at IS NOT NULL"),
}


def _partial_index(table: str, name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(f"ix_{table}_{name}", table, columns, unique=False, sqlite_where=where, postgresql_where=where)


def _states(names: str) -> None:
    with op.batch_alter_table("batches") as batch:
        batch.drop_constraint(op.f("ck_batches_state"), type_="check")
        batch.create_check_constraint(op.f("ck_batches_state"), f"state IN ({names})")


def upgrade() -> None:
    with op.batch_alter_table("batches") as batch:
        batch.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("notify", sa.Text(), nullable=True))
        batch.add_column(sa.Column("all_seen", sa.Boolean(), nullable=False, server_default=sa.true()))
    _states("'running', 'paused', 'finished', 'cancelled'")
    op.add_column("pages", sa.Column("image_freed_at", sa.DateTime(timezone=True), nullable=True))
    _partial_index("pages", "kept", ["created_at"], "image_hash IS NOT NULL AND image_freed_at IS NULL")
    _partial_index("pages", "image", ["image_hash"], "image_hash IS NOT NULL AND image_freed_at IS NULL")
    for table in ("documents", "page_tasks"):
        for name, (columns, condition) in _WORK.items():
            _partial_index(table, name, columns, condition)
    op.create_table(
        "worker_processes",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_worker_processes")),
    )
    op.create_table(
        "duties",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )
    op.create_table(
        "notices",
        sa.Column("id", Key, nullable=False),
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("document_id", Key, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_notices_batch_id")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_notices_document_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("batch_id", "document_id", name=op.f("uq_notices_batch_id_document_id")),
    )
    _partial_index("notices", "unsent", ["id"], "sent_at IS NULL")


def downgrade() -> None:
    for table in ("notices", "duties", "worker_processes"):
        op.drop_table(table)
    for table in ("documents", "page_tasks"):
        for name in _WORK:
            op.drop_index(f"ix_{table}_{name}", table_name=table)
    op.drop_index("ix_pages_image", table_name="pages")
    op.drop_index("ix_pages_kept", table_name="pages")
    op.execute("UPDATE batches SET state = 'running' WHERE state = 'paused'")
    op.execute("UPDATE batches SET state = 'finished' WHERE state = 'cancelled'")
    _states("'running', 'finished'")
    with op.batch_alter_table("batches") as batch:
        batch.drop_column("all_seen")
        batch.drop_column("notify")
        batch.drop_column("priority")
    with op.batch_alter_table("pages") as pages:
        pages.drop_column("image_freed_at")
