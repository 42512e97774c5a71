"""How fast a home has read before, which a plan goes by."""

from __future__ import annotations

import pytest

from pipeline.planning.asked import Asked
from pipeline.planning.known import Known
from pipeline.store.wished_model import wishes_for
from schemas.prompts import OCR
from tests.conftest import LIMITS, Archive, answer, complete_page

DATABASES = ("sqlite", "postgresql")


def asked(model: str | None, engine: str = "rapidocr") -> Asked:
    return Asked((OCR,), engine, model, "keep", "keep")


@pytest.mark.parametrize("text_layer", ["keep", "auto"])
def test_a_plan_goes_by_pages_that_the_same_model_has_read(archive: Archive, text_layer: str) -> None:
    """Of one engine, one runtime may take twice the other's time."""
    for model, seconds in {"slow": 4.0, "fast": 2.0}.items():
        archive.batch(model, model=model, text_layer=text_layer)
        pages = archive.ingest(archive.see(f"/in/{model}.pdf", batch=model) or 0, [f"{model}{n}" for n in range(20)])
        for page in pages:
            claim = archive.claim(page, models=wishes_for(model))
            assert claim is not None
            complete_page(archive.db, claim, "read/1", {claim.tasks[0].task_id: answer("text", model)}, LIMITS)
        rows = archive.rows("SELECT id FROM task_attempts ORDER BY id DESC LIMIT 20")
        for place, (number,) in enumerate(rows):
            span = {
                "sqlite": "started_at = datetime('2026-01-01', :b), ended_at = datetime('2026-01-01', :e)",
                "postgresql": "started_at = timestamp '2026-01-01' + CAST(:b AS interval), "
                "ended_at = timestamp '2026-01-01' + CAST(:e AS interval)",
            }[archive.db.dialect]
            begin, end = place * seconds, (place + 1) * seconds
            archive.execute(
                f"UPDATE task_attempts SET engine = 'rapidocr', seconds = :s, {span} WHERE id = :id",
                s=seconds, id=number, b=f"{begin} seconds", e=f"{end} seconds",
            )  # fmt: skip
    for model, rate in {"slow": 0.25, "fast": 0.5}.items():
        speed = Known(archive.db, asked(model)).speed()
        assert speed is not None and speed.pages == 20
        assert speed.pages_per_second == pytest.approx(rate)
    of_both = Known(archive.db, asked(None)).speed()
    assert of_both is not None and of_both.pages == 40
    assert Known(archive.db, asked("another")).speed() is None
    assert Known(archive.db, asked(None, engine="pixtral")).speed() is None
