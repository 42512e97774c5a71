"""Text out of the database into files: Markdown for people, JSONL, CSV and Parquet for programs.

Pages stream from the database (`rows.py`) into the file; a file appears under its name only when it is complete.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Literal

from pipeline.database.engine import Database
from pipeline.errors import DiskFull, Unavailable, UsageError
from pipeline.export.fields import Fields
from pipeline.export.files import INTO_PIPES, STDOUT, complete_file, is_special
from pipeline.export.paths import Targets, shared_folder
from pipeline.export.rows import (
    ExportedPage,
    ExportedSource,
    exported_pages,
    exported_sources,
    first_and_last_path,
    not_taken_in,
)
from pipeline.export.table import Kind, write_table
from pipeline.query.batch_status import BatchRow, check_prompt

Format = Literal["markdown", "jsonl", "csv", "parquet"]


@dataclass
class ExportSummary:
    """What was written; `pages` are pages under one prompt each, of which some failed and some still wait."""

    files: int = 0
    pages: int = 0
    pages_failed: int = 0
    pages_waiting: int = 0
    files_rejected: int = 0  # each a row; all but unsupported kinds get a Markdown file that says so


def export(
    db: Database,
    out: Path,
    format: Format,
    batch: BatchRow | None = None,
    prompt: str | None = None,
    fields: Fields | None = None,
) -> ExportSummary:
    """Write the current answers of a batch, in its files as it saw them, or of all sources as they are.

    `out` is a folder for Markdown and a file for the others; `-` writes JSONL and CSV to the standard output. Files
    that exist are replaced. With `fields` (`find_fields`) a row has a column for each field of the answers to their
    prompts, in place of the text.

    Raises:
        UsageError: `out` cannot be written or does not fit the format, Parquet without pyarrow, an unknown prompt.
        NothingToDo: no source to export.
        DiskFull: no room for it.
    """
    if str(out) in STDOUT and format not in INTO_PIPES:
        raise UsageError(f"--out {out}: only --format jsonl goes to the standard output; name a folder or a file")
    if (format == "csv" and fields is None) or (format == "markdown" and fields is not None):
        raise UsageError(f"--format {format} is {'for fields: add --schema' if fields is None else 'for text'}")
    if prompt is not None:
        check_prompt(db, prompt)
    first, last = first_and_last_path(db, batch)
    summary = ExportSummary()
    try:
        if format == "markdown":
            _export_markdown(db, Targets(out, shared_folder(first, last)), batch, prompt, summary)
        else:
            versions = fields.versions if fields else None
            pages = _counted(db, batch, prompt, versions, summary)
            rows = map(fields.row if fields else asdict, pages)
            write_table(out, format, fields.kinds if fields else _kinds_of_a_page(), rows)
            summary.files = int(str(out) not in STDOUT)
    except BrokenPipeError as error:
        if str(out) in STDOUT:  # whoever read it has seen enough
            raise
        raise Unavailable(f"whoever read --out {out} left before the end") from error
    except OSError as error:
        target = (error.filename if format == "markdown" else None) or out
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left for {target}; free some or choose another --out") from error
        reason = os.strerror(error.errno) if error.errno else error  # Parquet's own words name the part
        raise UsageError(f"cannot write {target}: {reason}; choose another --out") from error
    return summary


def _kinds_of_a_page() -> dict[str, Kind]:
    return {field.name: str(field.type).partition(" ")[0] for field in dataclass_fields(ExportedPage)}  # type: ignore[misc]


def _counted(
    db: Database, batch: BatchRow | None, prompt: str | None, versions: Collection[str] | None, summary: ExportSummary
) -> Iterator[ExportedPage]:
    for source in exported_sources(db, batch):
        if (row := not_taken_in(source)) is not None:
            summary.files_rejected += 1
            yield row
        for page in exported_pages(db, source, batch, prompt, versions):
            _count(summary, page)
            yield page


def _count(summary: ExportSummary, page: ExportedPage) -> None:
    summary.pages += 1
    summary.pages_waiting += page.cause == "waiting"
    summary.pages_failed += page.cause is not None and page.cause != "waiting"


def _export_markdown(
    db: Database,
    targets: Targets,
    batch: BatchRow | None,
    prompt: str | None,
    summary: ExportSummary,
) -> None:
    if targets.out.exists() and not targets.out.is_dir():
        raise UsageError(f"cannot write into --out {targets.out}: markdown goes into a folder, and this is none")
    for source in exported_sources(db, batch):
        summary.files_rejected += source.cause is not None
        if source.cause == "unsupported" or source.page_count == 0:  # an archive, whose members follow
            continue
        target = targets.of(source.source_path)
        if is_special(target) and not target.is_symlink():
            raise UsageError(f"cannot write {target}: it is no regular file; choose another --out")
        target.parent.mkdir(parents=True, exist_ok=True)
        with complete_file(target) as file:
            for piece in markdown(
                source, exported_pages(db, source, batch, prompt), lambda page: _count(summary, page)
            ):
                file.write(piece)
        summary.files += 1


def markdown(
    source: ExportedSource, pages: Iterable[ExportedPage], seen: Callable[[ExportedPage], None] = lambda page: None
) -> Iterator[str]:
    """Front matter, then for each page a marker and its text, prompt after prompt.

    A text that itself holds such a marker at the start of a line gets a backslash before it.
    """
    groups = itertools.groupby(pages, key=lambda page: page.prompt)
    ahead = next(groups, None)
    first = next(ahead[1], None) if ahead else None
    head = {"source_path": source.source_path, "document_id": source.document_id, "pages": source.page_count}
    if first is not None:
        head |= {"prompt": first.prompt, "engine": first.engine, "model": first.model}
    yield "---\n" + "".join(f"{key}: {_yaml(value)}\n" for key, value in head.items()) + "---\n"
    if source.cause is not None:
        yield f"\n> **Not read** ({source.cause}): {_one_line(source.reason)}\n"
    if ahead is None or first is None:
        return
    rest: Iterator[tuple[str, Iterable[ExportedPage]]] = itertools.chain(
        [(ahead[0], itertools.chain([first], ahead[1]))], groups
    )
    for number, (prompt, group) in enumerate(rest):
        if number or prompt != "ocr":
            yield f"\n<!-- prompt {_one_line(prompt)} -->\n"
        for page in group:
            seen(page)
            yield f"\n<!-- page {page.page_number} -->\n\n"
            if page.text is None:
                yield f"> **Page {page.page_number} not read** ({page.cause}): {_one_line(page.reason)}\n"
            else:
                yield re.sub(r"(?m)^(\\*<!-- (?:page|prompt) )", r"\\\1", page.text) + "\n"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("-->", "--&gt;")


def _yaml(value: str | int | None) -> str:
    """A double-quoted YAML scalar where it is text: what cannot be printed is escaped."""
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    return '"' + "".join(_yaml_character(character) for character in value) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
