"""Tables of evaluations: which answers were held against what, how each came out, and which a reviewer has seen."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Float, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base, Key
from schemas.columns import StorableText, server_now, utc_now


class EvaluationRun(Base):
    """A set of answers was held against a truth, once."""

    __tablename__ = "evaluation_runs"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))  # pages, olmocr-bench, omnidocbench, mm-mt-bench
    name: Mapped[str] = mapped_column(StorableText)  # of the files or the dataset
    answers: Mapped[str] = mapped_column(StorableText)  # as `diff` names them
    prompt: Mapped[str | None] = mapped_column(StorableText)
    worst_tenth_share: Mapped[float | None] = mapped_column(Float)  # of the wrong characters, on the most doubted tenth
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class EvaluationPage(Base):
    """How one answer fits the truth of its page."""

    __tablename__ = "evaluation_pages"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation_runs.id"), primary_key=True)
    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True, index=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answer_versions.id"), index=True)
    truth: Mapped[str] = mapped_column(String(32))  # text-layer, truth-file, omnidocbench
    characters: Mapped[int]  # of the truth
    character_errors: Mapped[int]
    words: Mapped[int]
    word_errors: Mapped[int]
    recall: Mapped[float] = mapped_column(Float)
    precision: Mapped[float] = mapped_column(Float)
    table_score: Mapped[float | None] = mapped_column(Float)  # null: the page has no table, or it is not judged


class EvaluationItem(Base):
    """One question of a benchmark: a fact of a page, a table, a turn of a conversation."""

    __tablename__ = "evaluation_items"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluation_runs.id"), index=True)
    page_id: Mapped[int | None] = mapped_column(ForeignKey("pages.id"), index=True)
    item: Mapped[str] = mapped_column(StorableText)
    category: Mapped[str] = mapped_column(StorableText)
    score: Mapped[float | None] = mapped_column(Float)  # null: not judged
    detail: Mapped[str | None] = mapped_column(StorableText)


class SeenPage(Base):
    """A reviewer has seen this answer on this page. Read anew, the page has another answer, and is to be seen again."""

    __tablename__ = "seen_pages"

    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True)
    answer_id: Mapped[int] = mapped_column(ForeignKey("answer_versions.id"), primary_key=True, index=True)
    seen_at: Mapped[datetime] = mapped_column(default=server_now(), index=True)
