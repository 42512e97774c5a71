"""What `run` and `submit --wait` print at their end: counts, what was not read and why, where the text is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from pipeline.cli.batches import pages_by_reason, status_json
from pipeline.cli.options import EXIT_DONE, exit_code_of, one_line, quoted
from pipeline.cli.where import database_name, looking_words
from pipeline.query.go_on import shell_quoted

if TYPE_CHECKING:
    from pipeline.settings import Settings


_NAMED = 10


def _named_failures(settings: Settings, batch_id: str, count: int, where: str) -> Iterator[str]:
    """Lines with the files and pages of a batch that were not read, and why; the first ten, then how many more."""
    from pipeline.query.sql import run_sql
    from pipeline.store.sources import UNSUPPORTED

    first = f"cause = {quoted(UNSUPPORTED)}, source_path, page_number"  # what is no failure stands last
    of_batch = f"FROM failures WHERE batch_id = {quoted(batch_id)} ORDER BY {first}"
    found = run_sql(settings, f"SELECT source_path, page_number, reason {of_batch} LIMIT {_NAMED}")
    for name, number, reason in found.rows:
        page = "" if number is None else f" page {number!s}"
        is_named = f"page {number!s} of {name!s}:" in str(reason) if page else str(name) in str(reason)
        named = "" if is_named else f"{name!s}{page}: "
        yield f"  {one_line(named + str(reason))}"
    if count > _NAMED:
        yield f'  and {count - _NAMED:,} more: pagepack sql{where} "SELECT source_path, page_number, reason {of_batch}"'


def files_not_read(count: int) -> str:
    """`2 files are of a kind that is not read`."""
    from pipeline.cli.progress_bar import counted

    return f"{counted(count, 'file')} {'is' if count == 1 else 'are'} of a kind that is not read"


def _worth_a_look(batch_id: str, look: Mapping[str, int], where: str) -> Iterator[str]:
    from pipeline.cli.progress_bar import counted
    from pipeline.query.worth_a_look import statement
    from schemas.review import ReviewReason

    if look:
        yield f"worth a look: {pages_by_reason(look)}"
        yield f'look:  pagepack sql{where} "{statement(batch_id)}"'
    if cut := look.get(ReviewReason.LENGTH, 0):
        were, they = ("was", "it") if cut == 1 else ("were", "they")
        yield (
            f"{counted(cut, 'page')} {were} cut at the longest length of an answer; the text until there is stored; "
            f"{they} may go on: pagepack retry{where} --cause length"
        )


def summarize(settings: Settings, batch_id: str, seconds: float, as_json: bool, num_ignored: int) -> int:
    """Print it; the exit code."""
    from pipeline.cli.progress_bar import counted, duration
    from pipeline.database.open import open_database
    from pipeline.query.batch_status import (
        answered_by_others,
        answers_held,
        find_batch,
        pages_done_within,
    )
    from pipeline.query.batch_status import status as query_status
    from pipeline.store.costs import cost_of_batch
    from pipeline.store.drawn_otherwise import files_drawn_for_another_model, files_drawn_otherwise
    from pipeline.store.sources import UNSUPPORTED

    db = open_database(settings)
    batch = find_batch(db, batch_id)
    summary = query_status(db, batch)
    done_now = min(pages_done_within(db, batch.id, seconds), summary.pages_done)
    otherwise, held = files_drawn_otherwise(db, batch.id), answers_held(db, batch.id)
    for_another = files_drawn_for_another_model(db, batch.id) if otherwise else 0
    cost, others = cost_of_batch(db, batch.id), answered_by_others(db, batch.id)
    unsupported = summary.failures.get(UNSUPPORTED, 0)
    code = exit_code_of(summary.failures)
    if as_json:
        more = {"seconds": round(seconds, 2), "files_ignored": num_ignored, "pages_done_now": done_now}
        more |= {} if cost is None else {"cost": round(cost, 6)}
        more |= {"files_drawn_otherwise": otherwise, "files_drawn_for_another_model": for_another}
        more |= {"answers_held": held}
        click.echo(json.dumps({**status_json(summary), **more, "answered_by_others": others}, ensure_ascii=False))
    else:
        now = "" if done_now == summary.pages_done else f"{done_now:,} of them now, "
        rate = f" ({now}{done_now / seconds:.2f} pages/s)" if done_now else ""
        click.echo(
            f"{counted(summary.files_seen, 'file')} seen: {summary.files_done:,} done, "
            f"{summary.files_failed:,} failed, {summary.files_rejected:,} rejected\n"
            f"{counted(summary.pages_total, 'page')}: {summary.pages_done:,} done, {summary.pages_failed:,} failed, "
            f"in {duration(seconds)}{rate}"
        )
        if by_layer := summary.engines.get("text-layer", 0):
            click.echo(f"  {counted(by_layer, 'page')} by their text layer; --text-layer keep reads them, too")
        if blank := summary.engines.get("blank", 0):
            click.echo(f"  {counted(blank, 'page')} blank, by the picture; PAGEPACK_BLANK_PAGES=read reads them, too")
        if cost is not None:
            click.echo(f"  the batch has cost {cost:,.4g}, by the prices that were set")
        for model, count in others.items():
            were = "was" if count == 1 else "were"
            click.echo(
                f"  {counted(count, 'page')} {were} answered by {one_line(model)}, another model than was asked for; "
                "the column model has its name"
            )
        for cause, count in summary.failures.items():
            click.echo(f"  {count:,} × {cause}")
        where = "".join(f" {shell_quoted(word)}" for word in looking_words(settings))
        for line in _named_failures(settings, batch_id, sum(summary.failures.values()), where):
            click.echo(line)
        for line in _worth_a_look(batch_id, summary.pages_worth_a_look, where):
            click.echo(line)
        click.echo(f"text in {database_name(settings)}")
        click.echo(f'read:  pagepack sql{where} "SELECT source_path, page_number, text FROM page_text"')
        if held:
            click.echo(
                f"{counted(held, 'answer')} {'is' if held == 1 else 'are'} stored and not shown: others were promoted "
                "there; `pagepack roll-back` shows the latest"
            )
        if otherwise:
            are = "keeps its" if otherwise == 1 else "keep their"
            what = "of another --detail" if for_another < otherwise else "drawn for another model"
            what += " or drawn for another model" if 0 < for_another < otherwise else ""
            click.echo(
                f"{counted(otherwise, 'file')} {are} page images {what}, and the answers to them: "
                "`pagepack forget` and the same command again draw them anew"
            )
        if unsupported and code == EXIT_DONE:
            click.echo(f"{files_not_read(unsupported)}: no failure; --ignore-unsupported leaves such files out")
        if num_ignored:
            click.echo(f"{files_not_read(num_ignored)}: ignored")
    return code
