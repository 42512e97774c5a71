"""views that say what they are; and what else is new for people who search, look and export

Open until it is released: what needs a column, a table or an index now adds it here, going up and down.

`schema_doc` gains the type and the place of each column, and what a row of its view is; its rows are written anew with
the views.

The index of words is of a new form: marks belong to their words, characters of scripts without spaces are in pairs. On
SQLite it begins empty, on PostgreSQL with the words of older answers as they were. `search_index` says how many of
them were put into it anew; `pagepack db upgrade` and `db reindex` do that.

Answers and attempts say how many tokens of a draft were tried, and how many the model took; null: none were.

Lock: on PostgreSQL ACCESS EXCLUSIVE on schema_doc, answer_versions and task_attempts for the moment of adding columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_WORDS = "unicode61 remove_diacritics 2"


def upgrade() -> None:
    op.add_column("schema_doc", sa.Column("column_type", sa.Text(), nullable=True))
    op.add_column("schema_doc", sa.Column("view_meaning", sa.Text(), nullable=True))
    op.add_column("schema_doc", sa.Column("column_number", sa.Integer(), nullable=True))
    for table in ("answer_versions", "task_attempts"):
        for column in ("drafted_tokens", "accepted_tokens"):
            op.add_column(table, sa.Column(column, sa.Integer(), nullable=True))
    op.create_table(
        "search_index",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("done", _KEY, nullable=False),
        sa.Column("until", _KEY, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_index")),
    )
    op.execute("INSERT INTO search_index (id, done, until) SELECT 1, 0, coalesce(max(id), 0) FROM answer_versions")
    if op.get_bind().dialect.name == "sqlite":
        op.drop_table("page_search")
        tokenize = f"\"{_WORDS} categories 'L* M* N* Co Cn'\""
        op.execute(f"CREATE VIRTUAL TABLE page_search USING fts5(terms, aside, tokenize = {tokenize})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("ALTER TABLE page_search RENAME TO newer_page_search")
        op.execute(f"CREATE VIRTUAL TABLE page_search USING fts5(terms, tokenize = '{_WORDS}')")
        op.execute("INSERT INTO page_search (rowid, terms) SELECT rowid, terms FROM newer_page_search")
        op.drop_table("newer_page_search")
    op.drop_table("search_index")
    for table in ("task_attempts", "answer_versions"):
        for column in ("accepted_tokens", "drafted_tokens"):
            op.drop_column(table, column)
    op.drop_column("schema_doc", "column_number")
    op.drop_column("schema_doc", "view_meaning")
    op.drop_column("schema_doc", "column_type")
