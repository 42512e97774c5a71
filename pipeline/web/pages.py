"""A document as small pictures of its pages; a page as its image beside its text, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import RedirectResponse, Response

from pipeline.database.looking import Look
from pipeline.query.one_page import (
    AnswerRow,
    PageRow,
    answers_of,
    attempts_of,
    find_page,
    has_own_text,
    lines_and_doubts,
    neighbours,
    open_tasks,
    own_text,
    seen_at,
    some_pages,
    tries_of,
)
from pipeline.query.word_diff import Piece, diff
from pipeline.web.linked_text import DOUBTED_LINE_BELOW, linked
from pipeline.web.lookup import Id, Number, document_or_404
from pipeline.web.render import address, render
from pipeline.web.request_site import TheSite
from pipeline.web.review import place_in_queue

router = APIRouter()

_THUMBNAILS = 60  # on one page
_OWN_TEXT = "own"  # in place of an answer's id: the text that the file carries
_MOST_DIFFED = 400_000  # characters of both texts: the words of more take longer than a page has


@router.get("/documents/{document_id}")
def show_document(request: Request, site: TheSite, document_id: str, start: Number = 1) -> Response:
    document = document_or_404(site, document_id)
    with site.db.looking() as look:
        pages = some_pages(look, document.id, max(start, 1), _THUMBNAILS + 1)
        around = neighbours(look, document.paths[0][0]) if document.paths else (None, None)
    more = pages[_THUMBNAILS].page_number if len(pages) > _THUMBNAILS else None
    before = max(start - _THUMBNAILS, 1) if start > 1 else None
    return render(
        request,
        "document.html",
        document=document,
        pages=pages[:_THUMBNAILS],
        more=more,
        before=before,
        around=around,
    )


@router.get("/documents/{document_id}/pages/{page_number}")
def show_page(
    request: Request,
    site: TheSite,
    document_id: str,
    page_number: Number,
    prompt: str = "",
    answer: Id | None = None,
    against: str = "",
    queue: str = "",
) -> Response:
    """`answer`: a version, else the current one; `against`: one that it is compared with; `queue`: the review list."""
    document = document_or_404(site, document_id)
    with site.db.looking() as look:
        page = find_page(look, document.id, page_number)
        if page is None:
            raise HTTPException(404, f"The document has no page {page_number} yet, or never had.")
        answers = answers_of(look, page.id)
        shown = _chosen(answers, prompt, answer)
        lines, doubts = lines_and_doubts(look, shown.id) if shown is not None else ([], [])
        other = _other(look, page, answers, against)
        given: dict[str, Any] = {
            "tasks": open_tasks(look, page.id),
            "attempts": attempts_of(look, page.id),
            "tries": tries_of(look, shown.id) if shown is not None else [],
            "around": neighbours(look, document.paths[0][0]) if document.paths else (None, None),
            "has_own_text": has_own_text(look, page.id),
            "seen_at": seen_at(look, page.id, shown.id) if shown is not None and shown.is_current else None,
            "is_last": find_page(look, document.id, page_number + 1) is None,
        }
    asked = shown.prompt if shown is not None else prompt
    return render(
        request,
        "page.html",
        document=document,
        page=page,
        answers=answers,
        prompts=sorted({one.prompt for one in answers} | {task.prompt for task in given["tasks"]}),
        prompt=asked,
        shown=shown,
        versions=[one for one in answers if shown is not None and one.prompt == shown.prompt],
        lines=lines,
        doubted_below=DOUBTED_LINE_BELOW,
        blocks=linked(shown.text, lines, doubts) if shown is not None else [],
        against=against,
        changes=_changes(other, shown),
        place=place_in_queue(site, queue, document_id, page_number, asked),
        queue=queue,
        **given,
    )


def _chosen(answers: Sequence[AnswerRow], prompt: str, answer: int | None) -> AnswerRow | None:
    """The version that is asked for; else the current answer to the prompt, or to `ocr`, or to any."""
    if answer is not None:
        found = next((one for one in answers if one.id == answer), None)
        if found is None:
            raise HTTPException(404, f"This page has no answer {answer}.")
        return found
    current = [one for one in answers if one.is_current and prompt in ("", one.prompt)]
    return next((one for one in current if one.prompt == "ocr"), current[0] if current else None)


def _other(look: Look, page: PageRow, answers: Sequence[AnswerRow], against: str) -> str | None:
    if not against:
        return None
    if against == _OWN_TEXT:
        return own_text(look, page.id)
    return next((one.text for one in answers if str(one.id) == against), None)


def _changes(before: str | None, shown: AnswerRow | None) -> list[Piece] | None:
    if before is None or shown is None:
        return None
    if len(before) + len(shown.text) > _MOST_DIFFED:
        raise HTTPException(400, "These texts are too long to be compared here; `pagepack diff` compares them.")
    return diff(before, shown.text)


@router.get("/documents/{document_id}/pages/{page_number}/go")
def go_to_page(site: TheSite, document_id: str, page_number: Number, to: Number = 1) -> Response:
    """Where the field for a page's number leads."""
    document = document_or_404(site, document_id)
    last = max(document.page_count or 1, 1)
    return RedirectResponse(address("documents", document_id, "pages", min(max(to, 1), last)), 303)
