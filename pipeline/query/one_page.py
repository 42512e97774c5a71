"""All that is known of one page, by keys alone: its image, every answer to every prompt, lines, attempts and tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.database.looking import Look, as_json, as_moment


@dataclass(frozen=True, slots=True)
class Document:
    """Content, and the paths where it lies, or lay, the latter last."""

    id: int
    document_id: str
    kind: str
    state: str
    page_count: int | None
    cause: str | None
    reason: str | None
    paths: list[tuple[str, bool]]  # path, whether it is there


@dataclass(frozen=True, slots=True)
class PageRow:
    """A page; with an image, or with a cause why there is none."""

    id: int
    page_number: int
    image_hash: str | None
    image_freed_at: datetime | None
    width_px: int | None
    height_px: int | None
    dpi: float | None
    warnings: str | None
    is_blank: bool
    cause: str | None
    reason: str | None

    @property
    def has_image(self) -> bool:
        return self.image_hash is not None and self.image_freed_at is None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """A version of an answer."""

    id: int
    prompt: str
    engine: str
    model: str
    text: str
    finish_reason: str
    confidence: float | None
    lowest_confidence: float | None
    prompt_tokens: int
    output_tokens: int
    seconds: float
    temperature: float
    angle: float | None
    review_reason: str | None
    cost: float | None
    created_at: datetime
    is_current: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A line as the engine found it, its box in pixels of the page's image."""

    left: float
    top: float
    right: float
    bottom: float
    confidence: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """A place of the text, from `start` to `end`, that the model was not sure of."""

    start: int
    end: int
    confidence: float


def find_document(look: Look, document_id: str, most_paths: int = 20) -> Document | None:
    rows = look.rows(
        "SELECT id, public_id, kind, state, page_count, cause, reason FROM documents WHERE public_id = :id",
        id=document_id,
    )
    if not rows:
        return None
    paths = look.rows(
        "SELECT path, gone_at IS NULL FROM sources WHERE document_id = :id ORDER BY gone_at IS NOT NULL, path "
        "LIMIT :most",
        id=rows[0].id,
        most=most_paths,
    )
    return Document(*[*rows[0], [(path, bool(is_there)) for path, is_there in paths]])


_PAGE = """SELECT id, page_index + 1, image_hash, image_freed_at, width_px, height_px, dpi, warnings, is_blank, cause,
reason FROM pages WHERE document_id = :document"""


def find_page(look: Look, document: int, page_number: int) -> PageRow | None:
    rows = look.rows(f"{_PAGE} AND page_index = :page", document=document, page=page_number - 1)
    return _page(rows[0]) if rows else None


def some_pages(look: Look, document: int, first_number: int, limit: int) -> list[PageRow]:
    """Pages of a document in their order, from a number on."""
    given = {"document": document, "first": first_number - 1, "limit": limit}
    return [
        _page(row) for row in look.rows(f"{_PAGE} AND page_index >= :first ORDER BY page_index LIMIT :limit", **given)
    ]


def _page(row: Any) -> PageRow:
    values = list(row)
    values[3] = None if values[3] is None else as_moment(values[3])
    values[8] = bool(values[8])
    return PageRow(*values)


def answers_of(look: Look, page_id: int) -> list[AnswerRow]:
    """Every version, by prompt, the latest first."""
    statement = """SELECT a.id, v.name, a.engine, a.model, a.text, a.finish_reason, a.confidence, a.lowest_confidence,
   a.prompt_tokens, a.output_tokens, a.seconds, a.temperature, a.angle, a.review_reason, a.cost, a.created_at,
   EXISTS (SELECT 1 FROM current_answers c WHERE c.page_id = :page AND c.prompt = v.name AND c.answer_id = a.id)
FROM answer_versions a JOIN prompt_versions v ON v.version = a.prompt_version
WHERE a.id IN (SELECT t.answer_id FROM page_tasks t WHERE t.page_id = :page AND t.state = 'done')
ORDER BY v.name, a.id DESC"""
    return [AnswerRow(*[*row[:15], as_moment(row[15]), bool(row[16])]) for row in look.rows(statement, page=page_id)]


