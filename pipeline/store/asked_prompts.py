"""What claimed pages are asked: prompts by their versions, and the text that goes with a prompt that takes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, select

from pipeline.store.layer_text import text_of
from schemas.prompts import Prompt, bounded_hint
from schemas.tables import PromptVersion, TextLayer
from schemas.text import storable
from schemas.text_layers import Verdict

_known_prompts: dict[str, Prompt] = {}  # a version is the hash of all that it says, so it never changes


def layers_of(connection: Connection, page_ids: Collection[int]) -> Sequence[Any]:
    """What these pages carry: page_id, text and boxes. Text of which the letters are not known says nothing."""
    if not page_ids:
        return []
    known = select(TextLayer.page_id, TextLayer.text, TextLayer.boxes).where(
        TextLayer.page_id.in_(page_ids), TextLayer.verdict.is_distinct_from(str(Verdict.GARBLED))
    )
    return connection.execute(known).all()


def hints_of(layers: Sequence[Any]) -> dict[int, str]:
    """As a model is given them, by page."""
    texts = {row.page_id: bounded_hint(text_of(row.text, row.boxes)) for row in layers}
    return {page_id: storable(text) for page_id, text in texts.items() if text}


def prompts_of(connection: Connection, versions: set[str]) -> dict[str, Prompt]:
    if missing := versions - _known_prompts.keys():
        found = select(PromptVersion.__table__).where(PromptVersion.version.in_(missing))
        for row in connection.execute(found):
            parameters = {**row.parameters, "stop": tuple(row.parameters["stop"])}
            _known_prompts[row.version] = Prompt(row.name, row.text, **parameters)
    return {version: _known_prompts[version] for version in versions}
