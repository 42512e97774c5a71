"""Whether doubts go to the right pages: what share of all wrong characters stands on the most doubted tenth of them.

An engine doubts an answer by its reason to look at the page, else by its confidence. Perfect doubts put all errors
there that fit; doubts that say nothing put a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from schemas.review import CUT_SCORES, ENGINE_SCORE, ReviewReason


def doubt(review_reason: str | None, review_score: float | None, finish_reason: str, confidence: float | None) -> float:
    """From 0; above 1 for what the engine itself calls worth a look. As the view `review` orders pages."""
    if review_reason is not None:
        return 1.0 + (ENGINE_SCORE if review_score is None else review_score)
    if finish_reason in CUT_SCORES:
        return 1.0 + CUT_SCORES[ReviewReason(finish_reason)]
    return 1.0 - confidence if confidence is not None else 0.0


def worst_tenth_share(pages: Sequence[tuple[float, int]]) -> float | None:
    """Of pages given as (doubt, wrong characters); None where none is wrong, or there are too few for a tenth."""
    errors = sum(wrong for _, wrong in pages)
    if not errors or len(pages) < 10:
        return None
    doubted = sorted(pages, key=lambda page: -page[0])[: math.ceil(len(pages) / 10)]
    return sum(wrong for _, wrong in doubted) / errors
