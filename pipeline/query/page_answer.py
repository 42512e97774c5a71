"""One page as people read it: its text for a prompt, how sure the engine is, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.database.looking import Look, Looking, as_moment
from pipeline.errors import UsageError
from pipeline.query.batch_status import check_prompt
from pipeline.query.find_file import FoundFile


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A page and its current answer; where there is none, `text` is None, and `reason` says why."""

    source_path: str
    document_id: str
    page_number: int
    page_count: int | None
    prompt: str
    state: str  # done, waiting or failed
    text: str | None
    cause: str | None
    reason: str | None
    engine: str | None
    model: str | None
    finish_reason: str | None
    confidence: float | None
    lowest_confidence: float | None
    angle: float | None
    created_at: datetime | None
    image_hash: str | None
    width_px: int | None
    height_px: int | None


def page_answer(db: Looking, file: FoundFile, page_number: int, prompt: str = "ocr") -> PageAnswer:
    """The page of a file, by its number from 1.

    Raises:
        UsageError: the document has no such page; no page was ever asked this prompt.
    """
    with db.looking() as look:
        found = _rows(look, file, prompt, f"AND p.page_index = {page_number - 1:d}") if page_number > 0 else []
        is_answered = bool(found) and found[0].text is not None
    if not is_answered:
        check_prompt(db, prompt)
    if not found:
        raise UsageError(f"{file.source_path} has no page {page_number}: {_pages_of(file)}")
    return _answer(file, prompt, found[0])


def page_answers(
    db: Looking, file: FoundFile, prompt: str = "ocr", first: int = 1, most: int = 1_000
) -> list[PageAnswer]:
    """So many pages of a file, from the page of a number on. Raises UsageError: no page was ever asked this prompt."""
    check_prompt(db, prompt)
    with db.looking() as look:
        some = f"AND p.page_index >= {first - 1:d} ORDER BY p.page_index LIMIT {most:d}"
        return [_answer(file, prompt, row) for row in _rows(look, file, prompt, some)]


def page_image_hash(db: Looking, file: FoundFile, page_number: int) -> str:
    """The name of a page's image in the store. Raises UsageError: no such page, or it could not be drawn."""
    with db.looking() as look:
        found = look.rows(_IMAGE, document=file.id, index=page_number - 1) if page_number > 0 else []
    if not found:
        raise UsageError(f"{file.source_path} has no page {page_number}: {_pages_of(file)}")
    if found[0].image_hash is None:
        raise UsageError(f"{file.source_path}, page {page_number}, was not drawn: {found[0].reason}")
    return str(found[0].image_hash)


def _pages_of(file: FoundFile) -> str:
    if file.page_count is None:
        return f"it is {'not opened yet' if file.state in ('pending', 'leased') else file.state}"
    return f"it has {file.page_count:,} page{'' if file.page_count == 1 else 's'}"


def _rows(look: Look, file: FoundFile, prompt: str, some: str) -> list[Any]:
    return list(look.rows(f"{_PAGES} {some}", document=file.id, prompt=prompt))


_IMAGE = "SELECT image_hash, reason FROM pages WHERE document_id = :document AND page_index = :index"
_TASK = """(SELECT t.{0} FROM page_tasks t JOIN prompt_versions v ON v.version = t.prompt_version
  WHERE t.page_id = p.id AND v.name = :prompt ORDER BY t.id DESC LIMIT 1)"""
_PAGES = f"""SELECT p.page_index + 1 AS page_number, a.text, coalesce(p.cause, {_TASK.format("cause")}) AS cause,
  coalesce(p.reason, {_TASK.format("reason")}) AS reason, a.engine, a.model, a.finish_reason, a.confidence,
  a.lowest_confidence, a.angle, a.created_at, p.image_hash, p.width_px, p.height_px
FROM pages p LEFT JOIN current_answers c ON c.page_id = p.id AND c.prompt = :prompt
LEFT JOIN answer_versions a ON a.id = c.answer_id
WHERE p.document_id = :document"""


def _answer(file: FoundFile, prompt: str, row: Any) -> PageAnswer:
    is_done = row.text is not None
    return PageAnswer(
        source_path=file.source_path,
        document_id=file.document_id,
        page_number=row.page_number,
        page_count=file.page_count,
        prompt=prompt,
        state="done" if is_done else "failed" if row.cause is not None else "waiting",
        text=row.text,
        cause=None if is_done else row.cause,
        reason=None if is_done else row.reason,
        engine=row.engine,
        model=row.model,
        finish_reason=row.finish_reason,
        confidence=row.confidence,
        lowest_confidence=row.lowest_confidence,
        angle=row.angle,
        created_at=None if row.created_at is None else as_moment(row.created_at),
        image_hash=row.image_hash,
        width_px=row.width_px,
        height_px=row.height_px,
    )
