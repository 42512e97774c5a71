"""The commands that have pages read: run, submit, worker."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pipeline.cli.batch_options import batch_options, take_selection
from pipeline.cli.command_again import words_of_this_command
from pipeline.cli.options import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    Choice,
    cli,
    devices_option,
    engine_options,
    home_option,
)
from pipeline.cli.prompts import choose_asked_prompts, take_sampling
from pipeline.cli.summary import files_not_read, summarize
from pipeline.cli.where import database_name
from schemas.prompts import Prompt

if TYPE_CHECKING:
    from pipeline.cli.progress_bar import ProgressBar
    from pipeline.database.engine import Database
    from pipeline.database.looking import Looking
    from pipeline.ingest.selection import Seen, Selection
    from pipeline.settings import Settings
    from pipeline.supervisor.engine_choice import EngineChoice


@cli.command()
@batch_options
@devices_option
@click.option("--serve", "serves", is_flag=True, help="Show it in a browser meanwhile, as `pagepack serve` does.")
def run(
    paths: tuple[str | Path, ...],
    home: Path | None,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    schemas: tuple[Path, ...],
    batch: str | None,
    pages: str | None,
    devices: str | None,
    serves: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Read files and folders here, from first to last page, into the database.

    Takes PDFs, images, office documents, mails and archives of them, by their content, not their names; a path may be
    a URL, like s3://bucket/prefix. What cannot be taken in or read is in the view `failures` with its reason; the rest
    goes on. Run the same command again to go on after an interruption, or after files were added; no page is read
    twice. Ctrl-C stops: pages in hand may be finished first, and a second Ctrl-C stops now.
    """
    from pipeline.ingest.submission import parse_pages
    from pipeline.settings import load_settings

    sampling, selection = take_sampling(flags), take_selection(flags)
    settings = load_settings(home=home, **flags)
    chosen = choose_asked_prompts(prompts, prompt_files, sampling, schemas)
    started = time.monotonic()
    command = words_of_this_command(settings)
    asked = (settings, paths, chosen, batch, parse_pages(pages), devices, selection)
    done = execute(*asked, command=command, serves=serves, says_size=True)
    if done is None:
        return EXIT_INTERRUPTED
    return summarize(settings, done.batch_id, time.monotonic() - started, as_json, done.seen.num_ignored)


class Done(NamedTuple):
    """A batch that has come to its end, and the files that were met for it."""

    batch_id: str
    seen: Seen


def execute(
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    batch: str | None,
    pages: Sequence[tuple[int, int]],
    devices: str | None,
    selection: Selection | None = None,
    *,
    is_question: bool = False,
    beside: bool = False,
    command: Sequence[str] | None = None,
    is_evaluation: bool = False,
    serves: bool = False,
    says_size: bool = False,
) -> Done | None:
    """Run the job under a progress bar; None where the user stopped it. `says_size`: how much there is, first."""
    from rich.console import Console

    from pipeline.blobs.storage import import_for
    from pipeline.cli.progress_bar import ProgressBar, counted, unit_of
    from pipeline.cli.serve import served_beside
    from pipeline.ingest.selection import ALL_FILES
    from pipeline.supervisor.forked import fork_ahead
    from pipeline.supervisor.local_run import Run, Stopped
    from pipeline.supervisor.process_slots import process_slots

    slots = process_slots("both", devices)
    import_for([*paths, settings.images_url, settings.inputs_url])
    with (
        served_beside(settings) as serve,
        fork_ahead(len(slots) + 1) as spare,  # one says which engine reads
        ProgressBar(Console(stderr=True), unit_of(prompts)) as bar,
    ):  # before the bar has a thread
        asked = (settings, paths, prompts, batch, bar.say, bar.show, pages, spare, slots, selection or ALL_FILES)

        def on_open(db: Database, choice: EngineChoice) -> None:
            if says_size:
                readers = sum(slot.role != "ingest" for slot in slots)
                reading = (choice.engine, choice.model, pages, selection or ALL_FILES)
                _say_size(bar, db, settings, paths, prompts, *reading, readers)
            if serves:
                serve(bar.say)

        job = Run(
            *asked,
            is_question=is_question,
            beside=beside,
            command=command,
            is_evaluation=is_evaluation,
            on_open=on_open,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: job.stop())
        try:
            return Done(job.execute().public_id, job.seen)
        except Stopped as stopped:
            are = "is" if stopped.num_stored == 1 else "are"
            stored = f"{counted(stopped.num_stored, 'answer')} {are} stored in {database_name(settings)}"
            bar.say(f"stopped; {stored}. Run the same command again to go on.")
            return None


def _say_size(
    bar: ProgressBar,
    db: Looking | None,
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    engine: str,
    model: str,
    pages: Sequence[tuple[int, int]],
    selection: Selection,
    num_readers: int,
) -> None:
    """How many files and pages, and how long, as far as a glance tells."""
    from pipeline.cli.plan import brief_line
    from pipeline.planning.asked import asked_of
    from pipeline.planning.brief import brief

    asked = asked_of(settings, prompts, engine, model, pages)
    if (found := brief(db, settings, paths, selection, asked, num_readers)) is not None:
        bar.say(brief_line(found))


