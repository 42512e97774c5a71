"""`pagepack forget` and `prune`: every row of some paths, and of what lies at no other path, leaves the database.

    plan ──► for some documents at a time: their rows and images ──► the sources, with names of empty batches

An answer goes when no task, page, promotion or evaluation names it any more. A source is the last to go, so that a
call that died on its way is finished by the next one with the same paths. Nothing is taken from a batch that is
running, nor from a worker's hands: those would store again what was just forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, delete, select, update

from pipeline.database.engine import Database
from pipeline.database.remains import mark_remains
from pipeline.database.retry import retried
from pipeline.errors import UsageError
from pipeline.store.batches import EVALUATION_KEY, PATHS_KEY, QUESTION_KEY
from pipeline.store.conditions import is_in
from pipeline.store.cut_answers import forget_tries
from pipeline.store.forget_plan import Goes, Plan, holders_of, images_of, in_hand, in_use, parts
from schemas.base import Base
from schemas.columns import server_now
from schemas.evaluation_tables import EvaluationItem, EvaluationPage, EvaluationRun, SeenPage
from schemas.states import BatchState, TaskState
from schemas.tables import (
    Answer,
    Batch,
    BatchPrompt,
    BatchSource,
    CurrentAnswer,
    Document,
    Notice,
    Page,
    PageTask,
    PromotedAnswer,
    Promotion,
    PromptVersion,
    Source,
    TaskAttempt,
    TextLayer,
)

FORGOTTEN = "forgotten"
"""The name of a batch of which nothing is left."""

Remove = Callable[[Sequence[Goes], Sequence[str]], None]
"""Takes what lies outside the database: copies of these documents, and page images by their hashes."""


def check_allowed(db: Database) -> None:
    """Raises UsageError where a server lets this user delete nothing."""
    if db.dialect == "postgresql":
        may = "SELECT has_table_privilege('answer_versions', 'DELETE')"
        with db.read() as connection:
            if not connection.exec_driver_sql(may).scalar():
                raise UsageError(
                    f"{db.name}: this user may not forget; log in as the tables' owner, or as a member of "
                    "pagepack_owner (`GRANT pagepack_owner TO …`)"
                )


@retried
def forget_documents(db: Database, plan: Plan, documents: Sequence[Goes], remove: Remove) -> None:
    """All rows of these documents, but for those of a path where one of them has come up since the plan was made.

    `remove` is called once it is certain which go, and before that is committed: a call that died in between has their
    rows still, and is made up for by the next.

    Raises:
        UsageError: a batch of theirs is running, or a worker has one in hand.
    """
    with db.write() as connection:
        _mark_batches(connection, BatchSource.document_id.in_([one.document_id for one in documents]))
        _lock(connection, Document, Source, BatchSource, Answer)
        ids = [one.document_id for one in documents]
        holders = holders_of(connection, ids)
        ids = [one for one in ids if holders.get(one, set()) <= plan.sources.keys()]
        mine = {source for one in ids for source in holders.get(one, ())}
        if why := in_use(connection, sorted(mine)) or in_hand(db, connection, ids):
            raise UsageError(why)
        images = images_of(connection, ids, frozenset(ids))
        pages = select(Page.id).where(Page.document_id.in_(ids))
        tasks = select(PageTask.id).where(PageTask.page_id.in_(pages))
        answers = _answers(connection, pages)
        for rows in (
            delete(TaskAttempt).where(TaskAttempt.task_id.in_(tasks)),
            delete(Notice).where(Notice.document_id.in_(ids)),
            delete(CurrentAnswer).where(CurrentAnswer.page_id.in_(pages)),
            delete(PromotedAnswer).where(PromotedAnswer.page_id.in_(pages)),
            delete(SeenPage).where(SeenPage.page_id.in_(pages)),
            delete(EvaluationPage).where(EvaluationPage.page_id.in_(pages)),
            delete(EvaluationItem).where(EvaluationItem.page_id.in_(pages)),
            delete(PageTask).where(PageTask.page_id.in_(pages)),
            delete(TextLayer).where(TextLayer.page_id.in_(pages)),
            delete(Page).where(Page.document_id.in_(ids)),
            update(BatchSource).where(BatchSource.document_id.in_(ids)).values(document_id=None),
            update(Source).where(Source.document_id.in_(ids)).values(document_id=None),
            delete(Document).where(Document.id.in_(ids)),
        ):
            connection.execute(rows)
        for some in parts(answers):
            _forget_answers(connection, some)
        _forget_patterns(connection)
        mark_remains(connection)
        remove([one for one in documents if one.document_id in ids], images)


def _mark_batches(connection: Connection, of: sa.ColumnElement[bool]) -> None:
    """Who keeps counts of theirs counts anew. Before other locks, as a batch's row is always locked first."""
    batches = select(BatchSource.batch_id).where(of)
    connection.execute(update(Batch).where(Batch.id.in_(batches)).values(forgotten_at=server_now()))


