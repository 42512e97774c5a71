"""Making the index of words anew, a piece at a time; whoever searches meanwhile finds what is in it.

An answer is indexed by the transaction that stores it, so the index is never behind. It is made anew where its form has
changed with a new program (the migration says so in `search_index`), or where somebody asks for it. Each piece is a
transaction, which also says how far it is: killed, it goes on there, and two at once share the work.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import select, update

from pipeline.database.engine import Database
from pipeline.store.answers import index_words
from schemas.tables import Answer, SearchIndex

_PIECE = 500  # answers: a tenth of a second, in which nobody else writes to SQLite


def not_indexed(db: Database) -> int:
    """How many answers, at most, are yet to be put into the index."""
    with db.read() as connection:
        return int(connection.scalar(select(SearchIndex.until - SearchIndex.done)) or 0)


def begin_reindex(db: Database) -> None:
    """All answers that there are shall be put into the index anew; one that is under way goes on instead."""
    with db.write() as connection:
        newest = select(sa.func.coalesce(sa.func.max(Answer.id), 0)).scalar_subquery()
        is_done = SearchIndex.done >= SearchIndex.until
        connection.execute(update(SearchIndex).where(is_done).values(done=0, until=newest))


def reindex(db: Database) -> Iterator[int]:
    """Put answers into the index anew until all are; how many in each piece."""
    while (done := _reindex_piece(db)) is not None:
        yield done


def _reindex_piece(db: Database) -> int | None:
    """How many answers of one piece; None where nothing is left to do."""
    with db.write() as connection:
        state = connection.execute(select(SearchIndex.done, SearchIndex.until).with_for_update()).one()
        if state.done >= state.until:
            return None
        some = (
            select(Answer.id, Answer.text)
            .where(Answer.id > state.done, Answer.id <= state.until)
            .order_by(Answer.id)
            .limit(_PIECE)
            .with_for_update(key_share=True, read=True)  # nobody shall forget one that is just put in
        )
        answers = [(row.id, row.text) for row in connection.execute(some)]
        last = answers[-1][0] if len(answers) == _PIECE else state.until
        connection.execute(_EMPTY, {"done": state.done, "last": last})
        index_words(connection, answers)
        connection.execute(update(SearchIndex).values(done=last))
        return len(answers)


_EMPTY = sa.text("DELETE FROM page_search WHERE rowid > :done AND rowid <= :last")
