"""Commands about a batch: how far it is, stop and go, its failures again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import EXIT_DONE, EXIT_NOTHING, cli, home_option, json_option, one_line

if TYPE_CHECKING:
    from rich.table import Table


# Both look the same in the database, so neither is claimed.
_NOT_ALL_SEEN = (
    "still being registered, or that was interrupted and the batch waits for it: repeat the same `pagepack submit` "
    "or `pagepack run`"
)


@cli.command()
@click.argument("batch", required=False)
@home_option
@click.option("--watch", is_flag=True, help="Again every two seconds until the batch is finished; Ctrl-C leaves.")
@json_option
def status(batch: str | None, home: Path | None, watch: bool, as_json: bool) -> int:
    """How far a batch is: counts, rate, time left, failures by cause. BATCH is an id or a name; default the latest."""
    from rich.console import Console

    from pipeline.database.open_to_look import open_to_look
    from pipeline.query.batch_status import find_batch
    from pipeline.query.batch_status import status as query_status
    from pipeline.settings import load_settings
    from pipeline.store.fleet import workers

    settings = load_settings(home=home)
    db = open_to_look(settings)
    followed = find_batch(db, batch).batch_id  # the one of now: a later one may be the latest, or have the same name

    def look() -> tuple[Any, Sequence[Any]]:
        return query_status(db, find_batch(db, followed)), workers(db)

    def as_line(now: Any, there: Sequence[Any]) -> str:
        row = status_json(now) | {"workers": [asdict(worker) for worker in there]}
        return json.dumps(row, ensure_ascii=False)

    if watch:
        from pipeline.cli.follow import how_to_follow
        from pipeline.cli.watch import watch_batch

        leaving = how_to_follow(settings, followed)
        return watch_batch(look, leaving, _status_table, _why_nobody_reads, as_line if as_json else None)
    if as_json:
        click.echo(as_line(*look()))
        return EXIT_DONE
    now, there = look()
    Console().print(_status_table(now, there))
    if now.interrupted:
        click.echo(f"go on with:  {now.command}")  # no table breaks it
    return EXIT_DONE


def status_json(status: Any) -> dict[str, Any]:
    """What `status --json` and `run --json` print of a `batch_status.Status`."""
    fields = asdict(status)
    batch = fields.pop("batch")
    del batch["id"], batch["command"]
    for name in ("started_at", "finished_at"):
        batch[name] = batch[name].isoformat() if batch[name] else None
    return {**batch, **fields}


def pages_by_reason(look: Mapping[str, int]) -> str:
    """`low-confidence (3 pages), warning (1 page)`."""
    from pipeline.cli.progress_bar import counted

    return ", ".join(f"{reason} ({counted(count, 'page')})" for reason, count in look.items())


def _status_table(status: Any, workers: Sequence[Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.progress_bar import duration
    from pipeline.store.worked_on_by import WorkedOnBy

    table = Table(show_header=False, box=None, pad_edge=False)
    rate, left = status.pages_per_second, status.seconds_left
    state = "interrupted" if status.interrupted else status.batch.state
    rows = {
        "batch": f"{one_line(status.batch.name)}  ({status.batch.batch_id}, {state})",
        "files": f"{status.files_seen:,} seen = {status.files_done:,} done + {status.files_failed:,} failed + "
        f"{status.files_rejected:,} rejected{_waiting(status)}",
        "pages": f"{status.pages_total:,} known: {status.pages_done:,} done, {status.pages_failed:,} failed",
        "rate": f"{rate:.2f} pages/s in the last minute" + (f", {duration(left)} left" if left else ""),
        "failures": ", ".join(f"{count:,} × {cause}" for cause, count in status.failures.items()) or "none",
        "look": pages_by_reason(status.pages_worth_a_look),
        "workers": "\n".join(map(_worker_line, workers)) or "none is running",
    }
    if not status.batch.all_seen and status.batch.state in ("running", "paused"):
        by_run = "still being registered" if status.worked_on_by == WorkedOnBy.RUN else _NOT_ALL_SEEN
        rows["files"] += "\n" + ("not all of them are registered yet" if status.interrupted else by_run)
    if state == "running" and (why := _why_nobody_reads(status, workers)):
        rows["workers"] += f"\n{why}"
    if state in ("interrupted", "cancelled"):
        del rows["rate"]
    if not rows["look"]:
        del rows["look"]
    if state == "interrupted":
        rows["workers"] = "none is there that reads it"  # those of another run are not meant, and a killed one's linger
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _why_nobody_reads(status: Any, workers: Sequence[Any]) -> str | None:
    """A run starts its own readers, and they read nothing else."""
    from pipeline.store.fleet import why_nobody_reads
    from pipeline.store.worked_on_by import WorkedOnBy

    by_run = status.worked_on_by == WorkedOnBy.RUN
    there = [worker for worker in workers if by_run or worker.role != "run"]
    batch, is_hinted = status.batch, status.batch.text_layer == "hint"
    why = why_nobody_reads(there, batch.engine, batch.model, status.prompts, is_hinted=is_hinted)
    if why is not None and by_run:
        return "the `pagepack run` is there, and starts what reads"
    return why


def _worker_line(worker: Any) -> str:
    """`read on gpu7 (GPU 0): pixtral, 96 pages at once`."""
    from pipeline.cli.progress_bar import counted, duration

    device = f" (GPU {worker.device})" if worker.device is not None else ""
    slots = counted(worker.slots, "document" if worker.role == "ingest" else "page")
    silent = f", silent for {duration(worker.silent_seconds)}" if worker.silent_seconds > 30 else ""
    engine = f"{worker.engine}, " if worker.engine else ""
    return f"{worker.role} on {worker.host}{device}: {engine}{slots} at once{silent}"


def _waiting(status: Any) -> str:
    """Nothing waits for a batch that was cancelled; what others ask for too is theirs now."""
    waiting = int(status.files_seen - status.files_done - status.files_failed - status.files_rejected)
    if status.batch.state != "cancelled":
        return f" + {waiting:,} waiting"
    return f" + {waiting:,} left to other batches" if waiting else ""


def _change(ref: str | None, home: Path | None, done: str, wrong: str, change: Callable[[Any, int], bool]) -> int:
    """Find a batch and change its state; one that is not in a state for it is said, and nothing changes."""
    from pipeline.database.open import open_database
    from pipeline.query.batch_status import find_batch
    from pipeline.settings import load_settings

    db = open_database(load_settings(home=home))
    batch = find_batch(db, ref)
    if not change(db, batch.id):
        click.echo(f"batch {batch.name} ({batch.batch_id}) is {batch.state}: {wrong}")
        return EXIT_NOTHING
    click.echo(f"batch {batch.name} ({batch.batch_id}) {done}")
    return EXIT_DONE


@cli.command()
@click.argument("batch", required=False)
@home_option
def pause(batch: str | None, home: Path | None) -> int:
    """Give no more pages of a batch to workers; those in their hands are finished. BATCH: as for `status`."""
    from pipeline.store.batch_states import pause_batch

    return _change(batch, home, "is paused; `pagepack resume` goes on", "only a running one is paused", pause_batch)


@cli.command()
@click.argument("batch", required=False)
@home_option
def resume(batch: str | None, home: Path | None) -> int:
    """Go on with a paused batch."""
    from pipeline.store.batch_states import resume_batch

    return _change(batch, home, "goes on", "only a paused one is resumed", resume_batch)


@cli.command()
@click.argument("batch")
@home_option
def cancel(batch: str, home: Path | None) -> int:
    """End a batch: what is not read yet fails with the cause `cancelled`. What was read stays.

    Submitting or running the same again takes it up where it was.
    """
    from pipeline.store.batch_states import cancel_batch

    return _change(batch, home, "is cancelled", "it has ended before", cancel_batch)
