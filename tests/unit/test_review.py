"""The words for why a page is worth a look."""

from __future__ import annotations

from schemas.review import SENTENCES, ReviewReason
from schemas.tables import Answer


def test_each_reason_fits_its_column_and_has_a_sentence() -> None:
    longest = Answer.__table__.c.review_reason.type.length  # type: ignore[attr-defined]
    assert all(len(reason) <= longest for reason in ReviewReason)
    assert list(SENTENCES) == list(ReviewReason)
    assert all(sentence and not sentence.endswith(".") for sentence in SENTENCES.values())
