"""`pagepack plan`: the survey, who would read, and the estimate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.ingest.selection import Selection
from pipeline.ingest.submission import check_takes_hint
from pipeline.planning.asked import Asked, asked_of
from pipeline.planning.estimate import Plan, estimate
from pipeline.planning.known import Known, look_if_there
from pipeline.planning.look import PageFacts
from pipeline.planning.ranges import Range, mean, systematic
from pipeline.planning.reading_time import Device
from pipeline.planning.survey import survey
from pipeline.settings import Settings
from pipeline.supervisor.engine_choice import check_prompts, describe_engine
from pipeline.supervisor.timed_reading import time_reading
from schemas.prompts import Prompt

_TIMED = 12  # pages at most that are read to see how long that takes
_TIMED_SECONDS = 20.0
_START_SECONDS = 3.0  # of a run, its broker and workers, beside the loading of the engine; more where others compute


def make_plan(
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    pages: Sequence[tuple[int, int]],
    selection: Selection,
    device: Device,
    price_per_hour: float | None,
    sample: int,
    seed: int,
    say: Callable[[str], None],
) -> Plan:
    """What reading these paths will take. Nothing is stored, and no database is made.

    Raises:
        NothingToDo: no file lies there.
        UsageError: an engine, a device or a database that does not fit.
    """
    asked = who_is_asked(settings, prompts, pages, is_gpu=device.gpu is not None or device.pages_per_second is not None)
    known = Known(look_if_there(settings), asked)
    found = survey(paths, settings, selection, asked, known, sample, seed, say)

    def time_pages(candidates: Sequence[PageFacts]) -> tuple[Range, float] | None:
        images = spread([page for page in candidates if page.image is not None], min(_TIMED, sample))
        if asked.engine in ("pixtral", "endpoint") or not images:  # minutes a page, or somebody else's money
            return None
        say(f"reading {len(images)} pages with {asked.engine}, to see how long that takes")
        timed = time_reading(settings, images, _TIMED_SECONDS)
        if not timed.page_seconds:
            return None
        each = mean(timed.page_seconds, [1.0] * len(timed.page_seconds)).times(1 / timed.at_once)
        return each, timed.start_seconds + max(_START_SECONDS, 2 * timed.start_seconds)

    return estimate(found, asked, known, settings, device, price_per_hour, time_pages)


def who_is_asked(
    settings: Settings, prompts: Sequence[Prompt], pages: Sequence[tuple[int, int]], *, is_gpu: bool
) -> Asked:
    """What a run with these settings would ask, and whom; for a GPU that is not here, Pixtral."""
    if is_gpu and settings.model is None and settings.engine in ("auto", "pixtral"):
        return asked_of(settings, prompts, "pixtral", None, pages)
    choice = describe_engine(settings, reads_here=False)
    check_prompts(choice, prompts)
    if settings.text_layer == "hint":
        check_takes_hint(choice.engine)
    return asked_of(settings, prompts, choice.engine, choice.model, pages)


def spread(pages: Sequence[PageFacts], count: int) -> list[bytes]:
    """Images of some pages, as many with little on them as with much: a sample that is like the whole.

    Shuffled, for reading may end before it is through: those that were read are to be like the whole, too.
    """
    by_size = sorted((page for page in pages if page.image is not None), key=lambda page: page.image_bytes)
    places = systematic(len(by_size), count, 0.5)
    random.Random(0).shuffle(places)
    return [image for place in places if (image := by_size[place].image) is not None]
