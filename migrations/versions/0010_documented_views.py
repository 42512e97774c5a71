"""views that say what they are; and what else is new for people who search, look and export

Open for today: until it is released, what needs a column, a table or an index of now adds it here, going up and down.

`schema_doc` gains the type and the place of each column, and what a row of its view is; its rows are
written anew with the views.

Lock: on PostgreSQL ACCESS EXCLUSIVE on schema_doc for the moment of adding columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schema_doc", sa.Column("column_type", sa.Text(), nullable=True))
    op.add_column("schema_doc", sa.Column("view_meaning", sa.Text(), nullable=True))
    op.add_column("schema_doc", sa.Column("column_number", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("schema_doc", "column_number")
    op.drop_column("schema_doc", "view_meaning")
    op.drop_column("schema_doc", "column_type")
