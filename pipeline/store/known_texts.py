"""What an answer may be, before a page is read: what others read on it, or the text that it carries itself."""

from __future__ import annotations

import json
from collections.abc import Collection

from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.store.asked_prompts import layers_of
from pipeline.store.cut_answers import LENGTH
from pipeline.store.layer_text import text_of
from schemas.prompts import OCR, Prompt
from schemas.tables import Answer, CurrentAnswer


def known_texts(db: Database, page_id: int, prompts: Collection[Prompt]) -> dict[str, str]:
    """By the names of prompts: what the page shows for them now, by whatever engine, model or version of the prompt.

    A transcription that there is none of, or only one that was cut, may be the text that the page carries. An answer
    under a JSON Schema that there is none of may quote the transcription, written as a string of JSON holds it.
    """
    names, held = {prompt.name for prompt in prompts}, {prompt.name for prompt in prompts if prompt.schema}
    wanted = names | ({OCR.name} if held else set())
    shown = (
        select(CurrentAnswer.prompt, Answer.text, Answer.finish_reason)
        .join(Answer, Answer.id == CurrentAnswer.answer_id)
        .where(CurrentAnswer.page_id == page_id, CurrentAnswer.prompt.in_(wanted))
    )
    with db.read() as connection:
        answers = [row for row in connection.execute(shown) if row.text]
        is_whole = any(row.prompt == OCR.name and row.finish_reason != LENGTH for row in answers)
        layers = [] if is_whole or OCR.name not in wanted else layers_of(connection, [page_id])
    known = {row.prompt: row.text for row in answers}
    if layers and (carried := text_of(layers[0].text, layers[0].boxes)).strip():
        known[OCR.name] = carried
    if OCR.name in known:
        known = dict.fromkeys(held, json.dumps(known[OCR.name], ensure_ascii=False)[1:-1]) | known
    return {name: text for name, text in known.items() if name in names}
