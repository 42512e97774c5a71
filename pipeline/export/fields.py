"""Answers that were held to a JSON Schema as a table: a row a page, a column a field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.errors import UsageError, did_you_mean
from pipeline.export.rows import ExportedPage
from pipeline.export.table import Kind
from pipeline.structured.check import checked
from pipeline.structured.columns import Column, columns_of
from pipeline.structured.strict_json import parse
from schemas.tables import PromptVersion

_ABOUT_THE_PAGE: dict[str, Kind] = {
    "source_path": "str",
    "document_id": "str",
    "page_number": "int",
    "prompt": "str",
    "state": "str",
    "cause": "str",
    "reason": "str",
}
_KINDS: dict[str, Kind] = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "json": "json"}
_SCHEMA = PromptVersion.parameters["schema"].as_string()


@dataclass(frozen=True, slots=True)
class Fields:
    """The prompts whose answers are exported, by their versions, and the columns that they have."""

    versions: frozenset[str]
    columns: Sequence[Column]

    @property
    def kinds(self) -> dict[str, Kind]:
        return _ABOUT_THE_PAGE | {column.name: _KINDS[column.kind] for column in self.columns}

    def row(self, page: ExportedPage) -> dict[str, Any]:
        answer = parse(page.text, Decimal) if page.text else None
        about = {name: getattr(page, name) for name in _ABOUT_THE_PAGE}
        return about | {column.name: column.value(answer) for column in self.columns}


def find_fields(db: Database, wanted: str, prompt: str | None = None) -> Fields:
    """Of a schema's file, or of the name of a prompt that has one: of its newest, where it had several.

    `prompt` leaves the answers to one of several prompts that have the same schema.

    Raises:
        UsageError: no page was asked so.
    """
    path = Path(wanted)
    asked = select(PromptVersion.version, PromptVersion.name, _SCHEMA).where(_SCHEMA.is_not(None))
    with db.read() as connection:
        if path.is_file():
            schema: str | None = _read(path)
            nothing = f"--schema {wanted}: no page was asked with this schema; `pagepack run --schema {wanted} …` asks"
        else:
            newest = asked.where(PromptVersion.name == wanted)
            newest = newest.order_by(PromptVersion.created_at.desc().nulls_last(), PromptVersion.version).limit(1)
            found = connection.execute(newest).first()
            schema = found[2] if found else None
            asked = asked.where(PromptVersion.name == wanted)
            nothing = f"--schema {wanted} is no file, and no prompt with a JSON Schema has this name"
        if prompt is not None:
            asked = asked.where(PromptVersion.name == prompt)
        rows = connection.execute(asked.where(_SCHEMA.in_([schema]))).all() if schema is not None else []
        if schema is None or not rows:
            names = connection.scalars(sa.select(PromptVersion.name).where(_SCHEMA.is_not(None)).distinct()).all()
            near = did_you_mean(wanted, names) or ";"
            raise UsageError(f"{nothing}{near} such prompts are {', '.join(sorted(names)[:20]) or 'none yet'}")
    return Fields(frozenset(row[0] for row in rows), columns_of(schema, _ABOUT_THE_PAGE.keys()))


def _read(path: Path) -> str:
    """As the command line read it; checked so far that it is the same text."""
    try:
        return checked(parse(path.read_text(encoding="utf-8-sig")), f"--schema {path}")
    except (OSError, ValueError) as error:
        raise UsageError(f"--schema {path} cannot be read as a JSON Schema: {error}") from error
