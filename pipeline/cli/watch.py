"""`pagepack status --watch`: a batch looked at again and again until it ends.

    on a terminal   the table, drawn anew in its place, below the moment of the look
    elsewhere       a line for each change, as a log holds it
    with --json     an object for each look

It ends with the batch; a restart of the database does not end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipeline.cli.follow import Follower
from pipeline.cli.options import EXIT_DONE, EXIT_INTERRUPTED, one_line
from pipeline.cli.progress_bar import duration
from schemas.states import BatchState

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.query.batch_status import Status
    from pipeline.store.fleet import WorkerRow

_LOOK_SECONDS = 2.0
_SHARE = 20  # a look that takes long is taken more seldom, so that counting does not become the work


def watch_batch(
    look: Callable[[], tuple[Status, Sequence[WorkerRow]]],
    leaving: str,
    table: Callable[[Status, Sequence[WorkerRow]], Table],
    why_nobody_reads: Callable[[Status, Sequence[WorkerRow]], str | None],
    as_json: Callable[[Status, Sequence[WorkerRow]], str] | None,
) -> int:
    """Show what each look finds until the batch ends; the exit code. `leaving` is said to who goes before."""
    console = Console()
    is_drawn = as_json is None and console.is_terminal and not console.is_dumb_terminal
    live = Live(console=console, auto_refresh=False) if is_drawn else None
    lines = _Lines()
    say = _above(live) if live is not None else lambda words: click.echo(words, err=True)

    def timed_look() -> tuple[Status, Sequence[WorkerRow], float]:
        started = time.monotonic()
        return *look(), time.monotonic() - started

    try:
        with Follower(say) as follower, live or nullcontext():
            while True:
                now, there, took = follower.look(timed_look)
                if as_json is not None:
                    click.echo(as_json(now, there))
                elif live is not None:
                    moment = Text(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}; Ctrl-C leaves", "dim")
                    again = [Text(f"go on with:  {now.command}", no_wrap=True)] if now.interrupted else []
                    live.update(Group(moment, table(now, there), *again), refresh=True)
                else:
                    why = why_nobody_reads(now, there) if now.batch.state == BatchState.RUNNING else None
                    lines.show(now, f"go on with: {now.command}" if now.interrupted else why)
                if now.batch.state in (BatchState.FINISHED, BatchState.CANCELLED):
                    return EXIT_DONE
                follower.rest(max(_LOOK_SECONDS, _SHARE * took))
    except KeyboardInterrupt:
        click.echo(leaving, err=True)
        return EXIT_INTERRUPTED


def _above(live: Live) -> Callable[[str], None]:
    """Says something above what is drawn, which stays."""
    return lambda words: live.console.print(words, markup=False, highlight=False, soft_wrap=True)


class _Lines:
    """A line where something changed since the one before; that time went by is no change."""

    def __init__(self) -> None:
        self._before = ""

    def show(self, now: Status, remark: str | None) -> None:
        failures = ", ".join(f"{count:,} × {cause}" for cause, count in now.failures.items())
        files_ended = now.files_done + now.files_failed + now.files_rejected
        state = "interrupted" if now.interrupted else now.batch.state
        said = (
            f"{one_line(now.batch.name)} {state}: {files_ended:,} of {now.files_seen:,} files, "
            f"{now.pages_done:,} of {now.pages_total:,} pages done, {now.pages_failed:,} failed"
        ) + (f" ({failures})" if failures else "")
        if (changed := f"{said} {remark}") == self._before:
            return
        self._before = changed
        rate = f", {now.pages_per_second:.2f} pages/s" if now.pages_per_second else ""
        left = f", {duration(now.seconds_left)} left" if now.seconds_left else ""
        click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {said}{rate}{left}" + (f"; {remark}" if remark else ""))
