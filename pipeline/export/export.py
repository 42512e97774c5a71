"""What was read, as files: Markdown for people, tables for programs, searchable PDFs for both; hOCR, ALTO and PAGE XML
for archives.

Pages stream from the database (`rows.py`, `placed.py`) into the file; a file appears under its name only when it is
complete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.database.engine import Database
from pipeline.errors import DiskFull, DocumentRejected, Unavailable, UsageError
from pipeline.export.alto import alto
from pipeline.export.chunks import chunk_rows, kinds_of_chunks
from pipeline.export.fields import Fields
from pipeline.export.files import INTO_PIPES, STDOUT, complete_file, is_special, spare
from pipeline.export.hocr import hocr
from pipeline.export.markdown import markdown
from pipeline.export.page_xml import page_xml
from pipeline.export.paths import Targets, shared_folder
from pipeline.export.pdf import PdfWriter, has_pages
from pipeline.export.placed import PlacedPage
from pipeline.export.rows import ExportedPage, first_and_last_path, not_taken_in, read_by
from pipeline.export.selection import Selected, Selection
from pipeline.export.table import Kind, TableFormat, write_table
from pipeline.export.where import Where
from pipeline.query.batch_status import BatchRow, check_prompt
from pipeline.settings import Settings

FolderFormat = Literal["markdown", "pdf", "hocr", "alto", "page-xml"]
Format = FolderFormat | TableFormat

_ENDINGS: dict[FolderFormat, str] = {
    "markdown": ".md",
    "pdf": ".pdf",
    "hocr": ".hocr",
    "alto": ".alto",
    "page-xml": ".page",
}
"""Behind the source's own name. The two last are folders with a file for each page."""
_PAGE_FILE = "{:05}.xml"