@cli.command()
@batch_options
@click.option(
    "--priority",
    default=0,
    show_default=True,
    type=click.IntRange(-(2**31), 2**31 - 1),
    help="A higher one goes first; equal ones share.",
)
@click.option("--notify", metavar="TASK[@QUEUE]", help="Send this Celery task for each document that is done.")
@click.option("--wait", is_flag=True, help="Follow the batch to its end, with its exit code.")
def submit(
    paths: tuple[str | Path, ...],
    home: Path | None,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    schemas: tuple[Path, ...],
    batch: str | None,
    pages: str | None,
    priority: int,
    notify: str | None,
    wait: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Register files and folders for workers elsewhere, and print the batch's id.

    Workers are started with `pagepack worker`, on as many machines as you like. Submitting the same again goes on
    where it was, and takes up files that were added. Ctrl-C ends --wait, and the batch goes on.
    """
    from rich.console import Console

    from pipeline.cli.follow import follow_batch, how_to_follow
    from pipeline.cli.progress_bar import ProgressBar, unit_of
    from pipeline.ingest.selection import Seen
    from pipeline.ingest.submission import check_notify, check_paths, parse_pages
    from pipeline.ingest.submission import submit as submit_batch
    from pipeline.planning.known import look_if_there
    from pipeline.settings import load_settings
    from pipeline.store.fleet import workers
    from pipeline.supervisor.engine_choice import asked_model

    sampling, selection = take_sampling(flags), take_selection(flags)
    settings = load_settings(home=home, **flags)
    check_notify(notify)
    chosen, ranges = choose_asked_prompts(prompts, prompt_files, sampling, schemas), parse_pages(pages)
    started = time.monotonic()
    stopping: list[int] = []
    walk = [Seen(0, 0)]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopping.append(number))
    with ProgressBar(Console(stderr=True), unit_of(chosen)) as bar:

        def show_seen(seen: Seen) -> None:
            walk[:] = [seen]
            bar.seen(seen.num_files)

        check_paths(paths, settings, selection)
        bar.say(f"answers go to {database_name(settings)}")
        engine, model = asked_model(settings, chosen)
        db = look_if_there(settings)
        readers = 0 if db is None else sum(worker.is_reading() for worker in workers(db))
        _say_size(bar, db, settings, paths, chosen, engine, model, ranges, selection, readers)
        done = submit_batch(
            settings,
            paths,
            chosen,
            batch,
            ranges,
            priority=priority,
            notify=notify,
            on_seen=show_seen,
            is_stopping=lambda: bool(stopping),
            engine=engine,
            model=model,
            selection=selection,
        )
        if stopping:
            bar.say(f"stopped while files were registered; submit the same again to go on with batch {done.public_id}")
            return EXIT_INTERRUPTED
        if not wait:
            if ignored := walk[0].num_ignored:
                bar.say(f"{files_not_read(ignored)}: ignored")
            click.echo(json.dumps({"batch_id": done.public_id, "name": done.name}) if as_json else done.public_id)
            return EXIT_DONE
        bar.say(f"batch {done.public_id}")
        if not follow_batch(settings, done, bar, lambda: bool(stopping)):
            bar.say(how_to_follow(settings, done.public_id))
            return EXIT_INTERRUPTED
    return summarize(settings, done.public_id, time.monotonic() - started, as_json, walk[0].num_ignored)


@cli.command()
@home_option
@engine_options
@click.option(
    "--role", type=Choice(["read", "ingest", "both"]), default="both", show_default=True,
    help="read: one a GPU. ingest: draws documents, on CPUs.",
)  # fmt: skip
@devices_option
def worker(home: Path | None, role: str, devices: str | None, **flags: Any) -> int:
    """Read what was submitted, until told to stop.

    Starts its processes, watches them and starts them again. SIGTERM or Ctrl-C: pages in hand are finished or given
    back, nothing is lost; a second one ends at once. Without PAGEPACK_BROKER_URL it starts a broker for its home.
    """
    from pipeline.blobs.storage import import_for
    from pipeline.settings import load_settings
    from pipeline.supervisor.forked import fork_ahead
    from pipeline.supervisor.process_slots import process_slots
    from pipeline.supervisor.worker_host import WorkerHost

    settings = load_settings(home=home, **flags)
    slots = process_slots(role, devices)
    log = logging.getLogger("pagepack.host")
    import_for([settings.images_url, settings.inputs_url])
    with fork_ahead(len(slots) + 1) as spare:  # one says which engine reads
        host = WorkerHost(settings, slots, log.info, log.warning, spare)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: host.stop())
        host.execute()
    return EXIT_DONE
