"""create the tables

Lock: none; nothing is there yet.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Path = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    leased = sa.text("state = 'leased'")
    op.create_table(
        "batches",
        sa.Column("id", Key, nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("text_layer", sa.String(length=16), nullable=False),
        sa.Column("all_pages", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'finished')", name=op.f("ck_batches_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("key", name=op.f("uq_batches_key")),
        sa.UniqueConstraint("public_id", name=op.f("uq_batches_public_id")),
    )
    op.create_table(
        "prompts",
        sa.Column("version", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_prompts")),
    )
    op.create_table(
        "answers",
        sa.Column("id", Key, nullable=False),
        sa.Column("image_hash", sa.String(length=64), nullable=False),
        sa.Column("prompt_version", sa.String(length=16), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["prompt_version"], ["prompts.version"], name=op.f("fk_answers_prompt_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        sa.UniqueConstraint(
            "image_hash", "prompt_version", "model", name=op.f("uq_answers_image_hash_prompt_version_model")
        ),
    )
    op.create_table(
        "batch_pages",
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("first_index", sa.Integer(), nullable=False),
        sa.Column("last_index", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_pages_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "first_index", name=op.f("pk_batch_pages")),
    )
    op.create_table(
        "batch_prompts",
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("prompt_version", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_prompts_batch_id")),
        sa.ForeignKeyConstraint(["prompt_version"], ["prompts.version"], name=op.f("fk_batch_prompts_prompt_version")),
        sa.PrimaryKeyConstraint("batch_id", "prompt_version", name=op.f("pk_batch_prompts")),
    )
    op.create_table(
        "documents",
        sa.Column("id", Key, nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("page_count", sa.Integer(), nullable=True),
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=False),
        sa.Column("rung_at", sa.Float(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'leased', 'ready', 'failed', 'rejected')", name=op.f("ck_documents_state")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_documents_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
        sa.UniqueConstraint("content_hash", name=op.f("uq_documents_content_hash")),
        sa.UniqueConstraint("public_id", name=op.f("uq_documents_public_id")),
    )
    op.create_index("ix_documents_batch_state", "documents", ["batch_id", "state"], unique=False)
    op.create_index(
        "ix_documents_leased",
        "documents",
        ["owner"],
        unique=False,
        sqlite_where=leased,
        postgresql_where=leased,
    )
    op.create_table(
        "pages",
        sa.Column("id", Key, nullable=False),
        sa.Column("document_id", Key, nullable=False),
        sa.Column("page_index", sa.Integer(), nullable=False),
        sa.Column("image_hash", sa.String(length=64), nullable=True),
        sa.Column("width_px", sa.Integer(), nullable=True),
        sa.Column("height_px", sa.Integer(), nullable=True),
        sa.Column("warnings", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(image_hash IS NULL) <> (cause IS NULL)", name=op.f("ck_pages_image_or_cause")),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_pages_document_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pages")),
        sa.UniqueConstraint("document_id", "page_index", name=op.f("uq_pages_document_id_page_index")),
    )
    op.create_table(
        "sources",
        sa.Column("id", Key, nullable=False),
        sa.Column("path", Path, nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("document_id", Key, nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("modified_ns", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_sources_document_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("path", name=op.f("uq_sources_path")),
    )
    op.create_index(op.f("ix_sources_document_id"), "sources", ["document_id"], unique=False)
    op.create_table(
        "batch_sources",
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("source_id", Key, nullable=False),
        sa.Column("document_id", Key, nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name=op.f("fk_batch_sources_document_id")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_sources_batch_id")),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_batch_sources_source_id")),
        sa.PrimaryKeyConstraint("batch_id", "source_id", name=op.f("pk_batch_sources")),
    )
    op.create_index(op.f("ix_batch_sources_source_id"), "batch_sources", ["source_id"], unique=False)
    op.create_index(op.f("ix_batch_sources_document_id"), "batch_sources", ["document_id"], unique=False)
    op.create_table(
        "current_answers",
        sa.Column("page_id", Key, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("answer_id", Key, nullable=False),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name=op.f("fk_current_answers_answer_id")),
        sa.ForeignKeyConstraint(["page_id"], ["pages.id"], name=op.f("fk_current_answers_page_id")),
        sa.PrimaryKeyConstraint("page_id", "prompt", name=op.f("pk_current_answers")),
    )
    op.create_index(op.f("ix_current_answers_answer_id"), "current_answers", ["answer_id"], unique=False)
    op.create_table(
        "page_tasks",
        sa.Column("id", Key, nullable=False),
        sa.Column("page_id", Key, nullable=False),
        sa.Column("prompt_version", sa.String(length=16), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("batch_id", Key, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Float(), nullable=False),
        sa.Column("rung_at", sa.Float(), nullable=True),
        sa.Column("answer_id", Key, nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'leased') = (owner IS NOT NULL)", name=op.f("ck_page_tasks_leased_has_owner")),
        sa.CheckConstraint("state <> 'done' OR answer_id IS NOT NULL", name=op.f("ck_page_tasks_done_has_answer")),
        sa.CheckConstraint("state IN ('pending', 'leased', 'done', 'failed')", name=op.f("ck_page_tasks_state")),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name=op.f("fk_page_tasks_answer_id")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_page_tasks_batch_id")),
        sa.ForeignKeyConstraint(["page_id"], ["pages.id"], name=op.f("fk_page_tasks_page_id")),
        sa.ForeignKeyConstraint(["prompt_version"], ["prompts.version"], name=op.f("fk_page_tasks_prompt_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_page_tasks")),
        sa.UniqueConstraint(
            "page_id", "prompt_version", "model", name=op.f("uq_page_tasks_page_id_prompt_version_model")
        ),
    )
    op.create_index("ix_page_tasks_batch_state", "page_tasks", ["batch_id", "state"], unique=False)
    op.create_index(
        "ix_page_tasks_leased",
        "page_tasks",
        ["owner"],
        unique=False,
        sqlite_where=leased,
        postgresql_where=leased,
    )
    op.create_table(
        "text_layers",
        sa.Column("page_id", Key, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["page_id"], ["pages.id"], name=op.f("fk_text_layers_page_id")),
        sa.PrimaryKeyConstraint("page_id", name=op.f("pk_text_layers")),
    )
    op.create_table(
        "task_attempts",
        sa.Column("id", Key, nullable=False),
        sa.Column("task_id", Key, nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.String(length=16), nullable=True),
        sa.Column("temperature", sa.Float(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["page_tasks.id"], name=op.f("fk_task_attempts_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_attempts")),
        sa.UniqueConstraint("task_id", "token", name=op.f("uq_task_attempts_task_id_token")),
    )
    op.create_table(
        "schema_doc",
        sa.Column("view_name", sa.Text(), primary_key=True),
        sa.Column("column_name", sa.Text(), primary_key=True),
        sa.Column("meaning", sa.Text(), nullable=False),
    )
    # The index of words; CJK characters are set apart by the writer, so that each is a term of its own.
    if op.get_bind().dialect.name == "sqlite":
        op.execute("CREATE VIRTUAL TABLE page_search USING fts5(terms, tokenize = 'unicode61 remove_diacritics 2')")
    else:
        op.execute("CREATE TABLE page_search (rowid bigint PRIMARY KEY, terms tsvector NOT NULL)")
        op.execute("CREATE INDEX ix_page_search_terms ON page_search USING gin (terms)")


def downgrade() -> None:
    op.drop_table("page_search")
    op.drop_table("schema_doc")
    op.drop_table("task_attempts")
    op.drop_table("text_layers")
    op.drop_index("ix_page_tasks_leased", table_name="page_tasks")
    op.drop_index("ix_page_tasks_batch_state", table_name="page_tasks")
    op.drop_table("page_tasks")
    op.drop_index(op.f("ix_current_answers_answer_id"), table_name="current_answers")
    op.drop_table("current_answers")
    op.drop_index(op.f("ix_batch_sources_document_id"), table_name="batch_sources")
    op.drop_index(op.f("ix_batch_sources_source_id"), table_name="batch_sources")
    op.drop_table("batch_sources")
    op.drop_index(op.f("ix_sources_document_id"), table_name="sources")
    op.drop_table("sources")
    op.drop_table("pages")
    op.drop_index("ix_documents_leased", table_name="documents")
    op.drop_index("ix_documents_batch_state", table_name="documents")
    op.drop_table("documents")
    op.drop_table("batch_prompts")
    op.drop_table("batch_pages")
    op.drop_table("answers")
    op.drop_table("prompts")
    op.drop_table("batches")
