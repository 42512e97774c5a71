"""the tables of answers and prompts are called after what they hold: versions

`answers` and `prompts` become names of views. Constraints and the sequence keep the names that they were made with,
for SQLite renames none of them without copying the table.

Lock: on PostgreSQL ACCESS EXCLUSIVE on both tables for a moment; nothing is rewritten.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_RENAMED = {"answers": "answer_versions", "prompts": "prompt_versions"}


def upgrade() -> None:
    for name, new_name in _RENAMED.items():
        op.rename_table(name, new_name)


def downgrade() -> None:
    for name, new_name in _RENAMED.items():
        op.rename_table(new_name, name)
