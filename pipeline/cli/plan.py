"""`pagepack plan`: what a run would take, in ten lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.batch_options import batch_options, take_selection
from pipeline.cli.options import EXIT_DONE, cli
from pipeline.cli.prompts import choose_asked_prompts, take_sampling
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.planning.brief import Brief
    from pipeline.planning.estimate import Plan
    from pipeline.planning.ranges import Range
    from pipeline.planning.reading_time import Device
    from pipeline.settings import Settings

_MOST_PRICE, _MOST_SPEED = 1e6, 1e6
_TOLD_HOURS = 0.1  # at least, else the time says enough; computed ones are always told, for GPUs are paid by them


@cli.command()
@click.option("--device", metavar="NAME", help="A GPU that Pixtral would read on: h100, l4, rtx4090 …; computed.")
@click.option("--gpus", type=click.IntRange(1, 100_000), default=1, show_default=True, help="So many of it.")
@click.option("--pages-per-second", metavar="NUMBER", help="As it was measured, in place of --device; of all GPUs.")
@click.option("--price-per-hour", metavar="NUMBER", help="Of one GPU or machine, in any currency.")
@click.option(
    "--sample", type=click.IntRange(1, 100_000), default=60, show_default=True,
    help="So many new files are opened, and pages drawn.",
)  # fmt: skip
@click.option("--sample-seed", type=click.IntRange(0), default=0, show_default=True, help="Draws another sample.")
@batch_options
def plan(
    paths: tuple[str | Path, ...],
    home: Path | None,
    prompts: tuple[str, ...],
    prompt_files: tuple[Path, ...],
    schemas: tuple[Path, ...],
    batch: str | None,
    pages: str | None,
    device: str | None,
    gpus: int,
    pages_per_second: str | None,
    price_per_hour: str | None,
    sample: int,
    sample_seed: int,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say what `run` would take: pages, tokens, room, time and cost, each with its range. Reads and stores nothing.

    Takes what `run` takes. New files are opened and drawn as a run does, all of them or a sample. How fast pages are
    read is known from --pages-per-second, from this home's own batches, from a GPU's arithmetic (--device), or,
    with an OCR engine, by reading twelve pages. docs/plan.md.
    """
    from pipeline.ingest.submission import parse_pages
    from pipeline.planning.make import make_plan
    from pipeline.settings import load_settings

    sampling, selection = take_sampling(flags), take_selection(flags)
    settings = load_settings(home=home, **flags)
    chosen, ranges = choose_asked_prompts(prompts, prompt_files, sampling, schemas), parse_pages(pages)
    reads_on = _device(settings, device, pages_per_second, gpus)
    price = _number("--price-per-hour", price_per_hour, _MOST_PRICE, least=0.0)
    made = make_plan(settings, paths, chosen, ranges, selection, reads_on, price, sample, sample_seed, _say)
    if as_json:
        click.echo(json.dumps(as_json_of(made), ensure_ascii=False))
    else:
        for line in lines(made):
            click.echo(line)
    return EXIT_DONE


def _say(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} …", err=True)


def _device(settings: Settings, name: str | None, pages_per_second: str | None, count: int) -> Device:
    from pipeline.planning.gpus import find_gpu
    from pipeline.planning.reading_time import Device
    from pipeline.planning.shapes import Shape, read_shape

    speed = _number("--pages-per-second", pages_per_second, _MOST_SPEED)
    if name is not None and speed is not None:
        raise UsageError("--device and --pages-per-second both say how fast pages are read; leave one out")
    if name is not None and settings.engine not in ("auto", "pixtral"):
        raise UsageError(f"--device {name} is for Pixtral; leave out --engine {settings.engine}, or --device")
    gpu = None if name is None else find_gpu(name)
    is_shaped = settings.model is not None and settings.engine in ("auto", "pixtral")
    shape = read_shape(settings.model) if is_shaped and settings.model is not None else Shape()
    return Device(gpu, shape, speed, count, settings.quantize, settings.kv_cache)


