"""`pagepack ask`: a question to pages, answered by whoever reads there already, else by readers of its own.

a reader that answers is there ──► leave it the question, and follow        (its end: from the beginning)
nobody has the home            ──► a run of our own
somebody has it                ──► a run beside theirs; while their readers load, wait for them
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.command_again import words_of_this_command
from pipeline.cli.jobs import execute
from pipeline.cli.options import (
    EXIT_INTERRUPTED,
    cli,
    devices_option,
    engine_options,
    exit_code_of,
    home_option,
    json_option,
    one_line,
    pages_option,
    path_or_url,
    quoted,
    sampling_options,
    schema_option,
)
from pipeline.cli.prompts import question, take_sampling
from pipeline.cli.where import database_name, looking_words
from pipeline.errors import UsageError
from pipeline.query.go_on import shell_quoted
from schemas.prompts import Prompt

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.store.fleet import WorkerRow

_PRIORITY = 100  # somebody waits
_LOADING_SECONDS = 600.0  # a large model takes minutes; and a host that only draws has no reader at all
_LOOK_SECONDS = 0.5


class _NobodyReads(Exception):
    """The reader that the question was left to is gone."""


class _Left(Exception):
    """The user did not wait for the answer."""


@cli.command()
@click.argument("asked", metavar="QUESTION")
@click.argument("paths", nargs=-1, required=True, type=path_or_url)
@pages_option
@sampling_options
@partial(schema_option, multiple=False)
@home_option
@engine_options
@devices_option
@json_option
def ask(
    asked: str,
    paths: tuple[str | Path, ...],
    pages: str | None,
    schema: Path | None,
    home: Path | None,
    devices: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Ask each page a QUESTION of your own, and print the answers.

    \b
      pagepack ask "Which theorem is proved here?" thesis.pdf --pages 3-5 --model /models/pixtral-12b

    A worker or a run that reads in the same home already, and answers questions, answers this one; --model then asks
    for that model, and --devices starts readers on those GPUs beside it. Answers are stored like all others (prompt
    `ask: …`); a page that was asked the same before answers at once.
    """
    from pipeline.ingest.submission import parse_pages
    from pipeline.query.sql import run_sql
    from pipeline.settings import load_settings

    prompt = question(asked, take_sampling(flags), schema)
    settings = load_settings(home=home, **flags)
    ranges = parse_pages(pages)
    done = _have_answered(settings, paths, prompt, ranges, devices)
    if done is None:
        return EXIT_INTERRUPTED
    statement = (
        "SELECT t.source_path, t.page_number, t.text FROM page_text t JOIN files f ON f.source_path = t.source_path "
        f"WHERE f.batch_id = {quoted(done)} AND t.prompt = {quoted(prompt.name)} ORDER BY 1, 2"
    )
    for name, number, text in run_sql(settings, statement).rows:
        if ranges and not any(first < int(str(number)) <= last + 1 for first, last in ranges):
            continue
        if as_json:
            row = {"source_path": name, "page_number": number, "answer": text}
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            click.echo(f"{one_line(str(name))}:{number!s}\n" + str(text) + "\n")
    failures = list(run_sql(settings, f"SELECT cause, reason FROM failures WHERE batch_id = {quoted(done)}").rows)
    for _, reason in failures:
        click.echo(f"pagepack: {one_line(str(reason))}", err=True)
    return exit_code_of(str(cause) for cause, _ in failures)


