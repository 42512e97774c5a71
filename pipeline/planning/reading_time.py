"""How long reading takes: as given, by a GPU's arithmetic, by this home's last pages, or by reading some now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.planning.asked import Asked
from pipeline.planning.gpus import REACHED, Fit, Gpu, PageWork, bound, fit_on, fit_words, work_of
from pipeline.planning.known import Known, Speed
from pipeline.planning.look import PageFacts
from pipeline.planning.page_tokens import ALIKE, SCALED, answer_lengths, answer_tokens
from pipeline.planning.ranges import Range
from pipeline.planning.shapes import Shape
from pipeline.planning.tokens import image_tokens, question_tokens
from schemas.prompts import Prompt

_START_SECONDS = 5.0  # of a run, until its engine has the first page

Basis = Literal["computed", "measured", "given", "unknown"]


@dataclass(frozen=True, slots=True)
class Device:
    """What reads: a named GPU, or a speed that somebody measured, or neither."""

    gpu: Gpu | None = None
    shape: Shape = field(default_factory=Shape)
    pages_per_second: float | None = None  # of all together
    count: int = 1
    quantize: str = "off"  # as the setting has it, and so
    kv_cache: str = "model"


@dataclass(frozen=True, slots=True)
class Reading:
    """How long reading takes: `seconds` of the whole, `busy_seconds` of one device or machine."""

    basis: Basis
    how: str  # a sentence for people
    seconds: Range | None = None
    busy_seconds: Range | None = None
    is_gpu: bool = False  # else a machine's CPUs, or what is not known
    fit: Fit | None = None  # of the checkpoint, on a named GPU


UNKNOWN = Reading("unknown", "")


def reading_time(
    to_read: Range,
    works: Sequence[tuple[PageFacts, float]],
    asked: Asked,
    known: Known,
    device: Device,
    draw_seconds: Range,
    time_pages: Callable[[Sequence[PageFacts]], tuple[Range, float] | None],
) -> Reading:
    """Of `to_read` pages, of which `works` are examples, each with the number that it stands for.

    `time_pages` reads some of them here, and is asked where nothing else says how long pages take: seconds for each on
    average, and those of the start.
    """
    answers = to_read.times(len(asked.prompts))
    if device.pages_per_second is not None:
        whole = to_read.times(1 / device.pages_per_second)
        how = f"at {device.pages_per_second:g} pages/s, as given"
        return Reading("given", how, whole, whole.times(device.count), is_gpu=asked.engine == "pixtral")
    if not to_read.high:
        return Reading("measured", "no page is left to read", draw_seconds, draw_seconds)
    if device.gpu is not None:
        return _on_gpu(to_read, works, asked, known, device)
    if speed := known.speed():
        more = _more_work(works, asked, known, device.shape, speed)
        each = Range(1 / 1.2, 1.0, 1.2).times(more).times(1 / speed.pages_per_second)
        whole = each.times(answers).plus(Range.exact(_START_SECONDS))
        readers = max(1, device.count // max(speed.gpus, 1))
        how = f"{speed.pages_per_second:.3g} pages/s, as this home's last {speed.pages:,} pages by {asked.engine}"
        if not 1 / ALIKE < more.expected < ALIKE:
            how += f", and {more.expected:.2g} times their work for each of these, by its tokens"
        busy = whole.times(max(speed.gpus, 1))
        return Reading("measured", how, whole.times(1 / readers), busy, is_gpu=speed.gpus > 0)
    timed = time_pages([page for page, _ in works if page.image is not None])
    if timed is not None:
        each, start_seconds = timed
        whole = each.times(to_read).plus(draw_seconds).plus(Range.exact(start_seconds))
        how = f"{each.expected:.2g} s a page, as some of them took {asked.engine} here"
        return Reading("measured", how, whole, whole)
    way_out = "read twenty or more of them first (`pagepack run`), or give --pages-per-second"
    if asked.engine == "pixtral":
        way_out += "; --device NAME says it of a GPU"
    return Reading("unknown", f"nothing here says how fast pages are read: {way_out}")


def _more_work(
    works: Sequence[tuple[PageFacts, float]], asked: Asked, known: Known, shape: Shape, speed: Speed
) -> Range:
    """A page's work beside that of those that the speed was measured by; 1 where the engine has no tokens of ours."""
    if asked.engine != "pixtral" or not speed.tokens or not works:
        return Range.exact(1.0)
    question = sum(map(question_tokens, asked.prompts)) / len(asked.prompts)
    before = sum(
        work_of(shape, PageWork([max(prompt - question, 0)], prompt, output)) for prompt, output in speed.tokens
    )
    usual = sum(output for _, output in speed.tokens) / len(speed.tokens)
    now = 0.0
    for prompt in asked.prompts:
        lengths = answer_lengths(prompt, works, known, shape)
        now += _mean_work(works, shape, prompt, [usual] * len(works) if lengths is None else lengths.expected)
    more = Range.exact(now * len(speed.tokens) / before / len(asked.prompts))
    return more if 1 / ALIKE < more.expected < ALIKE else more.times(SCALED)


def _mean_work(
    works: Sequence[tuple[PageFacts, float]], shape: Shape, prompt: Prompt, lengths: Sequence[float]
) -> float:
    question, total_work = question_tokens(prompt), 0.0
    for (page, weight), tokens in zip(works, lengths, strict=True):
        images = image_tokens(page.width_px, page.height_px, shape)
        total_work += weight * work_of(shape, PageWork(images, sum(images) + question, tokens))
    return total_work / sum(weight for _, weight in works)


def _on_gpu(
    to_read: Range, works: Sequence[tuple[PageFacts, float]], asked: Asked, known: Known, device: Device
) -> Reading:
    assert device.gpu is not None and works
    whole_weight = sum(weight for _, weight in works)
    gpu, shape, each = device.gpu, device.shape, Range.exact(0.0)
    fit = fit_on(gpu, shape, device.quantize, device.kv_cache)
    for number, prompt in enumerate(asked.prompts):  # after the first one the page's image is in the cache
        answer, _ = answer_tokens(prompt, works, known, shape)
        bounds = []
        for tokens in answer:
            seconds = 0.0
            for page, weight in works:
                images = image_tokens(page.width_px, page.height_px, shape)
                work = PageWork(images, sum(images) + question_tokens(prompt), tokens, is_cached=number > 0)
                found = bound(gpu, shape, work, device.quantize, device.kv_cache)
                seconds += found.seconds * weight / whole_weight
            bounds.append(seconds)
        each = each.plus(Range(bounds[0] / REACHED.high, bounds[1] / REACHED.expected, bounds[2] / REACHED.low))
    busy = each.times(to_read)
    how = (
        f"computed, not measured: {shape.name} on {gpu.title}{fit_words(gpu, shape, fit, device.quantize)}, "
        f"at {REACHED.low:.0%} to {REACHED.high:.0%} of what its arithmetic allows"
    )
    return Reading("computed", how, busy.times(1 / device.count), busy, is_gpu=True, fit=fit)
