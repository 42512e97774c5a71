"""The command `batches`: what was asked for, the latest first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import EXIT_DONE, cli, home_option, json_option, one_line

_SIDES = "<<>><<<"  # numbers stand to the right


@cli.command()
@home_option
@json_option
def batches(home: Path | None, as_json: bool) -> int:
    """All batches, the latest first: id, state, files, pages, when they started and finished (UTC), name.

    `pagepack status BATCH` says more of one. --json: an object a line, with the counts of the view `batch_summary`
    and `interrupted`.
    """
    from pipeline.database.open_to_look import open_to_look
    from pipeline.query.batch_list import list_batches
    from pipeline.settings import load_settings

    listed = list_batches(open_to_look(load_settings(home=home)))
    if as_json:
        for batch in listed:
            click.echo(json.dumps(asdict(batch), ensure_ascii=False, default=lambda moment: moment.isoformat()))
        return EXIT_DONE
    if not listed:
        click.echo("no batch yet; `pagepack run PATH` makes one", err=True)
        return EXIT_DONE
    rows = [("batch", "state", "files", "pages", "started", "finished", "name")]
    for batch in listed:
        files = _of(batch.files_done + batch.files_failed + batch.files_rejected, batch.files_seen)
        pages = _of(batch.pages_done + batch.pages_failed, batch.pages_total)
        times = _minute(batch.started_at), _minute(batch.finished_at)
        state = "interrupted" if batch.interrupted else batch.state
        rows.append((batch.batch_id, state, files, pages, *times, one_line(batch.name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, _SIDES, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    return EXIT_DONE


def _of(done: int, total: int) -> str:
    return f"{total:,}" if done == total else f"{done:,} of {total:,}"


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "–"
