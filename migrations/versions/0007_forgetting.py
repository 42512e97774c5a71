"""indexes for forgetting: which tasks an answer serves, which notices tell of a document

Without them each answer and each document that is deleted costs a look at all tasks and all notices: the database sees
to it that none names what is gone.

Lock: on PostgreSQL SHARE on page_tasks and notices, in turn, while each is read once; a second for a million rows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("answer_id IS NOT NULL")
    op.create_index("ix_page_tasks_answer", "page_tasks", ["answer_id"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_notices_document_id", "notices", ["document_id"])


def downgrade() -> None:
    op.drop_index("ix_notices_document_id", table_name="notices")
    op.drop_index("ix_page_tasks_answer", table_name="page_tasks")
