"""What the public views promise, as it is written down in docs/views.txt.

python -m tests.view_contract > docs/views.txt      after a change that you mean, and a line in CHANGELOG.md
"""

from __future__ import annotations

from pathlib import Path

from schemas.column_types import VIEWS, column_type
from schemas.view_columns import COLUMNS

FILE = Path(__file__).parents[1] / "docs" / "views.txt"

_HEAD = """\
# The public views and their columns, in order: what queries of others rely on.
#
# A test holds the databases to this file, so that a change is a decision. A view, and a column at the end of its view,
# may be added; nothing is renamed, moved, taken away or given another type. After a change that you mean:
#
#     python -m tests.view_contract > docs/views.txt
#
# What each column means: README.md, and `SELECT * FROM schema_doc`.
"""


def contract() -> str:
    """The file as it must read."""
    lines = [_HEAD]
    for view in VIEWS:
        lines += [view, *(f"    {column} {column_type(column)}" for column in COLUMNS[view]), ""]
    return "\n".join(lines).rstrip() + "\n"


def promised() -> dict[str, list[tuple[str, str]]]:
    """View → its columns with their types, as the file says."""
    views: dict[str, list[tuple[str, str]]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", " ")):
            views[line] = []
        elif line.startswith(" "):
            column, kind = line.split()
            views[next(reversed(views))].append((column, kind))
    return views


if __name__ == "__main__":
    print(contract(), end="")
