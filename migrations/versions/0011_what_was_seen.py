"""pages that reviewers have seen; and when files of a batch were forgotten

Open until it is released: what needs a column, a table or an index now adds it here, going up and down.

A mark is of a page and an answer: a page that is read anew, or shows another answer, is to be seen again.

`batches.forgotten_at` tells who holds counts of a batch that they are of no use any more; null: nothing was forgotten.

Lock: on PostgreSQL ACCESS EXCLUSIVE on batches for the moment of adding a column, which rewrites nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "seen_pages",
        sa.Column("page_id", _KEY, nullable=False),
        sa.Column("answer_id", _KEY, nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["page_id"], ["pages.id"], name=op.f("fk_seen_pages_page_id")),
        sa.ForeignKeyConstraint(["answer_id"], ["answer_versions.id"], name=op.f("fk_seen_pages_answer_id")),
        sa.PrimaryKeyConstraint("page_id", "answer_id", name=op.f("pk_seen_pages")),
    )
    for column in ("answer_id", "seen_at"):
        op.create_index(op.f(f"ix_seen_pages_{column}"), "seen_pages", [column])
    op.add_column("batches", sa.Column("forgotten_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "forgotten_at")
    op.drop_table("seen_pages")
