"""a file whose pages are being drawn again stays what it was

Only the views `files` and `batch_summary` say otherwise, and those are made anew by every migration.

Lock: on PostgreSQL ACCESS EXCLUSIVE on the views, for a moment.
"""

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
