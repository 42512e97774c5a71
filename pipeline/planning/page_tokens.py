"""Tokens of pages that a run would read: what goes in by their sizes, what comes out by what is known of answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pipeline.planning.asked import Asked
from pipeline.planning.known import Known
from pipeline.planning.look import PageFacts
from pipeline.planning.ranges import Range, mean
from pipeline.planning.shapes import Shape
from pipeline.planning.tokens import answer_by_text, image_tokens, question_tokens, text_tokens, usual_answer
from schemas.prompts import Prompt

ALIKE = 1.25  # times the tokens or the work: pages like those before
SCALED = Range(0.65, 1.0, 1.5)  # where they are not: what a page holds and costs beside its size is not known well
_LEAST_ANSWERS = 20
_LEAST_TEXTS = 0.2  # of the pages that are read carry a text: it says how long answers get


def page_tokens(
    works: Sequence[tuple[PageFacts, float]], asked: Asked, known: Known, shape: Shape, *, is_all: bool
) -> tuple[Range, Range, str]:
    """Of one page on average, over all prompts: what goes in, what comes out, and by what the latter is known."""
    weights = [weight for _, weight in works]
    images = mean(
        [float(sum(image_tokens(page.width_px, page.height_px, shape))) for page, _ in works], weights, is_all=is_all
    )
    prompt = Range.exact(0.0)
    output, said = Range.exact(0.0), list[str]()
    for one in asked.prompts:
        prompt = prompt.plus(images).plus(Range.exact(question_tokens(one)))
        answer, by = answer_tokens(one, works, known, shape)
        output, said = output.plus(answer), [*said, by]
    return prompt, output, "; ".join(dict.fromkeys(said))


def answer_tokens(
    prompt: Prompt, works: Sequence[tuple[PageFacts, float]], known: Known, shape: Shape
) -> tuple[Range, str]:
    """Stored answers say it best; then the text that pages carry; then what is usual."""
    if (lengths := answer_lengths(prompt, works, known, shape)) is not None:
        weights = [weight for _, weight in works]
        expected = mean(lengths.expected, weights, is_all=True).expected
        stored = mean(lengths.stored, [1.0] * len(lengths.stored))
        answer, by = stored.times(expected / stored.expected), f"by {len(lengths.stored):,} answers of this home"
        return (answer, by) if lengths.are_alike else (answer.times(SCALED), f"{by} to pages of other sizes")
    texts = [(text_tokens(page.text), weight) for page, weight in works if page.text and page.text.strip()]
    carried = sum(weight for _, weight in texts) / (sum(weight for _, weight in works) or 1.0)
    if prompt.name == "ocr" and carried >= _LEAST_TEXTS:
        by_text = answer_by_text(mean(*map(list, zip(*texts, strict=True))).expected)
        usual = usual_answer(prompt)
        answer = by_text.times(carried).plus(usual.times(1 - carried)) if carried < 1 else by_text
        return answer, f"by the text that {carried:.0%} of the pages carry"
    usual = usual_answer(prompt)
    return usual, f"{usual.low:,.0f} to {usual.high:,.0f} a page as is usual, for nothing here says it"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of answers, in tokens."""

    expected: Sequence[float]  # of each page
    stored: Sequence[float]  # of the answers that say it
    are_alike: bool  # those were to pages of these sizes


def answer_lengths(
    prompt: Prompt, works: Sequence[tuple[PageFacts, float]], known: Known, shape: Shape
) -> Lengths | None:
    """As this home's answers to pages of the same size were, where there are twenty; None with fewer answers in all.

    Of print, pages of another size have as much on each token of their images as all of those had: twice the paper
    holds twice the letters. What else is asked of a page is answered as long on paper of any size.
    """
    stored = known.answers(prompt)
    if len(stored) < _LEAST_ANSWERS:
        return None

    @cache
    def of_image(width_px: int, height_px: int) -> int:
        return sum(image_tokens(width_px, height_px, shape))

    sizes = [of_image(one.width_px, one.height_px) for one in stored]
    tokens = [float(one.output_tokens) for one in stored]
    if prompt.name != "ocr":
        return Lengths([math.fsum(tokens) / len(tokens)] * len(works), tokens, are_alike=True)
    by_size: dict[int, tuple[float, bool]] = {}
    for size in {of_image(page.width_px, page.height_px) for page, _ in works}:
        near = [length for of, length in zip(sizes, tokens, strict=True) if 1 / ALIKE < size / of < ALIKE]
        is_known = len(near) >= _LEAST_ANSWERS
        length = math.fsum(near) / len(near) if is_known else size * math.fsum(tokens) / sum(sizes)
        by_size[size] = min(length, prompt.max_tokens), is_known
    found = [by_size[of_image(page.width_px, page.height_px)] for page, _ in works]
    return Lengths([length for length, _ in found], tokens, all(is_known for _, is_known in found))
