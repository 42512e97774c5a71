"""docs/sql.md shows the worked queries as they are shipped."""

from __future__ import annotations

from pipeline.query.worked_queries import worked_queries
from tests.sql_docs import queries, section, written


def test_the_page_shows_the_queries_that_are_shipped() -> None:
    assert written() == section(), "python -m tests.sql_docs writes them into docs/sql.md"


def test_a_reader_of_the_page_finds_each_query_of_his_database() -> None:
    for dialect in ("sqlite", "postgresql"):
        assert queries(dialect) == worked_queries(dialect) and len(queries(dialect)) > 25
    titles = [query.title for query in worked_queries("sqlite")]
    assert len(set(titles)) == len(titles) and titles == [query.title for query in worked_queries("postgresql")]
