"""The words for why a page is worth a look."""

from __future__ import annotations

from pathlib import Path

import pipeline.documents
from schemas.review import SENTENCES, WARNINGS, ReviewReason
from schemas.tables import Answer


def test_each_reason_fits_its_column_and_has_a_sentence() -> None:
    longest = Answer.__table__.c.review_reason.type.length  # type: ignore[attr-defined]
    assert all(len(reason) <= longest for reason in ReviewReason)
    assert list(SENTENCES) == list(ReviewReason)
    assert all(sentence and not sentence.endswith(".") for sentence in SENTENCES.values())


_OF_MUPDF = {  # what MuPDF itself says
    "premature end of file in jpeg",
    "padding truncated image",
    "treating as end of file",
    "cannot find XObject",
    "unknown colorspace",
    "unknown filter name",
    "argument error",
    "library error",
    "format error",
}
_WITH_GAPS = {"frames is read": "frames{blank} is read", "frames, and a blank one, is read": ", and a blank one,"}


def test_each_weighed_warning_is_one_that_the_renderer_says() -> None:
    (folder,) = pipeline.documents.__path__
    said = " ".join(file.read_text() for file in Path(folder).rglob("*.py"))
    weighed = {part for parts in WARNINGS.values() for part in parts} - _OF_MUPDF
    assert not [part for part in weighed if _WITH_GAPS.get(part, part) not in said]
    assert list(WARNINGS) == sorted(WARNINGS, reverse=True), "the gravest is looked for first"
