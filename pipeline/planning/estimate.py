"""From what a survey has found to what a run will take: pages, tokens, room, time and cost, each with its range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.cores import num_cores
from pipeline.endpoints.prices import Prices
from pipeline.planning.asked import Asked
from pipeline.planning.known import Known
from pipeline.planning.look import PageFacts
from pipeline.planning.page_tokens import page_tokens
from pipeline.planning.ranges import Range, mean, total
from pipeline.planning.reading_time import UNKNOWN, Device, Reading, reading_time
from pipeline.planning.survey import Survey
from pipeline.settings import Settings
from schemas.text_layers import Verdict

_ROW_BYTES = 15_000  # of the database for a page: 15 MB for 1,000 pages of dense text
NOTHING = Range.exact(0.0)


@dataclass(slots=True)
class Plan:
    files: int = 0
    bytes: int = 0
    files_known: int = 0
    files_rejected: dict[str, Range] = field(default_factory=dict)
    files_sampled: int = 0
    files_new: int = 0
    pages_sampled: int = 0
    pages: Range = NOTHING
    already_read: Range = NOTHING
    failed_before: Range = NOTHING
    not_read: dict[str, Range] = field(default_factory=dict)  # by why: text layer, blank, cannot be drawn
    to_read: Range = NOTHING
    prompt_tokens: Range | None = None  # of all answers; None where the engine has none
    output_tokens: Range | None = None
    answers_by: str = ""  # what says how long answers get
    image_bytes: Range = NOTHING
    database_bytes: Range = NOTHING
    reading: Reading = UNKNOWN
    hours: Range | None = None  # of one device or machine, all together
    cost: Range | None = None
    cost_by: str = ""


def estimate(
    found: Survey,
    asked: Asked,
    known: Known,
    settings: Settings,
    device: Device,
    price_per_hour: float | None,
    time_pages: Callable[[Sequence[PageFacts]], tuple[Range, float] | None],
) -> Plan:
    """`time_pages` reads some pages here: seconds for each on average, with all cores at work, and those of the start.

    It is asked where nothing else says how long pages take.
    """
    plan = Plan(files=found.files, bytes=found.bytes, files_new=found.num_new, files_sampled=len(found.sampled))
    plan.files_known = found.known_files
    plan.pages_sampled = len(found.new_pages)
    new = _Totals(found)
    plan.files_rejected = new.rejected(found.rejected)
    plan.pages = new.of([one.asked for one in found.sampled]).plus(Range.exact(found.known_asked))
    plan.already_read = new.of([one.done for one in found.sampled]).plus(Range.exact(found.known_done))
    plan.failed_before = new.of([one.failed for one in found.sampled]).plus(Range.exact(found.known_failed))
    drawn = new.of([one.pages for one in found.sampled])
    left = new.of([one.asked - one.done - one.failed for one in found.sampled]).plus(Range.exact(found.known_open))

    facts = _Facts(found, left, _answered(found, known))
    fates = {id(page): _fate(page, asked, facts.answered) for page in facts.pages}
    share = {why: facts.share(fates, why) for why in _FATES}
    plan.already_read = plan.already_read.plus(share["answered"].times(left))
    plan.not_read = {why: share[why].times(left) for why in ("text layer", "blank", "not drawn")}
    plan.to_read = share["read"].times(left)
    plan.image_bytes = facts.mean(lambda page: page.image_bytes, is_new=True).times(drawn)
    plan.database_bytes = left.times(known.bytes_per_page() or _ROW_BYTES)

    readable = [page for page in facts.pages if fates[id(page)] == "read"]
    has_tokens = asked.engine not in ("rapidocr", "tesseract")
    works = facts.of(readable)
    if has_tokens and readable:
        prompt, output, plan.answers_by = page_tokens(works, asked, known, device.shape, is_all=facts.are_all)
        plan.prompt_tokens, plan.output_tokens = prompt.times(plan.to_read), output.times(plan.to_read)
    draw_seconds = facts.mean(lambda page: page.seconds, is_new=True).times(drawn).times(1 / num_cores())
    plan.reading = reading_time(plan.to_read, works, asked, known, device, draw_seconds, time_pages)
    busy = plan.reading.busy_seconds
    is_anothers = asked.engine == "endpoint" and price_per_hour is None  # who has a server of his own names its price
    plan.hours = None if busy is None or is_anothers else busy.times(1 / 3600)
    _price(plan, settings, asked, price_per_hour)
    return plan


_FATES = ("answered", "not drawn", "text layer", "blank", "read")


def _fate(page: PageFacts, asked: Asked, answered: set[str]) -> str:
    """What becomes of a page that is not answered by its document's rows."""
    if page.cause is not None:
        return "not drawn"
    if page.image_hash in answered:
        return "answered"
    takes_text = asked.text_layer == "always" or (
        asked.text_layer in ("auto", "prefer") and page.verdict == Verdict.SOUND
    )
    if takes_text and page.text and page.text.strip() and all(prompt.name == "ocr" for prompt in asked.prompts):
        return "text layer"
    return "blank" if page.is_blank and asked.blank_pages == "skip" else "read"


