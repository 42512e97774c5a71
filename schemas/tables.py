"""The tables. They are ours to change through migrations; people query the views (`views.py`).

    batches ──< batch_sources >── sources ──> documents ──< pages ──< page_tasks ──> answer_versions
       ├──< batch_prompts >── prompt_versions                  ├── current_answers ──────┤
       └──< notices                      answer_promotions ──< └── promoted_answers ─────┘

A *source* is a path; a *document* is content, so one document may lie at many paths. A *page task* is the hot, narrow
row that workers lease: one page, one prompt, one model. An *answer* is keyed by page image, prompt version (its hash
covers the sampling parameters) and model, so the same page in ten folders is read once. `current_answers` says which
answer a page shows for a prompt's name, and `answer_promotions` where people chose it.

Times that people read are UTC datetimes; those that leases are computed with are seconds since the epoch.

Over 300 lines: the tables are read side by side. Those of processes and of evaluations are in modules of their own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Float, ForeignKey, Index, String, UniqueConstraint, true
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base, Key, one_of, partial_index
from schemas.columns import ByteOrderedText, StorableText, server_now, utc_now, uuid7
from schemas.states import BatchState, DocumentState, TaskState


def _work_indexes(table: str) -> tuple[Index, ...]:
    """Who holds what; what waits for its first message, in order; whose message may be lost. Small in any table."""
    return (
        partial_index(table, "leased", ("owner",), "state = 'leased'"),
        # With the state again, for SQLite prefers an index of which it can match more columns, whatever the rows.
        partial_index(table, "due", ("batch_id", "state", "id"), "state = 'pending' AND enqueued_at IS NULL"),
        partial_index(table, "enqueued", ("batch_id", "enqueued_at"), "state = 'pending' AND enqueued_at IS NOT NULL"),
    )


class Batch(Base):
    """One job of one user: paths, prompts and a wished engine. `key` finds it again when the command is repeated."""

    __tablename__ = "batches"
    __table_args__ = (one_of("state", BatchState),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(36), unique=True, default=uuid7)
    key: Mapped[str] = mapped_column(StorableText, unique=True)
    name: Mapped[str] = mapped_column(StorableText)
    state: Mapped[str] = mapped_column(String(16), default=BatchState.RUNNING)
    engine: Mapped[str] = mapped_column(StorableText)
    model: Mapped[str] = mapped_column(StorableText)  # fingerprint of what shall read; "" where any may
    text_layer: Mapped[str] = mapped_column(String(16))
    all_pages: Mapped[bool] = mapped_column(default=True)  # else those in `batch_pages`
    detail: Mapped[str] = mapped_column(String(16), default="auto", server_default="auto")  # of documents new to it
    priority: Mapped[int] = mapped_column(default=0, server_default="0")  # higher goes first; equal ones share
    notify: Mapped[str | None] = mapped_column(
        StorableText
    )  # `TASK` or `TASK@QUEUE`, sent for each document that is done
    all_seen: Mapped[bool] = mapped_column(default=True, server_default=true())  # false while its files are being seen
    # False of an evaluation, whose answers are current only where a page has none
    shows_answers: Mapped[bool] = mapped_column(default=True, server_default=true())
    started_at: Mapped[datetime] = mapped_column(default=server_now())
    finished_at: Mapped[datetime | None]
    # Words of the `pagepack run` or `ask` that goes on with it; null: workers do, or it is an old one
    command: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    max_cost: Mapped[float | None] = mapped_column(Float)  # its pages are read until it has cost so much
    forgotten_at: Mapped[datetime | None]  # when a file of it was, the last time


class PromptVersion(Base):
    """A prompt as it was asked; `version` is the hash of text and parameters."""

    __tablename__ = "prompt_versions"

    version: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(StorableText)
    text: Mapped[str] = mapped_column(StorableText)
    parameters: Mapped[dict[str, Any]]
    created_at: Mapped[datetime | None] = mapped_column(default=server_now())


class BatchPrompt(Base):
    __tablename__ = "batch_prompts"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    prompt_version: Mapped[str] = mapped_column(ForeignKey("prompt_versions.version"), primary_key=True)


class BatchPages(Base):
    """The pages that a batch asks about, where not all: page indexes from first to last, in each of its documents."""

    __tablename__ = "batch_pages"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    first_index: Mapped[int] = mapped_column(primary_key=True)
    last_index: Mapped[int]


class Document(Base):
    """Content, by hash. Leased while an ingest worker turns it into pages."""

    __tablename__ = "documents"
    __table_args__ = (
        one_of("state", DocumentState),
        Index("ix_documents_batch_state", "batch_id", "state"),
        *_work_indexes("documents"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    public_id: Mapped[str] = mapped_column(String(36), unique=True, default=uuid7)
    content_hash: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    page_count: Mapped[int | None]
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))  # for whom it waits
    state: Mapped[str] = mapped_column(String(16), default=DocumentState.PENDING)
    owner: Mapped[str | None] = mapped_column(StorableText)
    token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float | None] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[float] = mapped_column(Float, default=0.0)
    enqueued_at: Mapped[float | None] = mapped_column(Float)
    cause: Mapped[str | None] = mapped_column(StorableText)
    reason: Mapped[str | None] = mapped_column(StorableText)
    finished_at: Mapped[datetime | None]
    # At which its pages are drawn: auto, page or a number. Those of older archives were drawn as `page` is
    detail: Mapped[str] = mapped_column(String(16), default="auto", server_default="page")


class Source(Base):
    """A path that was seen. `cause` and `reason` where the file itself could not be taken in."""

    __tablename__ = "sources"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    path: Mapped[str] = mapped_column(ByteOrderedText, unique=True)  # as people read it: valid UTF-8, odd bytes escaped
    location: Mapped[str] = mapped_column(StorableText)  # as the system opens it: a file URL, its bytes percent-encoded
    document_id: Mapped[int | None] = mapped_column(ForeignKey("documents.id"), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    modified_ns: Mapped[int] = mapped_column(BigInteger)
    cause: Mapped[str | None] = mapped_column(StorableText)
    reason: Mapped[str | None] = mapped_column(StorableText)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    gone_at: Mapped[datetime | None]  # when it was first missed in a folder that was walked; null: it is there
    # By which rules its members were told, and how many; null: it holds none, or not all of them are known
    members_mark: Mapped[str | None] = mapped_column(String(64))


class BatchSource(Base):
    """A source as a batch saw it: a file that changes later is another document, and the batch's counts stay."""

    __tablename__ = "batch_sources"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True, index=True)
    document_id: Mapped[int | None] = mapped_column(ForeignKey("documents.id"), index=True)
    cause: Mapped[str | None] = mapped_column(StorableText)
    reason: Mapped[str | None] = mapped_column(StorableText)
    seen_at: Mapped[datetime] = mapped_column(default=utc_now)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    modified_ns: Mapped[int | None] = mapped_column(BigInteger)  # null behind a URL, where it is no time


