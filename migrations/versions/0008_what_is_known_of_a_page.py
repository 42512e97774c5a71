"""what is known of a page and its reading: resolution, print, angle, doubts, the text layer's verdict, gone paths

Null in old rows: nobody measured it.

Lock: on PostgreSQL ACCESS EXCLUSIVE on pages, text_layers, answer_versions and sources for the moment of adding a
column; nothing is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pages", sa.Column("dpi", sa.Float(), nullable=True))
    op.add_column("pages", sa.Column("print_px", sa.Float(), nullable=True))
    op.add_column("documents", sa.Column("detail", sa.String(16), nullable=False, server_default="page"))
    op.add_column("batches", sa.Column("detail", sa.String(16), nullable=False, server_default="auto"))
    op.add_column("text_layers", sa.Column("verdict", sa.String(32), nullable=True))
    op.add_column("text_layers", sa.Column("boxes", sa.JSON(), nullable=True))
    op.add_column("answer_versions", sa.Column("angle", sa.Float(), nullable=True))
    op.add_column("answer_versions", sa.Column("review_reason", sa.String(32), nullable=True))
    op.add_column("answer_versions", sa.Column("review_score", sa.Float(), nullable=True))
    op.add_column("sources", sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sources", sa.Column("members_mark", sa.String(64), nullable=True))


def downgrade() -> None:
    op.drop_column("sources", "members_mark")
    op.drop_column("sources", "gone_at")
    op.drop_column("answer_versions", "review_score")
    op.drop_column("answer_versions", "review_reason")
    op.drop_column("answer_versions", "angle")
    op.drop_column("text_layers", "boxes")
    op.drop_column("text_layers", "verdict")
    op.drop_column("batches", "detail")
    op.drop_column("documents", "detail")
    op.drop_column("pages", "print_px")
    op.drop_column("pages", "dpi")
