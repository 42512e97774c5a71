"""From what a survey has found to what a run will take: pages, tokens, room, time and cost, each with its range.

Over 300 lines: each figure goes by those before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.cores import num_cores
from pipeline.endpoints.prices import Prices
from pipeline.planning.asked import Asked
from pipeline.planning.gpus import REACHED, Fit, Gpu, PageWork, bound, fit_on, fit_words, work_of
from pipeline.planning.known import Known, Speed
from pipeline.planning.look import PageFacts
from pipeline.planning.ranges import Range, mean, total
from pipeline.planning.shapes import Shape
from pipeline.planning.survey import Survey
from pipeline.planning.tokens import answer_by_text, image_tokens, question_tokens, text_tokens, usual_answer
from pipeline.settings import Settings
from schemas.prompts import Prompt
from schemas.text_layers import Verdict

_ROW_BYTES = 15_000  # of the database for a page: 15 MB for 1,000 pages of dense text
_START_SECONDS = 5.0  # of a run, until its engine has the first page
_ALIKE = 1.25  # times the work: pages like those before
_SCALED = Range(0.65, 1.0, 1.5)  # where they are not: what a page costs beside its tokens is not known well
_LEAST_TEXTS = 0.2  # of the pages that are read carry a text: it says how long answers get

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


NOTHING = Range.exact(0.0)
UNKNOWN = Reading("unknown", "")


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
        prompt, output, plan.answers_by = _tokens(works, asked, known, device.shape, facts.are_all)
        plan.prompt_tokens, plan.output_tokens = prompt.times(plan.to_read), output.times(plan.to_read)
    draw_seconds = facts.mean(lambda page: page.seconds, is_new=True).times(drawn).times(1 / num_cores())
    plan.reading = _reading(plan, works, asked, known, device, draw_seconds, time_pages)
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


def _tokens(
    works: Sequence[tuple[PageFacts, float]], asked: Asked, known: Known, shape: Shape, are_all: bool
) -> tuple[Range, Range, str]:
    """Of one page on average, over all prompts: what goes in, what comes out, and by what the latter is known."""
    weights = [weight for _, weight in works]
    images = mean(
        [float(sum(image_tokens(page.width_px, page.height_px, shape))) for page, _ in works], weights, is_all=are_all
    )
    prompt = Range.exact(0.0)
    output, said = Range.exact(0.0), list[str]()
    for one in asked.prompts:
        prompt = prompt.plus(images).plus(Range.exact(question_tokens(one)))
        answer, by = _answer_tokens(one, works, known)
        output, said = output.plus(answer), [*said, by]
    return prompt, output, "; ".join(dict.fromkeys(said))


def _answer_tokens(prompt: Prompt, works: Sequence[tuple[PageFacts, float]], known: Known) -> tuple[Range, str]:
    """Stored answers say it best; then the text that pages carry; then what is usual."""
    stored = known.output_tokens(prompt)
    if len(stored) >= 20:
        return mean(list(map(float, stored)), [1.0] * len(stored)), f"by {len(stored):,} answers of this home"
    texts = [(text_tokens(page.text), weight) for page, weight in works if page.text and page.text.strip()]
    carried = sum(weight for _, weight in texts) / (sum(weight for _, weight in works) or 1.0)
    if prompt.name == "ocr" and carried >= _LEAST_TEXTS:
        by_text = answer_by_text(mean(*map(list, zip(*texts, strict=True))).expected)
        usual = usual_answer(prompt)
        answer = by_text.times(carried).plus(usual.times(1 - carried)) if carried < 1 else by_text
        return answer, f"by the text that {carried:.0%} of the pages carry"
    usual = usual_answer(prompt)
    return usual, f"{usual.low:,.0f} to {usual.high:,.0f} a page as is usual, for nothing here says it"


def _reading(
    plan: Plan,
    works: Sequence[tuple[PageFacts, float]],
    asked: Asked,
    known: Known,
    device: Device,
    draw_seconds: Range,
    time_pages: Callable[[Sequence[PageFacts]], tuple[Range, float] | None],
) -> Reading:
    answers = plan.to_read.times(len(asked.prompts))
    if device.pages_per_second is not None:
        whole = plan.to_read.times(1 / device.pages_per_second)
        how = f"at {device.pages_per_second:g} pages/s, as given"
        return Reading("given", how, whole, whole.times(device.count), is_gpu=asked.engine == "pixtral")
    if not plan.to_read.high:
        return Reading("measured", "no page is left to read", draw_seconds, draw_seconds)
    if device.gpu is not None:
        return _on_gpu(plan, works, asked, known, device)
    if speed := known.speed():
        more = _more_work(works, asked, device.shape, speed)
        each = Range(1 / 1.2, 1.0, 1.2).times(more).times(1 / speed.pages_per_second)
        whole = each.times(answers).plus(Range.exact(_START_SECONDS))
        readers = max(1, device.count // max(speed.gpus, 1))
        how = f"{speed.pages_per_second:.3g} pages/s, as this home's last {speed.pages:,} pages by {asked.engine}"
        if not 1 / _ALIKE < more.expected < _ALIKE:
            how += f", and {more.expected:.2g} times their work for each of these, by its tokens"
        busy = whole.times(max(speed.gpus, 1))
        return Reading("measured", how, whole.times(1 / readers), busy, is_gpu=speed.gpus > 0)
    timed = time_pages([page for page, _ in works if page.image is not None])
    if timed is not None:
        each, start_seconds = timed
        whole = each.times(plan.to_read).plus(draw_seconds).plus(Range.exact(start_seconds))
        how = f"{each.expected:.2g} s a page, as some of them took {asked.engine} here"
        return Reading("measured", how, whole, whole)
    way_out = "read twenty or more of them first (`pagepack run`), or give --pages-per-second"
    if asked.engine == "pixtral":
        way_out += "; --device NAME says it of a GPU"
    return Reading("unknown", f"nothing here says how fast pages are read: {way_out}")


def _more_work(works: Sequence[tuple[PageFacts, float]], asked: Asked, shape: Shape, speed: Speed) -> Range:
    """A page's work beside that of those that the speed was measured by; 1 where the engine has no tokens of ours.

    Answers are taken as long as those pages'.
    """
    if asked.engine != "pixtral" or not speed.tokens or not works:
        return Range.exact(1.0)
    question = sum(map(question_tokens, asked.prompts)) / len(asked.prompts)
    before = sum(
        work_of(shape, PageWork([max(prompt - question, 0)], prompt, output)) for prompt, output in speed.tokens
    )
    answer = sum(output for _, output in speed.tokens) / len(speed.tokens)
    now = sum(_mean_work(works, shape, one, answer) for one in asked.prompts)
    more = Range.exact(now * len(speed.tokens) / before / len(asked.prompts))
    return more if 1 / _ALIKE < more.expected < _ALIKE else more.times(_SCALED)


def _mean_work(works: Sequence[tuple[PageFacts, float]], shape: Shape, prompt: Prompt, tokens: float) -> float:
    question, total_work = question_tokens(prompt), 0.0
    for page, weight in works:
        images = image_tokens(page.width_px, page.height_px, shape)
        total_work += weight * work_of(shape, PageWork(images, sum(images) + question, tokens))
    return total_work / sum(weight for _, weight in works)


def _on_gpu(
    plan: Plan, works: Sequence[tuple[PageFacts, float]], asked: Asked, known: Known, device: Device
) -> Reading:
    assert device.gpu is not None and plan.prompt_tokens is not None
    whole_weight = sum(weight for _, weight in works)
    gpu, shape, each = device.gpu, device.shape, Range.exact(0.0)
    fit = fit_on(gpu, shape, device.quantize, device.kv_cache)
    for number, prompt in enumerate(asked.prompts):  # after the first one the page's image is in the cache
        answer, _ = _answer_tokens(prompt, works, known)
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
    busy = each.times(plan.to_read)
    how = (
        f"computed, not measured: {shape.name} on {gpu.title}{fit_words(gpu, shape, fit, device.quantize)}, "
        f"at {REACHED.low:.0%} to {REACHED.high:.0%} of what its arithmetic allows"
    )
    return Reading("computed", how, busy.times(1 / device.count), busy, is_gpu=True, fit=fit)


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
        costs.append(prices.cost(round(prompt), round(output), round(plan.to_read[end])) or 0.0)
    plan.cost, plan.cost_by = Range(*costs), "by the prices that are set for the endpoint"