class Page(Base):
    """One page of a document: its image, or why there is none."""

    __tablename__ = "pages"
    __table_args__ = (
        UniqueConstraint("document_id", "page_index"),
        CheckConstraint("(image_hash IS NULL) <> (cause IS NULL)", name="image_or_cause"),
        partial_index("pages", "kept", ("created_at",), "image_hash IS NOT NULL AND image_freed_at IS NULL"),
        partial_index("pages", "image", ("image_hash",), "image_hash IS NOT NULL AND image_freed_at IS NULL"),
        partial_index("pages", "failed", ("document_id",), "cause IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"))
    page_index: Mapped[int]
    image_hash: Mapped[str | None] = mapped_column(String(64))
    width_px: Mapped[int | None]
    height_px: Mapped[int | None]
    warnings: Mapped[str | None] = mapped_column(StorableText)  # what the renderer mended or left out
    cause: Mapped[str | None] = mapped_column(StorableText)
    reason: Mapped[str | None] = mapped_column(StorableText)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    image_freed_at: Mapped[datetime | None]  # when retention removed the image; it can be drawn again
    width_pt: Mapped[float | None] = mapped_column(Float)  # as it is shown, in 1/72 inch; null: an image file's
    height_pt: Mapped[float | None] = mapped_column(Float)
    dpi: Mapped[float | None] = mapped_column(Float)  # at which it was drawn; null: an image file's without one
    print_px: Mapped[float | None] = mapped_column(Float)  # height of the small print in the image; null: none found
    is_blank: Mapped[bool | None]  # nothing is on it, by its picture; null: nobody looked


