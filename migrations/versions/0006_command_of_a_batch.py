"""the command that goes on with a batch

Null in old rows: nobody knows how they were asked for.

Lock: on PostgreSQL ACCESS EXCLUSIVE on batches for the moment of adding a column; nothing is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("command", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "command")