def _lock(connection: Connection, *tables: type[Base]) -> None:
    """Nobody registers a file, finds an answer to store again, or asks, between a look and a deletion; reading goes on.

    Prompts are written before documents, and by no transaction with the others; nor are answers with any. So nobody
    waits for this one while it waits for him.
    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.__tablename__ for table in tables)
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")


def _answers(connection: Connection, pages: sa.Select[int]) -> Sequence[int]:
    """What these pages say, and what was said of their images but is shown no more."""
    hashes = select(Page.image_hash).where(Page.id.in_(pages), Page.image_hash.is_not(None))
    return connection.scalars(
        sa.union(
            select(PageTask.answer_id).where(PageTask.page_id.in_(pages), PageTask.answer_id.is_not(None)),
            select(CurrentAnswer.answer_id).where(CurrentAnswer.page_id.in_(pages)),
            select(Answer.id).where(Answer.image_hash.in_(hashes)),
        )
    ).all()


def _forget_patterns(connection: Connection) -> None:
    """Names of files in evaluations and promotions of which nothing is left."""
    judged = (
        select(table).where(table.evaluation_id == EvaluationRun.id) for table in (EvaluationPage, EvaluationItem)
    )
    empty = (~one.exists() for one in judged)
    connection.execute(update(EvaluationRun).where(*empty).values(name=FORGOTTEN))
    held = select(PromotedAnswer.page_id).where(PromotedAnswer.promotion_id == Promotion.id)
    pathless = update(Promotion).where(Promotion.path.is_not(None), ~held.exists())
    connection.execute(pathless.values(path=FORGOTTEN))


_FORGET_WORDS = sa.text("DELETE FROM page_search WHERE rowid IN :ids").bindparams(sa.bindparam("ids", expanding=True))


def _forget_answers(connection: Connection, answers: Sequence[int]) -> None:
    """Those that nothing names any more.

    One to an image that waits to be read on another page stays: its reader may know of it already, and name it. That
    page looks the same, so nothing is kept that it does not show; but a text that a PDF carried is not in its image.
    """
    is_text_layer = Answer.engine == "text-layer"
    unnamed = (
        ~select(PageTask.id).where(PageTask.answer_id == Answer.id).exists(),
        ~select(CurrentAnswer.page_id).where(CurrentAnswer.answer_id == Answer.id).exists(),
        # of another page with the same image, whose task has a longer answer by now
        ~select(PromotedAnswer.page_id).where(PromotedAnswer.answer_id == Answer.id).exists(),
        ~select(EvaluationPage.page_id).where(EvaluationPage.answer_id == Answer.id).exists(),
        sa.or_(is_text_layer, Answer.image_hash.not_in(_awaited_images(connection, answers))),
    )
    gone = connection.scalars(select(Answer.id).where(Answer.id.in_(answers), *unnamed)).all()
    if gone:
        connection.execute(_FORGET_WORDS, {"ids": gone})
        forget_tries(connection, gone)
        connection.execute(delete(SeenPage).where(SeenPage.answer_id.in_(gone)))  # on other pages of the image
        connection.execute(delete(Answer).where(Answer.id.in_(gone)))


def _awaited_images(connection: Connection, answers: Sequence[int]) -> Sequence[str | None]:
    """The images of these answers that wait to be read; one look at all that waits, by the indexes of what does."""
    mine = select(Answer.image_hash).where(Answer.id.in_(answers))
    waits = is_in(PageTask, TaskState.PENDING)
    looks = (
        select(Page.image_hash).join(PageTask, PageTask.page_id == Page.id).where(of, Page.image_hash.in_(mine))
        for of in (
            sa.and_(waits, PageTask.enqueued_at.is_(None)),
            sa.and_(waits, PageTask.enqueued_at.is_not(None)),
            is_in(PageTask, TaskState.LEASED),
        )
    )
    return connection.scalars(sa.union(*looks)).all()


@retried
def forget_sources(db: Database, sources: Sequence[int]) -> None:
    """The paths themselves, and the names of batches that hold no file after it. Raises as `forget_documents`.

    In one transaction, for once the paths are gone nobody finds those batches again.
    """
    with db.write() as connection:
        _mark_batches(connection, BatchSource.source_id.in_(sources))
        _lock(connection, PromptVersion, Document, Source, BatchSource, Answer)
        if why := in_use(connection, sources):
            raise UsageError(why)
        of_sources = BatchSource.source_id.in_(sources)
        batches = connection.scalars(select(BatchSource.batch_id).where(of_sources).distinct()).all()
        connection.execute(delete(BatchSource).where(of_sources))
        connection.execute(delete(Source).where(Source.id.in_(sources)))
        _forget_names(connection, batches)
        mark_remains(connection)


def _forget_names(connection: Connection, batches: Sequence[int]) -> None:
    """A batch that holds no file any more keeps its row alone: somebody may follow it.

    Its command goes, for it names the paths. So does a name that was made of them, and its key, so that the same paths
    make a new batch. The question of an `ask` goes where nobody else has asked it. A batch that was paused while its
    files were still being registered may yet hold some.
    """
    held = select(BatchSource.source_id).where(BatchSource.batch_id == Batch.id)
    ended = Batch.state.in_([BatchState.FINISHED, BatchState.CANCELLED])
    is_still = sa.or_(ended, sa.and_(Batch.state == BatchState.PAUSED, Batch.all_seen))
    named_after = (PATHS_KEY, QUESTION_KEY, EVALUATION_KEY)
    of_paths = sa.or_(*(Batch.key.startswith(kind, autoescape=True) for kind in named_after))
    for some in parts(batches):
        is_empty = (Batch.id.in_(some), is_still, ~held.exists())
        asked = select(Batch.id).where(*is_empty, Batch.key.startswith(QUESTION_KEY, autoescape=True))
        of_asked = BatchPrompt.batch_id.in_(asked)
        questions = connection.scalars(select(BatchPrompt.prompt_version).where(of_asked).distinct()).all()
        connection.execute(delete(BatchPrompt).where(of_asked))
        _forget_prompts(connection, questions)
        empty = update(Batch).where(*is_empty)
        connection.execute(empty.values(command=None))
        key = sa.literal(f"{FORGOTTEN}:") + Batch.public_id
        connection.execute(empty.where(of_paths).values(name=FORGOTTEN, key=key))


def _forget_prompts(connection: Connection, versions: Sequence[str]) -> None:
    named = (
        select(table.prompt_version).where(table.prompt_version == PromptVersion.version).exists()
        for table in (BatchPrompt, PageTask, Answer)
    )
    connection.execute(delete(PromptVersion).where(PromptVersion.version.in_(versions), *(~one for one in named)))