class TextLayer(Base):
    """The text that a PDF carries itself, beside what was read."""

    __tablename__ = "text_layers"

    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True)
    text: Mapped[str] = mapped_column(StorableText)
    verdict: Mapped[str | None] = mapped_column(String(32))  # `sound`, or what is wrong with it
    # The lines and rulings of the page, in pixels of its image, as pipeline/layout/own_text.py `Found`; in old rows
    # [left, top, right, bottom] of each line; null where they are not known.
    boxes: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))


class PageTask(Base):
    """The row that workers lease. No wide column here, so that a heartbeat rewrites little."""

    __tablename__ = "page_tasks"
    __table_args__ = (
        UniqueConstraint("page_id", "prompt_version", "model"),
        one_of("state", TaskState),
        CheckConstraint("(state = 'leased') = (owner IS NOT NULL)", name="leased_has_owner"),
        CheckConstraint("state <> 'done' OR answer_id IS NOT NULL", name="done_has_answer"),
        Index("ix_page_tasks_batch_state", "batch_id", "state"),
        partial_index("page_tasks", "answer", ("answer_id",), "answer_id IS NOT NULL"),
        *_work_indexes("page_tasks"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"))
    prompt_version: Mapped[str] = mapped_column(ForeignKey("prompt_versions.version"))
    model: Mapped[str] = mapped_column(StorableText)  # fingerprint of what shall read; "" where any may
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))  # for whom it waits
    state: Mapped[str] = mapped_column(String(16), default=TaskState.PENDING)
    owner: Mapped[str | None] = mapped_column(StorableText)
    token: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float | None] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[float] = mapped_column(Float, default=0.0)
    enqueued_at: Mapped[float | None] = mapped_column(Float)
    answer_id: Mapped[int | None] = mapped_column(ForeignKey("answer_versions.id"))
    cause: Mapped[str | None] = mapped_column(StorableText)
    reason: Mapped[str | None] = mapped_column(StorableText)
    finished_at: Mapped[datetime | None]
    leased_at: Mapped[datetime | None]  # by its latest claim; when the attempt that may follow was begun
    max_tokens: Mapped[int | None]  # of its answer, where one that was cut shall go on; null: as its prompt says