def _answered(found: Survey, known: Known) -> set[str]:
    return known.answered_images({page.image_hash for page in found.new_pages if page.image_hash is not None})


class _Totals:
    """Of the new files, from those that were looked into."""

    def __init__(self, found: Survey) -> None:
        self._found = found

    def of(self, values: Sequence[float]) -> Range:
        return total(values, self._found.num_new)

    def rejected(self, exactly: Counter[str]) -> dict[str, Range]:
        sampled = self._found.sampled
        causes = {cause for one in sampled for cause in one.rejected} | set(exactly)
        by_cause = {
            cause: self.of([one.rejected[cause] for one in sampled]).plus(Range.exact(exactly[cause]))
            for cause in causes
        }
        return dict(sorted(by_cause.items(), key=lambda one: -one[1].expected))


class _Facts:
    """Pages that were looked at, each with the number of pages that it stands for."""

    def __init__(self, found: Survey, left: Range, answered: set[str]) -> None:
        factor = found.num_new / len(found.sampled) if found.sampled else 1.0
        self.answered = answered
        self._new = [(page, page.weight * factor) for page in found.new_pages]
        self._all = [*self._new, *((page, page.weight) for page in found.known_pages)]
        self.are_all = found.is_whole and all(page.weight == 1 for page in found.known_pages)
        self.pages = [page for page, _ in self._all]

    def share(self, fates: Mapping[int, str], fate: str) -> Range:
        return self.mean(lambda page: float(fates[id(page)] == fate))

    def mean(self, value: Callable[[PageFacts], float], *, is_new: bool = False) -> Range:
        """Over all that were drawn, or were to be; those that were not have no size."""
        pages = self._new if is_new else self._all
        return mean([value(page) for page, _ in pages], [weight for _, weight in pages], is_all=self.are_all)

    def of(self, pages: Sequence[PageFacts]) -> list[tuple[PageFacts, float]]:
        wanted = set(map(id, pages))
        return [(page, weight) for page, weight in self._all if id(page) in wanted]


def _price(plan: Plan, settings: Settings, asked: Asked, price_per_hour: float | None) -> None:
    if price_per_hour is not None:
        plan.cost = None if plan.hours is None else plan.hours.times(price_per_hour)
        plan.cost_by = f"at {price_per_hour:g} an hour" + (", and nothing says how many" if plan.hours is None else "")
        return
    prices = Prices.of(settings)
    if asked.engine != "endpoint" or not prices.are_known():
        return
    costs = []
    for end in range(3):
        prompt = plan.prompt_tokens[end] if plan.prompt_tokens is not None else 0.0
        output = plan.output_tokens[end] if plan.output_tokens is not None else 0.0
        asked_pages = round(plan.to_read[end] * len(asked.prompts))  # each answer is charged for
        costs.append(prices.cost(round(prompt), round(output), asked_pages) or 0.0)
    plan.cost, plan.cost_by = Range(*costs), "by the prices that are set for the endpoint"
