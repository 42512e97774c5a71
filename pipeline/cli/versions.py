"""Commands about several answers to the same page: diff, promote, roll-back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.cli.options import EXIT_DONE, EXIT_NOTHING, Choice, cli, home_option, json_option, one_line
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.database.looking import Looking
    from pipeline.query.diff import ChangedPage
    from pipeline.query.word_diff import Piece
    from pipeline.store.answer_sets import ChosenPages

F = TypeVar("F", bound=Callable[..., Any])


def selection_options(command: F) -> F:
    command = click.option("--path", metavar="PATTERN", help="Only files there: letters/, '*.pdf', '2019/a*'.")(command)
    command = click.option("--batch", metavar="BATCH", help="Only files of this batch.")(command)
    return click.option("--prompt", metavar="NAME", help="Only answers to this prompt.")(command)


def _selection(db: Looking, prompt: str | None, batch: str | None, path: str | None) -> ChosenPages:
    from pipeline.query.batch_status import check_prompt, find_batch
    from pipeline.store.answer_sets import AnswerSet, ChosenPages

    if prompt is not None:
        check_prompt(db, prompt)
    found = find_batch(db, batch) if batch else None
    return ChosenPages(prompt, AnswerSet("batch", found.batch_id, found.id) if found else None, path)


@cli.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="[B]", default="current")
@home_option
@selection_options
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="So many pages.")
@click.option("--format", "form", type=Choice(["table", "csv", "json"]), help="[lines with the changes marked]")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def diff(
    before: str,
    after: str,
    home: Path | None,
    prompt: str | None,
    batch: str | None,
    path: str | None,
    limit: int,
    form: str | None,
    as_json: bool,
) -> int:
    """Pages whose answers in A and B differ, those that changed most first: [-only in A-] {+only in B+}.

    \b
      pagepack diff rapidocr tesseract          two engines
      pagepack diff 2025 2026                   two batches, by name or id
      pagepack diff 4f0c 91ab --prompt ocr      two versions of a prompt; see `SELECT * FROM prompts`
      pagepack diff text-layer current          what PDFs say themselves, and what is shown now

    A and B are engines, models, prompts, versions of a prompt, batches, or `current`, which B is where it is left out;
    a beginning is enough. Where a word is several, write engine:…, model:…, prompt:…, version:… or batch:….
    """
    from pipeline.database.open_to_look import open_to_look
    from pipeline.query.answer_names import find_answers
    from pipeline.query.diff import compare
    from pipeline.settings import load_settings

    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other")
    db = open_to_look(load_settings(home=home))
    sets = find_answers(db, before), find_answers(db, after)
    if sets[0] == sets[1]:
        raise UsageError(f"{before!r} and {after!r} are the same answers: {sets[0].name}")
    found = compare(db, *sets, _selection(db, prompt, batch, path), limit)
    _write(found.pages, "json" if as_json else form)
    if not found.compared:
        click.echo(f"pagepack: no page has an answer both of {sets[0].name} and of {sets[1].name}", err=True)
        return EXIT_NOTHING
    more = f"; {len(found.pages):,} shown, --limit shows more" if len(found.pages) < found.changed else ""
    click.echo(
        f"{sets[0].name} against {sets[1].name}: {found.changed:,} of {found.compared:,} answers differ{more}", err=True
    )
    return EXIT_DONE


_COLUMNS = ("source_path", "page_number", "prompt", "words_changed", "words", "share", "diff")


def say_changed(pages: Iterable[ChangedPage]) -> None:
    """For people: a line with the page, a line with what changed."""
    for page in pages:
        of = f"{page.prompt}: {page.words_changed:,} of {page.words:,} words"
        _echo(click.style(f"{one_line(page.source_path)}:{page.page_number}", bold=True) + f"  {one_line(of)}")
        _echo(f"    {coloured(page.pieces)}")


def _write(pages: Iterable[ChangedPage], form: str | None) -> None:
    from pipeline.query.formats import write_csv, write_json, write_table
    from pipeline.query.word_diff import marked

    if form is None:
        say_changed(pages)
        return
    rows = (
        (
            page.source_path,
            page.page_number,
            page.prompt,
            page.words_changed,
            page.words,
            round(page.share, 4),
            marked(page.pieces),
        )
        for page in pages
    )
    writers: dict[str, Callable[..., int]] = {"table": write_table, "csv": write_csv, "json": write_json}
    writers[form](sys.stdout, _COLUMNS, rows)


def coloured(pieces: list[Piece]) -> str:
    """One line with the changes in their marks; red and green where that is seen."""
    from pipeline.query.word_diff import COLOURS, in_order

    return "".join(
        click.style(one_line(text), fg=COLOURS[change]) if change in COLOURS else one_line(text)
        for change, text in in_order(pieces)
    )


def _echo(text: str) -> None:
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


@cli.command()
@click.argument("answers", metavar="A")
@home_option
@selection_options
@json_option
def promote(
    answers: str, home: Path | None, prompt: str | None, batch: str | None, path: str | None, as_json: bool
) -> int:
    """Make the answers of A current: page_text, search and export show them, whatever is read later.

    \b
      pagepack promote tesseract --path letters/       an engine's, for some files
      pagepack promote version:4f0c --batch 2025       those to an older version of a prompt
      pagepack promote current                         what is shown now stays

    A is named as for `pagepack diff`. `pagepack roll-back` takes it back; the view `promotions` lists them.
    """
    from pipeline.cli.progress_bar import counted
    from pipeline.database.open import open_database
    from pipeline.query.answer_names import find_answers
    from pipeline.settings import load_settings
    from pipeline.store.answer_sets import count_untaken
    from pipeline.store.promotions import promote as promote_answers

    db = open_database(load_settings(home=home))
    chosen = find_answers(db, answers)
    pages = _selection(db, prompt, batch, path)
    done = promote_answers(db, chosen, pages)
    if as_json:
        counts = {"held": done.held, "changed": done.changed} if done else {"held": 0, "changed": 0}
        click.echo(json.dumps({"promotion_id": done.promotion_id if done else None, "answers": chosen.name, **counts}))
    elif done:
        were = "was" if done.changed == 1 else "were"
        click.echo(
            f"promotion {done.promotion_id}: {counted(done.held, 'answer')} of {chosen.name} current, "
            f"of which {done.changed:,} {were} not; later runs leave them; "
            f"`pagepack roll-back {done.promotion_id}` takes it back"
        )
    if chosen.is_own_text and (number := count_untaken(db, pages)):
        carry = "1 page there carries" if number == 1 else f"{number:,} pages there carry"
        they = "It is not promoted" if number == 1 else "They are not promoted"
        click.echo(
            f"pagepack: {carry} text that was never taken as an answer. {they}; `pagepack run PATH "
            "--text-layer prefer` takes what is sound, and `always` the rest",
            err=True,
        )
    elif done is None:
        click.echo(f"pagepack: no page there has an answer of {chosen.name}; nothing is promoted", err=True)
    if done is None:
        return EXIT_NOTHING
    return EXIT_DONE


@cli.command("roll-back")
@click.argument("promotion", required=False, type=click.IntRange(1))
@home_option
@selection_options
@json_option
def roll_back(
    promotion: int | None, home: Path | None, prompt: str | None, batch: str | None, path: str | None, as_json: bool
) -> int:
    """Take a PROMOTION back, the latest if none is named: pages show what they would without it.

    That is the answer of an earlier promotion that stands, else the latest that was asked for. With --path, --batch or
    --prompt it is taken back for those alone, and stands for the others.
    """
    from pipeline.cli.progress_bar import counted
    from pipeline.database.open import open_database
    from pipeline.settings import load_settings
    from pipeline.store.promotions import roll_back as take_back
    from pipeline.store.promotions import standing

    db = open_database(load_settings(home=home))
    stand = standing(db)
    if promotion is not None and promotion not in [row.id for row in stand]:
        there = ", ".join(f"{row.id} ({row.answers})" for row in stand[:6]) or "none"
        raise UsageError(f"no promotion {promotion} stands; there stand {there}")
    done = take_back(db, _selection(db, prompt, batch, path), promotion)
    if as_json:
        fields = ("promotion_id", "answers", "released", "changed", "left")
        click.echo(json.dumps({name: getattr(done, name, None if name[0] in "pa" else 0) for name in fields}))
    elif done:
        left = f"; {done.left:,} others it holds still" if done.left else ""
        click.echo(
            f"promotion {done.promotion_id} ({done.answers}) taken back for {counted(done.released, 'answer')}, of "
            f"which {done.changed:,} {'shows' if done.changed == 1 else 'show'} another text now{left}"
        )
    if done is None:
        click.echo("pagepack: nothing to roll back: no promotion holds a page there", err=True)
        return EXIT_NOTHING
    return EXIT_DONE
