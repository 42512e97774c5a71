"""Commands that read what was stored: search, export."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pipeline.cli.options import EXIT_DONE, EXIT_FAILED, Choice, cli, home_option, json_option, one_line, path
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.query.search import Found


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A UTC moment; of a day alone its beginning, or with `is_end` that of the next one."""

    name = "date"

    def __init__(self, *, is_end: bool = False) -> None:
        self._is_end = is_end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment + timedelta(days=1) if self._is_end and len(value) <= len("2026-01-31") else moment
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no date; write it as 2026-01-31, or 2026-01-31T18:00 for a moment", param, ctx)


_CONFIDENCE = click.FloatRange(0, 1)


@cli.command()
@click.argument("words", nargs=-1, required=True)
@home_option
@click.option("--prompt", metavar="NAME", help="Only answers to this prompt.")
@click.option("--batch", metavar="BATCH", help="Only files of this batch.")
@click.option("--folder", metavar="FOLDER", help="Only files at or below it: /data/letters, or letters/1913 anywhere.")
@click.option("--since", metavar="DATE", type=Moment(), help="Only answers that were read on this day (UTC) or later.")
@click.option("--until", metavar="DATE", type=Moment(is_end=True), help="Only answers that were read by its end.")
@click.option("--min-confidence", type=_CONFIDENCE, help="Only answers of at least this confidence, from 0 to 1.")
@click.option("--max-confidence", type=_CONFIDENCE, help="Only answers of at most this confidence.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@json_option
def search(
    words: tuple[str, ...],
    home: Path | None,
    prompt: str | None,
    batch: str | None,
    folder: str | None,
    since: datetime | None,
    until: datetime | None,
    min_confidence: float | None,
    max_confidence: float | None,
    limit: int,
    as_json: bool,
) -> int:
    """Pages that hold all the WORDS, best first. "Quote a phrase"; any word that ends with * stands for its endings.

    \b
    invoice OR receipt       one of them; quote it all for ( ): '(invoice OR receipt) 2019'
    report NOT draft         the first without the second
    'NEAR(tide gull, 5)'     both, with at most 5 words between them; 10 without a number

    Words are found whatever their case, accents and points; Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese by
    any run of characters. Where more than 1,000 pages fit, 1,000 of them are ranked (docs/search.md).
    """
    from pipeline.database.open_to_look import open_to_look
    from pipeline.query.batch_status import find_batch
    from pipeline.query.search import find
    from pipeline.settings import load_settings

    db = open_to_look(load_settings(home=home))
    found = find(
        db,
        " ".join(map(_phrase, words)),
        prompt=prompt,
        limit=limit,
        batch=find_batch(db, batch) if batch else None,
        folder=folder,
        since=since,
        until=until,
        min_confidence=min_confidence,
        max_confidence=max_confidence,
    )
    for hit in found.hits:
        if as_json:
            click.echo(json.dumps(asdict(hit), ensure_ascii=False))
        else:
            _echo(click.style(f"{one_line(hit.source_path)}:{hit.page_number}", bold=True))
            pieces = ((one_line(text), is_match) for text, is_match in hit.snippet.pieces())
            styled = (click.style(text, fg="red", bold=True) if is_match else text for text, is_match in pieces)
            _echo("    " + "".join(styled))
    if found.not_indexed:
        click.echo(
            f"pagepack: {found.not_indexed:,} older answers are not in this index of words yet, and may not be found; "
            "`pagepack db reindex` puts them in",
            err=True,
        )
    if not found.hits:
        is_plain = not any(map(_OPERATOR.search, words))
        is_among = any(one is not None for one in (prompt, batch, folder, since, until, min_confidence, max_confidence))
        page = "no page that the options choose" if is_among else "no page"
        click.echo(f"pagepack: {page} {'holds all of' if is_plain else 'fits'}: {' '.join(words)}", err=True)
        return EXIT_FAILED
    click.echo(_how_many(found), err=True)
    return EXIT_DONE


def _how_many(found: Found) -> str:
    shown = len(found.hits)
    if found.is_more:
        return (
            f"{shown:,} of more than {found.total:,} hits shown, the best of {found.total:,}; more words, or an option "
            "as --folder, narrow it"
        )
    if found.total > shown:
        return f"{shown:,} of {found.total:,} hits shown; --limit shows more"
    return f"{found.total:,} {'hit' if found.total == 1 else 'hits'}"


_OPERATOR = re.compile(r"(^|[\s(])((AND|OR|NOT)([\s)]|$)|NEAR\()")


def _phrase(word: str) -> str:
    """An argument of several words was quoted for the shell: one phrase, unless a star or an operator is in it."""
    is_query = '"' in word or "* " in word or _OPERATOR.search(word)
    return f'"{word}"' if " " in word and not is_query else word


def _echo(text: str) -> None:
    """A line for people; colours go where nobody sees them, or wants none (https://no-color.org)."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


MAX_CHARACTERS = 1_000  # of schemas/page_chunks.py, which no other command needs


@cli.command()
@click.option("--out", required=True, type=path, help="A folder; for tables a file; for jsonl and csv also -.")
@click.option(
    "--format",
    "form",
    type=Choice(["markdown", "pdf", "hocr", "alto", "page-xml", "jsonl", "csv", "parquet"]),
    help="[markdown; with --schema csv, with --chunks jsonl]",
)
@click.option(
    "--schema",
    metavar="FILE|NAME",
    help="A column a field of the answers that fit this JSON Schema: its file, or the name of their prompt.",
)
@click.option(
    "--chunks",
    metavar="[N]",
    is_flag=False,
    flag_value=MAX_CHARACTERS,
    type=click.IntRange(2, 1_000_000),
    help=f"A row a piece of text of at most N characters, for retrieval: the view `chunks`.  [N: {MAX_CHARACTERS}]",
)
@click.option("--batch", metavar="BATCH", help="Only files of this batch.")
@click.option("--prompt", metavar="NAME", help="Only answers to this prompt.")
@click.option(
    "--where", metavar="SQL", help="Only pages that fit, by the columns of page_text: \"text LIKE '%tide%'\"."
)
@click.option(
    "--seconds",
    type=float,
    help="With --where or --chunks: stop where the database takes so long over some hundred files.  [600]",
)
@home_option
@click.option("--json", "as_json", is_flag=True, help="The counts as JSON, on stdout unless the pages go there.")
def export(
    out: Path,
    form: Literal["markdown", "pdf", "hocr", "alto", "page-xml", "jsonl", "csv", "parquet"] | None,
    schema: str | None,
    chunks: int | None,
    batch: str | None,
    prompt: str | None,
    where: str | None,
    seconds: float | None,
    home: Path | None,
    as_json: bool,
) -> int:
    """Write the text out.

    \b
    markdown               a file a document: front matter, then each page's text
    pdf                    each PDF or image as a searchable PDF: as it is, with the text invisible over its pages
    hocr, alto, page-xml   where each line and word stands, for archives: a file a document, or one a page
    jsonl, csv, parquet    one table, a row a page

    Folders below the submitted ones are kept; nothing is ever written outside --out.

    In JSON Lines and Parquet, a page that was not read is a row too, and so is a file that was rejected or failed:
    its text is null; state, cause and reason say why.

    With --schema, a row has a column for each field of the answers, by its dotted name (seller.name); lists are JSON.

    For a PDF the submitted file is opened again. One that is gone or changed is told, the others are written, and the
    exit code is 1.
    """
    from pipeline.cli.progress_bar import counted
    from pipeline.database.open import open_database
    from pipeline.export.export import export as write_export
    from pipeline.export.fields import find_fields
    from pipeline.export.files import STDOUT
    from pipeline.query.batch_status import find_batch
    from pipeline.settings import load_settings

    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: give a number above 0")
    settings = load_settings(home=home)
    db = open_database(settings, readonly=True)
    chosen = find_batch(db, batch) if batch else None
    fields = find_fields(db, schema, prompt) if schema is not None else None
    summary = write_export(
        db,
        out,
        form or ("csv" if fields else "jsonl" if chunks else "markdown"),
        chosen,
        prompt,
        fields,
        where=where,
        seconds=seconds,
        max_characters=chunks,
        settings=settings,
        problems=lambda problem: click.echo(f"pagepack: {one_line(problem)}", err=True),
    )
    ends = EXIT_FAILED if summary.has_failed else EXIT_DONE
    if as_json:
        click.echo(json.dumps(summary.counts()), err=str(out) in STDOUT)
        return ends
    files = "" if str(out) in STDOUT else f"{counted(summary.files, 'file')}, "
    said = (
        f"{files}{counted(summary.pages, 'page')} written to {out}: "
        f"{summary.pages_failed:,} failed and {summary.pages_waiting:,} waiting pages are marked; "
        f"{counted(summary.files_rejected, 'file')} rejected"
    )
    if chunks:
        said = f"{counted(summary.chunks, 'chunk')} of {counted(summary.pages, 'page')} written to {out}"
    if summary.files_waiting:
        said += f"; not all pages of {counted(summary.files_waiting, 'file')} are drawn yet"
    if summary.files_failed:
        said += f"; {counted(summary.files_failed, 'file')} could not be written"
    if summary.files_without_pages:
        said += f"; {counted(summary.files_without_pages, 'file')} without pages of their own, as mails, left out"
    if summary.pages_unplaced:
        said += f"; of {counted(summary.pages_unplaced, 'page')} the engine does not say where the text stands"
    click.echo(said, err=True)
    return ends
