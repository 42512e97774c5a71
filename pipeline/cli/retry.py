"""`pagepack retry`: failed files and pages wait again, and who reads them then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import EXIT_DONE, EXIT_NOTHING, cli, home_option, json_option, quoted
from pipeline.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pipeline.database.engine import Database
    from pipeline.query.batch_status import BatchRow
    from pipeline.settings import Settings

LENGTH = "length"  # finish_reason of an answer that was cut; cause, where it does not fit its JSON Schema therefore
_TOKENS_OF_A_FAILURE = f"""(SELECT coalesce(max(a.output_tokens), 0) FROM attempts a WHERE a.document_id = f.document_id
AND a.page_number = f.page_number AND a.prompt = f.prompt AND a.finish_reason = '{LENGTH}')"""

Failure = tuple[str, int | None, object]  # source path, page number (None for the whole file), document's id


@cli.command()
@click.argument("batch", required=False)
@home_option
@click.option("--cause", help="Only failures of this cause; see `pagepack status`.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 1_000_000),
    help="With --cause length: cut answers go on up to so many tokens.  [twice as many]",
)
@click.option("--where", metavar="SQL", help="Only failures that fit, e.g. \"source_path LIKE '%/2019/%'\".")
@json_option
def retry(
    batch: str | None, home: Path | None, cause: str | None, max_tokens: int | None, where: str | None, as_json: bool
) -> int:
    """Put failed pages and rejected files back to the queue.

    Workers that run read them; else it says which command does. --cause length is for answers that were cut at their
    longest length, which are no failures: they go on where they ended, and their text is shown meanwhile. Those that do
    not fit their JSON Schema therefore are failures, and are read anew.
    """
    from pipeline.database.open import open_database
    from pipeline.query.batch_status import find_batch, paths_not_taken_in
    from pipeline.query.go_on import go_on_command
    from pipeline.settings import load_settings
    from pipeline.store.retries import retry_failures

    settings = load_settings(home=home)
    db = open_database(settings)
    chosen = find_batch(db, batch)
    _check_cause(settings, chosen.batch_id, cause)
    if cause == LENGTH:
        return _go_on(settings, db, chosen, max_tokens, where, as_json)
    if max_tokens is not None:
        raise UsageError(f"--max-tokens {max_tokens} is for answers that were cut; add --cause {LENGTH}")
    failures = _chosen_failures(settings, chosen.batch_id, cause, where)
    opened = any(retry_failures(db, chosen.id, [(path, number) for path, number, _ in failures]))
    not_taken_in = paths_not_taken_in(db, chosen)
    again = sum(number is None and path in not_taken_in for path, number, _ in failures)
    files, pages = _counted([one for one in failures if one[0] not in not_taken_in]) if opened else (0, 0)
    command = go_on_command(db, chosen.command) if chosen.command is not None else None
    if as_json:
        waiting = {"files_waiting": files, "pages_waiting": pages, "files_looked_at_again": again}
        click.echo(json.dumps({**waiting, "command": command}))
    else:
        readers = _why_nobody_reads(db, chosen.batch_id) if files + pages else None
        of = "" if cause is None else f", of the cause {cause} or another"
        none = f"this batch has no failures{of}" if not _causes(settings, chosen.batch_id) else None
        for line in _lines(files, pages, again, command, readers, none):
            click.echo(line)
    return EXIT_DONE if files + pages + again else EXIT_NOTHING


def _go_on(
    settings: Settings, db: Database, batch: BatchRow, max_tokens: int | None, where: str | None, as_json: bool
) -> int:
    """Of the answers that were cut at their longest length, those that fit."""
    from pipeline.cli.progress_bar import counted
    from pipeline.query.go_on import go_on_command
    from pipeline.store.retries import retry_cut

    cut = "SELECT DISTINCT source_path, page_number, document_id, output_tokens FROM page_text"
    select = f"{cut} WHERE finish_reason = '{LENGTH}' AND batch_id = {quoted(batch.batch_id)}"
    unfit = f"SELECT DISTINCT f.source_path, f.page_number, f.document_id, {_TOKENS_OF_A_FAILURE} FROM failures f"
    failed = f"{unfit} WHERE f.cause = '{LENGTH}' AND f.batch_id = {quoted(batch.batch_id)}"
    rows = [*_selected(settings, select, where), *_selected(settings, failed, where)]
    most = max((int(str(row[3])) for row in rows), default=0)
    wanted = 2 * most if max_tokens is None else max_tokens
    waiting = retry_cut(db, batch.id, [(str(row[0]), int(str(row[1]))) for row in rows], wanted) if rows else 0
    pages = len({row[1:3] for row in rows if int(str(row[3])) < wanted}) if waiting else 0
    command = go_on_command(db, batch.command) if batch.command is not None else None
    if as_json:
        counts = {"files_waiting": 0, "pages_waiting": pages, "files_looked_at_again": 0, "max_tokens": wanted}
        click.echo(json.dumps({**counts, "command": command}))
    elif waiting:
        readers = _why_nobody_reads(db, batch.batch_id)
        for line in _lines(0, pages, 0, command, readers):
            click.echo(line)
        click.echo(f"their answers go on where they were cut, up to {wanted:,} tokens")
    elif rows:
        click.echo(
            f"nothing waits again: the answers of {counted(len(rows), 'page')} were cut at {most:,} tokens, which is "
            f"not below --max-tokens {wanted:,}; give more"
        )
    else:
        of = "" if where is None else " and fits --where"
        click.echo(f"nothing waits again: no answer of this batch was cut at its longest length{of}")
    return EXIT_DONE if waiting else EXIT_NOTHING


def _counted(failures: Sequence[Failure]) -> tuple[int, int]:
    """Files that failed as a whole, and pages of others; a page once, at however many paths and for many prompts."""
    files = {path for path, number, _ in failures if number is None}
    return len(files), len({(document, number) for path, number, document in failures if path not in files})


def _lines(
    files: int, pages: int, again: int, command: str | None, nobody_reads: str | None, none: str | None = None
) -> list[str]:
    """What waits and who reads it; `nobody_reads` says why no worker does, `none` that nothing has failed."""
    from pipeline.cli.progress_bar import counted

    if not files + pages + again:
        return [f"nothing waits again: {none or 'no failure of this batch fits'}"]
    parts = [counted(number, word) for number, word in ((files, "file"), (pages, "page")) if number]
    waiting = f"{' and '.join(parts)} wait{'s' if files + pages == 1 else ''} again"
    one = again == 1
    looked = f"{counted(again, 'file')} that {'was' if one else 'were'} not taken in {'is' if one else 'are'} looked at"
    looked += " again"
    go_on = None if command is None else f"go on with: {command}"
    if files + pages and again and go_on and nobody_reads:
        return [f"{waiting}, and {looked}; {go_on}"]
    lines = []
    if files + pages:
        lines.append(f"{waiting}; {(go_on or nobody_reads) if nobody_reads else 'workers that run read what waits'}")
    if again:
        lines.append(f"{looked}; {go_on}" if go_on else f"{looked} when the same is run or submitted")
    return lines


def _why_nobody_reads(db: Database, batch_id: str) -> str | None:
    """Asked of the batch as it is now: running again. None where its run or workers read it."""
    from pipeline.query.batch_status import asked_prompts, find_batch, who_works
    from pipeline.store.fleet import why_nobody_reads, workers
    from pipeline.store.worked_on_by import WorkedOnBy

    batch = find_batch(db, batch_id)
    if who_works(db, batch) == WorkedOnBy.RUN:
        return None
    there = [worker for worker in workers(db) if worker.role != "run"]
    prompts, is_hinted = asked_prompts(db, batch.id), batch.text_layer == "hint"
    return why_nobody_reads(there, batch.engine, batch.model, prompts, is_hinted=is_hinted)


def _chosen_failures(settings: Settings, batch_id: str, cause: str | None, where: str | None) -> list[Failure]:
    """A batch's failures that fit.

    Raises:
        UsageError: no failure has the cause, though there are failures; or `where` is no condition.
    """
    of_batch = f"FROM failures WHERE batch_id = {quoted(batch_id)}"
    select = f"SELECT DISTINCT source_path, page_number, document_id {of_batch}"
    if cause is not None:
        causes = _causes(settings, batch_id)
        if causes and cause not in causes:
            near = did_you_mean(cause, causes) or ";"
            raise UsageError(f"--cause {cause}: no failure of this batch has it{near} they have {', '.join(causes)}")
        select += f" AND cause = {quoted(cause)}"
    rows = _selected(settings, select, where)
    return [(str(name), int(str(number)) if number is not None else None, document) for name, number, document in rows]


def _check_cause(settings: Settings, batch_id: str, cause: str | None) -> None:
    """Raises UsageError: nothing ever fails for it."""
    from schemas.states import CAUSES

    if cause is not None and cause not in CAUSES and cause not in _causes(settings, batch_id):
        near = did_you_mean(cause, CAUSES) or ";"
        raise UsageError(f"--cause {cause}: there is no such cause{near} causes are {', '.join(CAUSES)}")


def _causes(settings: Settings, batch_id: str) -> list[str]:
    """Of a batch's failures."""
    select = f"SELECT DISTINCT cause FROM failures WHERE batch_id = {quoted(batch_id)} ORDER BY 1"
    return [str(name) for (name,) in _selected(settings, select, None)]


def _selected(settings: Settings, select: str, where: str | None) -> list[tuple[object, ...]]:
    """Rows of a statement that ends with its conditions. Raises UsageError: `where` is none."""
    from pipeline.query.sql import run_sql

    if where is not None:
        select += f" AND ({where}\n)"
    try:
        return [tuple(row) for row in run_sql(settings, select).rows]
    except UsageError as error:
        raise UsageError(f"--where {where}: {error}" if where is not None else str(error)) from error
