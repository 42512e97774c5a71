"""Pages with their lines and where these stand: what searchable PDFs and the formats of archives are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.database.engine import Database
from pipeline.database.looking import as_json
from pipeline.export.rows import ExportedSource, pages_query
from pipeline.layout.words import PlacedLine, placed_lines
from pipeline.query.batch_status import BatchRow
from schemas.tables import Answer, Page, TextLayer
from schemas.text_layers import Verdict

_MARGINS = {"rapidocr": 0.1}  # by which its boxes reach beyond the letters, in their heights; others are tight
_PAGES_AT_ONCE = 50  # each with all its lines


@dataclass(frozen=True, slots=True)
class PlacedPage:
    """A page and what it says under one prompt. Lines stand in pixels of the image that was read, from the top left."""

    page_number: int
    prompt: str
    text: str | None
    lines: Sequence[PlacedLine]
    engine: str | None
    model: str | None
    confidence: float | None
    cause: str | None
    reason: str | None
    image_px: tuple[int, int] | None  # with the white on the right and at the bottom, up to multiples of 16
    width_pt: float | None
    height_pt: float | None
    dpi: float | None
    has_own_text: bool  # sound text of the file's own

    @property
    def state(self) -> str:
        """As `ExportedPage.state`."""
        return "done" if self.text is not None else "waiting" if self.cause is None else "failed"

    @property
    def shown_px(self) -> tuple[int, int]:
        """The page in its image, as far as it is known: of a picture that was padded it is not."""
        if self.image_px is None:
            return (0, 0)
        if self.width_pt and self.height_pt and self.dpi:
            sides = self.width_pt, self.height_pt
            width, height = (math.ceil(side * self.dpi / 72 - 1e-3) for side in sides)
            return max(min(width, self.image_px[0]), 1), max(min(height, self.image_px[1]), 1)
        return self.image_px


def placed_pages(db: Database, source: ExportedSource, prompt: str, batch: BatchRow | None) -> Iterator[PlacedPage]:
    """All pages of a source in their order, read or not; those that the batch asked about."""
    if source.key is None:
        return
    query = pages_query(source.key, prompt, batch, None).outerjoin(TextLayer, TextLayer.page_id == Page.id)
    query = query.add_columns(
        Page.width_px,
        Page.height_px,
        Page.width_pt,
        Page.height_pt,
        Page.dpi,
        Answer.angle,
        Answer.details,
        TextLayer.verdict,
    )
    with db.read() as connection:
        for row in connection.execution_options(yield_per=_PAGES_AT_ONCE).execute(query):
            stored = (as_json(row.details) or {}).get("lines") if row.text is not None else None
            stored = stored if isinstance(stored, list) else []
            yield PlacedPage(
                row.page_number,
                prompt,
                row.text,
                list(placed_lines(stored, row.angle, _MARGINS.get(row.engine, 0.0))),
                row.engine,
                row.model,
                row.confidence,
                row.cause,
                row.reason,
                (row.width_px, row.height_px) if row.width_px and row.height_px else None,
                row.width_pt,
                row.height_pt,
                row.dpi,
                row.engine == "text-layer" or row.verdict == Verdict.SOUND,
            )
