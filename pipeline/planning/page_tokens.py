"""Tokens of pages that a run would read: what goes in by their sizes, what comes out by what is known of answers."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.planning.asked import Asked
from pipeline.planning.known import Known
from pipeline.planning.look import PageFacts
from pipeline.planning.ranges import Range, mean
from pipeline.planning.shapes import Shape
from pipeline.planning.tokens import answer_by_text, image_tokens, question_tokens, text_tokens, usual_answer
from schemas.prompts import Prompt

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
        answer, by = answer_tokens(one, works, known)
        output, said = output.plus(answer), [*said, by]
    return prompt, output, "; ".join(dict.fromkeys(said))


def answer_tokens(prompt: Prompt, works: Sequence[tuple[PageFacts, float]], known: Known) -> tuple[Range, str]:
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