def _number(option: str, text: str | None, most: float, least: float | None = None) -> float | None:
    """Raises UsageError: it is no number, or none that can be meant."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number > 0 if least is None else number >= least) or number > most:
        above = "above 0" if least is None else f"from {least:g}"
        raise UsageError(f"{option} {text[:40]}: give a number {above} up to {most:,.0f}")
    return number


def lines(plan: Plan) -> Iterator[str]:
    """The table, and what it comes to."""
    yield _row("files", _files(plan))
    if plan.files_rejected:
        causes = ", ".join(f"{_count(count)} {cause}" for cause, count in plan.files_rejected.items())
        yield _row("rejected", causes)
    yield _row("pages", f"{_span(plan.pages)}{_by_sample(plan)}")
    parts = [(plan.already_read, "read already"), (plan.failed_before, "failed before; `pagepack retry`")]
    parts += [(count, _WHY[why]) for why, count in plan.not_read.items()]
    if said := ", ".join(f"{_count(count)} {why}" for count, why in parts if round(count.expected)):
        yield _row("not read", said)
    yield _row("to read", _span(plan.to_read))
    if plan.prompt_tokens is not None and plan.output_tokens is not None:
        yield _row("tokens in", f"{_span(plan.prompt_tokens)} of page images and prompts")
        yield _row("tokens out", f"{_span(plan.output_tokens)}, {plan.answers_by}")
    yield _row("storage", f"{_bytes(plan.image_bytes)} of page images, {_bytes(plan.database_bytes)} of database")
    yield _row("time", f"{_time(plan)}{plan.reading.how}")
    if plan.cost is not None:
        yield _row("cost", f"{_span(plan.cost, _money)} {plan.cost_by}")
    elif plan.cost_by:
        yield _row("cost", f"not known: {plan.cost_by}")
    yield conclusion(plan)


_WHY = {
    "text layer": "answered by their own text",
    "blank": "blank",
    "not drawn": "that cannot be drawn",
}


def conclusion(plan: Plan) -> str:
    from pipeline.cli.progress_bar import duration

    if not round(plan.to_read.expected):
        return "nothing is left to read"
    said = (
        f"{_about(plan.to_read)}{_count(plan.to_read)} page{'' if round(plan.to_read.expected) == 1 else 's'} to read"
    )
    if plan.reading.seconds is not None:
        said += f", about {duration(plan.reading.seconds.expected)}"
        if plan.hours is not None and (plan.reading.basis == "computed" or plan.hours.expected >= _TOLD_HOURS):
            said += f", {_hours(plan.hours.expected, is_gpu=plan.reading.is_gpu)}"
    if plan.cost is not None:
        said += f", for about {_money(plan.cost.expected)}"
    return said


def brief_line(found: Brief) -> str:
    """What `run` and `submit` say before they begin."""
    from pipeline.cli.progress_bar import counted, duration

    if not found.is_all:
        return f"more than {found.files:,} files; `pagepack plan` with the same paths says how many pages, and how long"
    said = counted(found.files, "file")
    if found.pages is None:
        return f"{said}; `pagepack plan` with the same paths says how many pages, and how long"
    said += f", {'' if found.is_exact else 'about '}{counted(round(found.pages), 'page')}"
    if found.done:
        said += f", {found.done:,} of them read already"
    if found.seconds is not None and found.seconds >= 1:
        said += f", about {duration(found.seconds)} to go"
        if found.hours is not None and found.hours >= _TOLD_HOURS:
            said += f", {_hours(found.hours, is_gpu=found.is_gpu)}"
    if found.cost is not None:
        said += f", for about {_money(found.cost)}"
    return said


def _row(name: str, value: str) -> str:
    return f"{name:<12}{value}"


def _files(plan: Plan) -> str:
    known = f", {plan.files_known:,} known already" if plan.files_known else ""
    return f"{plan.files:,} ({_size(plan.bytes)}){known}"


def _by_sample(plan: Plan) -> str:
    return "" if plan.pages.is_exact else f", by {plan.files_sampled:,} of {plan.files_new:,} files"


def _about(value: Range) -> str:
    return "" if value.is_exact else "about "


def _count(value: float | Range) -> str:
    number = value if isinstance(value, int | float) else value.expected
    return _round(number)


def _round(number: float) -> str:
    """Three figures of what is large, all of what is small: nobody counts on the last page of 14,321."""
    if number < 1_000:
        return f"{number:,.0f}"
    digits = 3 - len(str(int(number)))
    return f"{round(number, digits):,.0f}"


def _money(number: float) -> str:
    return f"{number:,.2f}" if number < 1_000 else _round(number)


def _hours(number: float, *, is_gpu: bool) -> str:
    return f"{f'{number:.3g}' if number < 1_000 else _round(number)} {'GPU-hours' if is_gpu else 'machine-hours'}"


def _span(value: Range, shown: Any = None) -> str:
    """`about 400 (280 to 520)`, or the number where it is known exactly."""
    if value.is_exact:
        return f"{value.expected:,.0f}" if shown is None else str(shown(value.expected))
    show = shown or _round
    return f"about {show(value.expected)} ({show(value.low)} to {show(value.high)})"


def _bytes(value: Range) -> str:
    return _size(value.expected)


def _size(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def _time(plan: Plan) -> str:
    from pipeline.cli.progress_bar import duration

    seconds = plan.reading.seconds
    if seconds is None:
        return ""
    if seconds.is_exact:
        return f"{duration(seconds.expected)}; "
    return f"about {duration(seconds.expected)} ({duration(seconds.low)} to {duration(seconds.high)}); "


def as_json_of(plan: Plan) -> dict[str, Any]:
    """Each figure as its expected value with its range."""
    seconds = plan.reading.seconds
    return {
        "files": plan.files,
        "bytes": plan.bytes,
        "files_new": plan.files_new,
        "files_known": plan.files_known,
        "files_sampled": plan.files_sampled,
        "files_rejected": {cause: _figure(count) for cause, count in plan.files_rejected.items()},
        "pages_sampled": plan.pages_sampled,
        "pages": _figure(plan.pages),
        "pages_already_read": _figure(plan.already_read),
        "pages_failed_before": _figure(plan.failed_before),
        "pages_by_text_layer": _figure(plan.not_read.get("text layer")),
        "pages_blank": _figure(plan.not_read.get("blank")),
        "pages_not_drawn": _figure(plan.not_read.get("not drawn")),
        "pages_to_read": _figure(plan.to_read),
        "prompt_tokens": _figure(plan.prompt_tokens),
        "output_tokens": _figure(plan.output_tokens),
        "output_tokens_by": plan.answers_by or None,
        "image_bytes": _figure(plan.image_bytes),
        "database_bytes": _figure(plan.database_bytes),
        "seconds": _figure(seconds, 1),
        "gpu_hours": _figure(plan.hours, 4) if plan.reading.is_gpu else None,
        "machine_hours": None if plan.reading.is_gpu else _figure(plan.hours, 4),
        "speed_basis": plan.reading.basis,
        "speed_by": plan.reading.how,
        "kv_cache": plan.reading.fit.cache if plan.reading.fit else None,
        "pages_at_once": plan.reading.fit.pages if plan.reading.fit else None,
        "cost": _figure(plan.cost, 4),
        "cost_by": plan.cost_by or None,
    }


def _figure(value: Range | None, digits: int = 0) -> dict[str, float] | None:
    if value is None:
        return None
    low, expected, high = (round(one, digits) if digits else round(one) for one in value)
    return {"expected": expected, "low": low, "high": high}
