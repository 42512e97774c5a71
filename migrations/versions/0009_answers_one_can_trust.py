"""promotions, evaluations, and what is known of how an answer came about

Promotions: which answers people chose to be current, and what would be current without that. A page that no promotion
holds has null in both new columns of `current_answers`. Evaluations: how well answers fit a truth; answers of older
batches are shown. What was not known of older answers is null in their rows.

Costs: of an answer and of an attempt, where a server charges for it, and how much a batch may cost.

Whether a page is blank by its picture; null in old rows, for nobody looked.

Tries at an answer, the tokens of one that was cut, and how far it shall go on.

Lock: on PostgreSQL ACCESS EXCLUSIVE on current_answers, answer_versions, task_attempts, page_tasks, pages and batches
for the moment of adding columns, which rewrites nothing, and SHARE on the first and the third while they are read once
for an index that is empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_COSTS = sa.text("cost IS NOT NULL")
_IS_HELD = sa.text("promotion_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "answer_promotions",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("answers", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("batch_id", sa.String(36), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rolled_back_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_promotions")),
    )
    op.create_table(
        "promoted_answers",
        sa.Column("page_id", _KEY, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("promotion_id", _KEY, nullable=False),
        sa.Column("answer_id", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["page_id"], ["pages.id"], name=op.f("fk_promoted_answers_page_id")),
        sa.ForeignKeyConstraint(
            ["promotion_id"], ["answer_promotions.id"], name=op.f("fk_promoted_answers_promotion_id")
        ),
        sa.ForeignKeyConstraint(["answer_id"], ["answer_versions.id"], name=op.f("fk_promoted_answers_answer_id")),
        sa.PrimaryKeyConstraint("page_id", "prompt", "promotion_id", name=op.f("pk_promoted_answers")),
    )
    for column in ("promotion_id", "answer_id"):
        op.create_index(op.f(f"ix_promoted_answers_{column}"), "promoted_answers", [column])
    op.add_column("current_answers", sa.Column("promotion_id", _KEY, nullable=True))
    op.add_column("current_answers", sa.Column("latest_answer_id", _KEY, nullable=True))
    op.create_index(
        "ix_current_answers_held",
        "current_answers",
        ["promotion_id"],
        sqlite_where=_IS_HELD,
        postgresql_where=_IS_HELD,
    )
    op.add_column("answer_versions", sa.Column("lowest_confidence", sa.Float(), nullable=True))
    op.add_column("answer_versions", sa.Column("cost", sa.Float(), nullable=True))
    op.add_column("task_attempts", sa.Column("cost", sa.Float(), nullable=True))
    op.add_column("task_attempts", sa.Column("text", sa.Text(), nullable=True))
    op.create_index(
        "ix_task_attempts_cost", "task_attempts", ["batch_id", "cost"], sqlite_where=_COSTS, postgresql_where=_COSTS
    )
    op.add_column("batches", sa.Column("max_cost", sa.Float(), nullable=True))
    op.add_column("pages", sa.Column("is_blank", sa.Boolean(), nullable=True))
    op.add_column("batches", sa.Column("shows_answers", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_table(
        "evaluation_runs",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("answers", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("worst_tenth_share", sa.Float(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_runs")),
    )
    op.create_table(
        "evaluation_pages",
        sa.Column("evaluation_id", _KEY, nullable=False),
        sa.Column("page_id", _KEY, nullable=False),
        sa.Column("answer_id", _KEY, nullable=False),
        sa.Column("truth", sa.String(32), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("recall", "precision")),
        sa.Column("table_score", sa.Float(), nullable=True),
        *_of_evaluation("evaluation_pages"),
        sa.PrimaryKeyConstraint("evaluation_id", "page_id", name=op.f("pk_evaluation_pages")),
    )
    op.create_table(
        "evaluation_items",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("evaluation_id", _KEY, nullable=False),
        sa.Column("page_id", _KEY, nullable=True),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        *_of_evaluation("evaluation_items"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_items")),
    )
    for table, columns in _INDEXES.items():
        for column in columns:
            op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
    op.create_table(
        "endpoint_jobs",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_endpoint_jobs")),
    )
    op.create_table(
        "endpoint_job_pages",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("page", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["endpoint_jobs.key"], name=op.f("fk_endpoint_job_pages_key")),
        sa.PrimaryKeyConstraint("key", "page", name=op.f("pk_endpoint_job_pages")),
    )
    op.create_index(op.f("ix_endpoint_job_pages_page"), "endpoint_job_pages", ["page"])
    op.add_column("answer_versions", sa.Column("token_ids", sa.Text(), nullable=True))
    op.add_column("page_tasks", sa.Column("max_tokens", sa.Integer(), nullable=True))
    op.create_table(
        "answer_tries",
        sa.Column("answer_id", _KEY, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(16), nullable=True),
        sa.Column("temperature", sa.Float(), nullable=True),
        sa.Column("angle", sa.Float(), nullable=True),
        sa.Column("tiles", sa.Integer(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("is_chosen", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["answer_id"], ["answer_versions.id"], name=op.f("fk_answer_tries_answer_id")),
        sa.PrimaryKeyConstraint("answer_id", "number", name=op.f("pk_answer_tries")),
    )


_COUNTS = ("characters", "character_errors", "words", "word_errors")
_INDEXES = {"evaluation_pages": ("page_id", "answer_id"), "evaluation_items": ("evaluation_id", "page_id")}


def _of_evaluation(table: str) -> list[sa.ForeignKeyConstraint]:
    keys = {"evaluation_id": "evaluation_runs.id", "page_id": "pages.id", "answer_id": "answer_versions.id"}
    if table == "evaluation_items":
        del keys["answer_id"]
    return [
        sa.ForeignKeyConstraint([column], [other], name=op.f(f"fk_{table}_{column}")) for column, other in keys.items()
    ]


def downgrade() -> None:
    op.drop_table("endpoint_job_pages")
    op.drop_table("endpoint_jobs")
    op.drop_table("answer_tries")
    op.drop_column("page_tasks", "max_tokens")
    op.drop_column("answer_versions", "token_ids")
    op.drop_column("pages", "is_blank")
    op.drop_table("evaluation_items")
    op.drop_table("evaluation_pages")
    op.drop_table("evaluation_runs")
    op.drop_column("batches", "shows_answers")
    op.drop_column("batches", "max_cost")
    op.drop_index("ix_task_attempts_cost", table_name="task_attempts")
    op.drop_column("task_attempts", "text")
    op.drop_column("task_attempts", "cost")
    op.drop_column("answer_versions", "cost")
    op.drop_column("answer_versions", "lowest_confidence")
    op.drop_index("ix_current_answers_held", table_name="current_answers")
    op.drop_column("current_answers", "latest_answer_id")
    op.drop_column("current_answers", "promotion_id")
    op.drop_table("promoted_answers")
    op.drop_table("answer_promotions")