def _have_answered(
    settings: Settings,
    paths: Sequence[str | Path],
    prompt: Prompt,
    ranges: Sequence[tuple[int, int]],
    devices: str | None,
) -> str | None:
    """The id of the batch whose pages are answered; None where the user stopped it."""
    from pipeline.database.home import HomeInUse

    asked = (settings, paths, [prompt], None, ranges, devices)
    command = words_of_this_command(settings)
    give_up_at = time.monotonic() + _LOADING_SECONDS
    was_said = False
    while True:
        there = _readers(settings) if devices is None else []
        reader = _one_that_answers(settings, prompt, there) if there else None
        try:
            if reader is not None:
                return _leave_to(reader, settings, paths, prompt, ranges, command)
            done = execute(*asked, is_question=True, command=command)
            return done.batch_id if done is not None else None
        except _NobodyReads:
            continue
        except _Left:
            return None
        except HomeInUse as error:
            if there or devices is not None or time.monotonic() > give_up_at:
                done = execute(*asked, is_question=True, beside=True, command=command)
                return done.batch_id if done is not None else None
            if not was_said:
                click.echo(f"pagepack: {error.args[0].partition(';')[0]}; waiting for its readers", err=True)
            was_said = True
            for number in (signal.SIGINT, signal.SIGTERM):  # `execute` has put its own there
                signal.signal(number, signal.default_int_handler)
            time.sleep(_LOOK_SECONDS)


def _readers(settings: Settings) -> list[WorkerRow]:
    """Who is ready to read here; on a server's database a run reads its own batch alone."""
    from pipeline.database.open import open_database
    from pipeline.store.fleet import workers

    is_home = settings.database_url is None
    if is_home and not (settings.home / "pagepack.db").exists():
        return []
    with suppress(UsageError):  # of an earlier version: nobody of this one is there
        db = open_database(settings, readonly=True)
        try:
            return [row for row in workers(db) if row.is_reading() and (is_home or row.role == "read")]
        finally:
            db.dispose()
    return []


def _one_that_answers(settings: Settings, prompt: Prompt, there: Sequence[WorkerRow]) -> WorkerRow | None:
    """With the model that the settings name, where they name one. Raises UsageError: that one does not answer."""
    from pipeline.supervisor.engine_choice import asked_model

    _, model = asked_model(settings, [prompt])
    for row in there:
        if row.model and model in ("", row.model) and (row.prompts is None or prompt.name in row.prompts):
            return row
    return None


def _leave_to(
    reader: WorkerRow,
    settings: Settings,
    paths: Sequence[str | Path],
    prompt: Prompt,
    ranges: Sequence[tuple[int, int]],
    command: Sequence[str],
) -> str:
    """Submit the question for the model of a reader, and follow it to its end; the batch's id.

    Raises:
        _NobodyReads: nobody with that model is there any more. _Left: Ctrl-C.
    """
    from rich.console import Console

    from pipeline.cli.progress_bar import ProgressBar
    from pipeline.database.open import open_database
    from pipeline.ingest.submission import check_paths, submit
    from pipeline.store.progress import batch_state
    from pipeline.store.task_counts import progress
    from schemas.states import BatchState

    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    with ProgressBar(Console(stderr=True)) as bar:
        check_paths(paths, settings)
        bar.say(f"answers go to {database_name(settings)}")
        bar.say(f"asking what reads here already: {reader.engine} ({reader.model}) on {reader.host}")
        batch = submit(
            settings, paths, [prompt], None, ranges, _PRIORITY, None,
            on_seen=lambda seen: bar.seen(seen.num_files), is_stopping=lambda: bool(stopping),
            engine=reader.engine or "any", model=reader.model or "", is_question=True, command=command,
        )  # fmt: skip
        db = open_database(settings, readonly=True)
        try:
            while batch_state(db, batch.id) not in (BatchState.FINISHED, BatchState.CANCELLED):
                bar.show(progress(db, batch.id), None, True)
                if stopping:
                    follow = map(shell_quoted, ["pagepack", "status", batch.public_id, *looking_words(settings)])
                    bar.say(f"the question goes on without you: {' '.join(follow)}")
                    raise _Left
                if all(row.model != reader.model for row in _readers(settings)):
                    bar.say("its readers have ended")
                    raise _NobodyReads
                time.sleep(_LOOK_SECONDS)
        finally:
            db.dispose()
    return batch.public_id
