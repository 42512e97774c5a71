"""What is exported: the files of all, of a batch, or those with pages that fit a condition; and their pages."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.database.engine import Database
from pipeline.export.placed import PlacedPage, placed_pages
from pipeline.export.rows import ExportedPage, ExportedSource, exported_pages, exported_sources, prompts_of
from pipeline.export.where import Kept, Where
from pipeline.query.batch_status import BatchRow
from schemas.prompts import OCR


@dataclass(frozen=True, slots=True)
class Selected:
    """A source, and those of its pages that fit; None: all."""

    source: ExportedSource
    kept: Kept | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Streams: neither its files nor their pages are ever held together."""

    db: Database
    batch: BatchRow | None
    prompt: str | None
    where: Where | None

    def sources(self) -> Iterator[Selected]:
        """By path."""
        sources = exported_sources(self.db, self.batch)
        if self.where is None:
            return (Selected(source, None) for source in sources)
        return (Selected(source, kept) for source, kept in self.where.chosen(sources))

    def pages(self, selected: Selected, versions: Collection[str] | None = None) -> Iterator[ExportedPage]:
        """Prompt by prompt and in page order."""
        for page in exported_pages(self.db, selected.source, self.batch, self.prompt, versions):
            if selected.kept is None or (page.page_number, page.prompt) in selected.kept:
                yield page

    def placed(self, selected: Selected, *, whole: bool = False) -> Iterator[PlacedPage]:
        """With their lines, under one prompt: the one that was asked for, else `ocr` where there is such. `whole` gives
        the pages that do not fit, too."""
        prompts = prompts_of(self.db, selected.source, self.batch, self.prompt)
        if not prompts:
            return
        prompt = OCR.name if OCR.name in prompts else prompts[0]
        for page in placed_pages(self.db, selected.source, prompt, self.batch):
            if whole or selected.kept is None or (page.page_number, prompt) in selected.kept:
                yield page