@dataclass
class ExportSummary:
    """What was written; `pages` are pages under one prompt each, of which some failed and some still wait."""

    files: int = 0
    pages: int = 0
    pages_failed: int = 0
    pages_waiting: int = 0
    files_rejected: int = 0  # each a row; all but unsupported kinds get a Markdown file that says so
    files_waiting: int = 0  # whose pages are not all drawn: each a row, and a line in its Markdown
    files_failed: int = 0  # that had to be opened again, for a PDF, and could not
    files_without_pages: int = 0  # of a kind of which no PDF is made: an office document, a mail
    pages_unplaced: int = 0  # whose engine does not say where the text stands
    pages_bare: int = 0  # of a PDF, to which no text could be added
    chunks: int = 0  # pieces, where these were asked for
    problems: Callable[[str], None] = field(default=lambda problem: None, repr=False, compare=False)
    """Hears what failed, when it does."""

    @property
    def has_failed(self) -> bool:
        """Whether something that was asked for is not there."""
        return bool(self.files_failed or self.pages_bare)

    def counts(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def export(
    db: Database,
    out: Path,
    format: Format,
    batch: BatchRow | None = None,
    prompt: str | None = None,
    fields: Fields | None = None,
    *,
    where: str | None = None,
    seconds: float | None = None,
    max_characters: int | None = None,
    settings: Settings | None = None,
    problems: Callable[[str], None] = lambda problem: None,
) -> ExportSummary:
    """Write the current answers of a batch, in its files as it saw them, or of all sources as they are.

    `out` is a file for tables, and a folder for the others; `-` writes JSONL and CSV to the standard output. Files
    that exist are replaced. With `fields` (`find_fields`) a row has a column for each field of the answers to their
    prompts, in place of the text.

    `where` is a condition on the columns of `page_text`: tables, Markdown, hOCR, ALTO and PAGE XML hold the pages that
    fit; a PDF is whole, and made where one of its pages fits. The database has `seconds` for it, of some hundred files
    at a time (600 unless given), and as many for pieces. With `max_characters` a row is a piece of a page's text
    that is no longer (`chunks`). These and PDFs need `settings`.

    Raises:
        UsageError: `out` cannot be written or does not fit the format, or a file that was read would be overwritten;
            Parquet without pyarrow, an unknown prompt, a condition that the database does not take.
        NothingToDo: no source to export.
        DiskFull: no room for it.
        StorageGone: the submitted files cannot be fetched for now.
    """
    if str(out) in STDOUT and format not in INTO_PIPES:
        raise UsageError(f"--out {out}: only --format jsonl goes to the standard output; name a folder or a file")
    if max_characters is not None and (fields is not None or format in _ENDINGS):
        raise UsageError("--chunks makes a table of text: --format jsonl, parquet or csv, and no --schema")
    if (format == "csv" and fields is None and max_characters is None) or (format in _ENDINGS and fields is not None):
        way_out = "for fields: add --schema, or --chunks for pieces of text" if fields is None else "for text"
        raise UsageError(f"--format {format} is {way_out}")
    if prompt is not None:
        check_prompt(db, prompt)
    first, last = first_and_last_path(db, batch)
    summary = ExportSummary(problems=problems)
    chosen = Selection(db, batch, prompt, None if where is None else Where(_needed(settings), where, seconds))
    try:
        if format in _ENDINGS:
            folder: FolderFormat = format
            _export_folder(
                chosen, Targets(out, shared_folder(first, last), _ENDINGS[folder]), folder, settings, summary
            )
        else:
            table: TableFormat = format  # type: ignore[assignment]
            spare(db, out)
            if max_characters is not None:
                pieces = _pieces(chosen, _needed(settings), max_characters, seconds, summary)
                write_table(out, table, kinds_of_chunks(), pieces)
            else:
                pages = _counted(chosen, fields.versions if fields else None, summary)
                rows = map(fields.row if fields else asdict, pages)
                write_table(out, table, fields.kinds if fields else _kinds_of_a_page(), rows)
            summary.files = int(str(out) not in STDOUT)
    except BrokenPipeError as error:
        if str(out) in STDOUT:  # whoever read it has seen enough
            raise
        raise Unavailable(f"whoever read --out {out} left before the end") from error
    except OSError as error:
        target = (error.filename if format in _ENDINGS else None) or out
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left for {target}; free some or choose another --out") from error
        reason = os.strerror(error.errno) if error.errno else error  # Parquet's own words name the part
        raise UsageError(f"cannot write {target}: {reason}; choose another --out") from error
    return summary


def _needed(settings: Settings | None) -> Settings:
    assert settings is not None, "settings say where the database and the submitted files are"
    return settings


def _kinds_of_a_page() -> dict[str, Kind]:
    return {field.name: str(field.type).partition(" ")[0] for field in dataclass_fields(ExportedPage)}  # type: ignore[misc]


def _counted(chosen: Selection, versions: Collection[str] | None, summary: ExportSummary) -> Iterator[ExportedPage]:
    for selected in chosen.sources():
        if (row := not_taken_in(selected.source)) is not None and selected.kept is None:
            summary.files_waiting += row.state == "waiting"
            summary.files_rejected += row.state != "waiting"
            yield row
        for page in chosen.pages(selected, versions):
            _count(summary, page)
            yield page


def _pieces(
    chosen: Selection, settings: Settings, max_characters: int, seconds: float | None, summary: ExportSummary
) -> Iterator[dict[str, Any]]:
    for row in chunk_rows(chosen, settings, max_characters, seconds):
        summary.chunks += 1
        summary.pages += row["chunk_number"] == 1
        yield row


def _count(summary: ExportSummary, page: ExportedPage | PlacedPage) -> None:
    summary.pages += 1
    summary.pages_waiting += page.state == "waiting"
    summary.pages_failed += page.state == "failed"


def _export_folder(
    chosen: Selection, targets: Targets, form: FolderFormat, settings: Settings | None, summary: ExportSummary
) -> None:
    if targets.out.exists() and not targets.out.is_dir():
        raise UsageError(f"cannot write into --out {targets.out}: {form} goes into a folder, and this is none")
    if form == "pdf" and targets.root and targets.out == Path(targets.root).resolve():
        for selected in chosen.sources():
            if selected.source.kind == "pdf":
                spare(chosen.db, Path(selected.source.source_path))  # before anything is written
    with ExitStack() as held:
        writer = held.enter_context(PdfWriter(chosen.db, _needed(settings))) if form == "pdf" else None
        for selected in chosen.sources():
            source = selected.source
            summary.files_rejected += source.cause is not None
            summary.files_waiting += source.waits
            if source.cause == "unsupported" or source.page_count == 0:  # an archive, whose members follow
                continue
            if form != "markdown" and source.cause is not None:
                continue
            if writer is not None and not has_pages(source):
                summary.files_without_pages += 1
                continue
            target = targets.of(source.source_path)
            if form in ("alto", "page-xml"):
                _write_pages(chosen, selected, alto if form == "alto" else page_xml, target, targets, summary)
                continue
            _make_way(chosen.db, target)
            if writer is not None:
                _write_pdf(writer, chosen, selected, target, summary)
                continue
            with complete_file(target) as file:
                if form == "markdown":
                    by = partial(read_by, chosen.db, source, batch=chosen.batch)
                    pieces = markdown(source, chosen.pages(selected), by, partial(_count, summary))
                else:
                    pieces = hocr(source, _placed(chosen, selected, summary))
                for piece in pieces:
                    file.write(piece)
            summary.files += 1


def _make_way(db: Database, target: Path) -> None:
    if is_special(target) and not target.is_symlink():
        raise UsageError(f"cannot write {target}: it is no regular file; choose another --out")
    spare(db, target)
    target.parent.mkdir(parents=True, exist_ok=True)


def _placed(
    chosen: Selection, selected: Selected, summary: ExportSummary, *, whole: bool = False
) -> Iterator[PlacedPage]:
    """Counted."""
    for page in chosen.placed(selected, whole=whole):
        _count(summary, page)
        summary.pages_unplaced += bool(page.text and not page.lines and not (whole and page.has_own_text))
        yield page


def _write_pages(
    chosen: Selection,
    selected: Selected,
    of_page: Callable[..., Iterator[str]],
    folder: Path,
    targets: Targets,
    summary: ExportSummary,
) -> None:
    """A page that could not be drawn has no size, and no file."""
    for page in _placed(chosen, selected, summary):
        if page.image_px is None:
            continue
        target = targets.within(folder, _PAGE_FILE.format(page.page_number))
        _make_way(chosen.db, target)
        with complete_file(target) as file:
            for piece in of_page(selected.source, page):
                file.write(piece)
        summary.files += 1


def _write_pdf(writer: PdfWriter, chosen: Selection, selected: Selected, target: Path, summary: ExportSummary) -> None:
    try:
        bare = writer.write(selected.source, _placed(chosen, selected, summary, whole=True), target)
    except DocumentRejected as error:
        summary.files_failed += 1
        summary.problems(f"{error}; there is no PDF of it")
        return
    summary.files += 1
    summary.pages_bare += len(bare)
    for failure in bare:
        summary.problems(f"{failure}; no text was added to it")
