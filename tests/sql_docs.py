"""The worked queries as docs/sql.md shows them.

python -m tests.sql_docs      writes them into it, after a change of pipeline/query/worked_queries.sql
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from pipeline.query.worked_queries import WorkedQuery, worked_queries

FILE = Path(__file__).parents[1] / "docs" / "sql.md"
_BEGIN, _END = "<!-- worked queries -->\n", "<!-- end of the worked queries -->\n"
_NAMES = {None: "", "sqlite": "SQLite:\n\n", "postgresql": "PostgreSQL:\n\n"}


def section() -> str:
    """What stands between the marks, as it must read."""
    parts = []
    for group, of_group in groupby(worked_queries(), lambda query: query.group):
        parts.append(f"### {group}\n")
        for title, same in groupby(of_group, lambda query: query.title):
            versions = list(same)
            parts.append(f"**{title}.** {versions[0].answers}\n")
            parts += [f"{_NAMES[query.dialect]}```sql\n{query.sql};\n```\n" for query in versions]
    return "\n".join(parts)


def written() -> str:
    """What stands between them."""
    return FILE.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0]


def queries(dialect: str) -> list[WorkedQuery]:
    """As a reader of the page finds them, for one of the databases."""
    block = re.compile(r"(?:^(SQLite|PostgreSQL):\n\n)?^```sql\n(.*?);\n```$", re.DOTALL | re.MULTILINE)
    blocks = block.findall(written())
    texts = [sql for name, sql in blocks if name.lower() in ("", dialect)]
    titled = {query.sql: query for query in worked_queries(dialect)}
    return [titled[sql] for sql in texts]


if __name__ == "__main__":
    before, _, rest = FILE.read_text(encoding="utf-8").partition(_BEGIN)
    FILE.write_text(before + _BEGIN + section() + _END + rest.partition(_END)[2], encoding="utf-8")