class Answer(Base):
    """What was read, once for each page image, prompt version and model."""

    __tablename__ = "answer_versions"
    __table_args__ = (  # named when the table was `answers`
        UniqueConstraint("image_hash", "prompt_version", "model", name="uq_answers_image_hash_prompt_version_model"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    image_hash: Mapped[str] = mapped_column(String(64))
    prompt_version: Mapped[str] = mapped_column(ForeignKey("prompt_versions.version"))
    engine: Mapped[str] = mapped_column(StorableText)
    model: Mapped[str] = mapped_column(StorableText)
    text: Mapped[str] = mapped_column(StorableText)
    finish_reason: Mapped[str] = mapped_column(String(16))
    prompt_tokens: Mapped[int]
    output_tokens: Mapped[int]
    seconds: Mapped[float] = mapped_column(Float)
    temperature: Mapped[float] = mapped_column(Float)
    confidence: Mapped[float | None] = mapped_column(Float)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    angle: Mapped[float | None] = mapped_column(Float)  # degrees clockwise by which the image was turned to be read
    review_reason: Mapped[str | None] = mapped_column(String(32))  # why people should look at it; null: they need not
    review_score: Mapped[float | None] = mapped_column(Float)  # how much so, from 0 to 1
    lowest_confidence: Mapped[float | None] = mapped_column(Float)  # in the line or token that it was least sure of
    token_ids: Mapped[str | None] = mapped_column(StorableText)  # of one that was cut, with blanks between
    cost: Mapped[float | None] = mapped_column(Float)  # by the prices of the worker's settings; null: none known
    drafted_tokens: Mapped[int | None]  # of a draft, that the engine tried; null: it tried none
    accepted_tokens: Mapped[int | None]  # of them, that it would have written itself


class AnswerTry(Base):
    """One of several tries at an answer, where one was not enough; the answer has the text of the chosen one."""

    __tablename__ = "answer_tries"

    answer_id: Mapped[int] = mapped_column(ForeignKey("answer_versions.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 1
    verdict: Mapped[str] = mapped_column(String(16))  # a word of `tries.py`
    text: Mapped[str] = mapped_column(StorableText)
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    temperature: Mapped[float | None] = mapped_column(Float)
    angle: Mapped[float | None] = mapped_column(Float)  # degrees clockwise by which the page was turned for it
    tiles: Mapped[int | None]  # that the page was cut into; null: one image
    prompt_tokens: Mapped[int]
    output_tokens: Mapped[int]
    seconds: Mapped[float] = mapped_column(Float)
    confidence: Mapped[float | None] = mapped_column(Float)
    is_chosen: Mapped[bool]
    error: Mapped[str | None] = mapped_column(StorableText)  # why it could not be made


class CurrentAnswer(Base):
    """Which answer a page shows for a prompt's name: the latest that was asked for, or the one that people promoted.

    The two last columns are null where no promotion holds the page. They are no foreign keys, which SQLite could add by
    copying the table alone: a held page has a row of `promoted_answers`, and a task of it names its latest answer.
    """

    __tablename__ = "current_answers"
    __table_args__ = (partial_index("current_answers", "held", ("promotion_id",), "promotion_id IS NOT NULL"),)

    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True)
    prompt: Mapped[str] = mapped_column(StorableText, primary_key=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answer_versions.id"), index=True)
    promotion_id: Mapped[int | None] = mapped_column(Key)  # that chose `answer_id`; the latest of those that stand
    latest_answer_id: Mapped[int | None] = mapped_column(Key)  # what the page would show without any promotion


class SearchIndex(Base):
    """One row: which answers are yet to be put into the index of words anew, after its form changed or on demand.

    The index itself, `page_search`, is made by a migration, for it is another thing on each database.
    """

    __tablename__ = "search_index"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    done: Mapped[int] = mapped_column(Key)  # answers up to this key are in it as they should be
    until: Mapped[int] = mapped_column(Key)  # and those after this one


class Promotion(Base):
    """People said which answers shall be current, for which pages. It stands until it is rolled back."""

    __tablename__ = "answer_promotions"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    answers: Mapped[str] = mapped_column(StorableText)  # which, as `diff` and `promote` name them: `engine:tesseract`
    prompt: Mapped[str | None] = mapped_column(StorableText)  # these three narrow the pages; null: all
    batch_id: Mapped[str | None] = mapped_column(String(36))  # a batch's public id
    path: Mapped[str | None] = mapped_column(StorableText)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    rolled_back_at: Mapped[datetime | None]


class PromotedAnswer(Base):
    """A page that a promotion holds; gone with its rolling back. Of several that hold a page, the latest counts."""

    __tablename__ = "promoted_answers"

    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True)
    prompt: Mapped[str] = mapped_column(StorableText, primary_key=True)
    promotion_id: Mapped[int] = mapped_column(ForeignKey("answer_promotions.id"), primary_key=True, index=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answer_versions.id"), index=True)


class TaskAttempt(Base):
    """One try at one page task, kept for ever: the history that the invariants are checked against."""

    __tablename__ = "task_attempts"
    __table_args__ = (
        UniqueConstraint("task_id", "token"),
        partial_index("task_attempts", "cost", ("batch_id", "cost"), "cost IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("page_tasks.id"))
    token: Mapped[int]
    worker: Mapped[str] = mapped_column(StorableText)
    engine: Mapped[str | None] = mapped_column(StorableText)
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    temperature: Mapped[float | None] = mapped_column(Float)
    prompt_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    seconds: Mapped[float | None] = mapped_column(Float)
    error: Mapped[str | None] = mapped_column(StorableText)
    ended_at: Mapped[datetime] = mapped_column(default=server_now())
    batch_id: Mapped[int | None] = mapped_column(BigInteger)  # a foreign key would lock the batch's row at each attempt
    started_at: Mapped[datetime | None]
    cost: Mapped[float | None] = mapped_column(Float)  # of answers that were of no use, too
    text: Mapped[str | None] = mapped_column(StorableText)  # what was read, where it became no answer
    drafted_tokens: Mapped[int | None]  # as those of an answer
    accepted_tokens: Mapped[int | None]


class Notice(Base):
    """The outbox: a document of a batch with `notify` is done, and whoever asked is to be told, at least once."""

    __tablename__ = "notices"
    __table_args__ = (
        UniqueConstraint("batch_id", "document_id"),
        partial_index("notices", "unsent", ("id",), "sent_at IS NULL"),
        partial_index("notices", "lying", ("batch_id",), "sent_at IS NOT NULL AND taken_at IS NULL"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"))
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    sent_at: Mapped[datetime | None]
    taken_at: Mapped[datetime | None]  # seen to have left its queue