def seen_at(look: Look, page_id: int, answer_id: int) -> datetime | None:
    """When a reviewer marked an answer as seen on this page."""
    found = look.value(
        "SELECT seen_at FROM seen_pages WHERE page_id = :page AND answer_id = :answer", page=page_id, answer=answer_id
    )
    return None if found is None else as_moment(found)


def lines_and_doubts(look: Look, answer_id: int) -> tuple[list[Line], list[Doubt]]:
    """What the engine left beside the text; nothing of what is not as it should be."""
    details = as_json(look.value("SELECT details FROM answer_versions WHERE id = :id", id=answer_id))
    if not isinstance(details, dict):
        return [], []
    return [*_lines(details.get("lines"))], [*_doubts(details.get("doubts"))]


def _lines(found: Any) -> Sequence[Line]:
    rows = found if isinstance(found, list) else []
    return [Line(*row[:6]) for row in rows if isinstance(row, list) and _is_line(row)]


def _is_line(row: list[Any]) -> bool:
    return (
        len(row) >= 6
        and all(isinstance(value, int | float) for value in row[:4])
        and (row[4] is None or isinstance(row[4], int | float))
        and isinstance(row[5], str)
    )


def _doubts(found: Any) -> Sequence[Doubt]:
    rows = found if isinstance(found, list) else []
    return [
        Doubt(*row[:3])
        for row in rows
        if isinstance(row, list) and len(row) >= 3 and all(isinstance(value, int | float) for value in row[:3])
    ]


def own_text(look: Look, page_id: int) -> str | None:
    """What would be the answer, were the page's own text taken; None where it carries none."""
    rows = look.rows("SELECT text, boxes FROM text_layers WHERE page_id = :page", page=page_id)
    if not rows:
        return None
    from pipeline.store.layer_text import text_of  # lays the lines out, which few pages are asked for

    return text_of(rows[0].text, as_json(rows[0].boxes))


def has_own_text(look: Look, page_id: int) -> bool:
    return bool(look.value("SELECT 1 FROM text_layers WHERE page_id = :page", page=page_id))


def open_tasks(look: Look, page_id: int) -> Sequence[Any]:
    """What waits or failed: prompt, state, cause, reason, attempts."""
    return look.rows(
        """SELECT v.name AS prompt, t.state AS state, t.cause AS cause, t.reason AS reason,
   t.attempts + t.crashes AS attempts FROM page_tasks t JOIN prompt_versions v ON v.version = t.prompt_version
WHERE t.page_id = :page AND t.state <> 'done' ORDER BY v.name, t.id""",
        page=page_id,
    )


def attempts_of(look: Look, page_id: int, limit: int = 50) -> Sequence[Any]:
    """The latest first."""
    return look.rows(
        """SELECT v.name AS prompt, x.token AS attempt, x.worker AS worker, x.engine AS engine,
   x.finish_reason AS finish_reason, x.seconds AS seconds, x.output_tokens AS output_tokens, x.error AS error,
   x.ended_at AS ended_at
FROM page_tasks t JOIN task_attempts x ON x.task_id = t.id JOIN prompt_versions v ON v.version = t.prompt_version
WHERE t.page_id = :page ORDER BY x.id DESC LIMIT :limit""",
        page=page_id,
        limit=limit,
    )


def tries_of(look: Look, answer_id: int) -> Sequence[Any]:
    return look.rows(
        "SELECT number, verdict, text, finish_reason, temperature, confidence, is_chosen, error FROM answer_tries "
        "WHERE answer_id = :answer ORDER BY number",
        answer=answer_id,
    )


def neighbours(look: Look, path: str) -> tuple[str | None, str | None]:
    """Ids of the documents before and after, in the order of their paths."""
    near = "SELECT d.public_id FROM sources s JOIN documents d ON d.id = s.document_id WHERE s.gone_at IS NULL"
    before = look.value(f"{near} AND s.path < :path ORDER BY s.path DESC LIMIT 1", path=path)
    return before, look.value(f"{near} AND s.path > :path ORDER BY s.path LIMIT 1", path=path)
