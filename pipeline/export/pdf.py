"""Searchable PDFs: the file as it was submitted, with what was read as an invisible text over its pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import select

from pipeline.database.engine import Database
from pipeline.documents.inputs import Inputs
from pipeline.documents.rasterize import Rasterizer
from pipeline.documents.searchable import WITH_PAGES, PageText, write_searchable
from pipeline.errors import PageFailed
from pipeline.export.blocks import blocks_of
from pipeline.export.files import part_of, was_read
from pipeline.export.placed import PlacedPage
from pipeline.export.rows import ExportedSource
from pipeline.layout.words import spread
from pipeline.settings import Settings
from pipeline.urls import local_path
from schemas.tables import Document, Source


def has_pages(source: ExportedSource) -> bool:
    """Whether the file itself says what its pages look like; those of an office document or a mail we laid out."""
    return source.kind in WITH_PAGES


class PdfWriter:
    """Opens the submitted files again, each in a process that may hang or crash over it; use it in a `with`."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db, self._settings = db, settings
        self._inputs = Inputs(settings)
        self._rasterizer = Rasterizer(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rasterizer.close()

    def write(self, source: ExportedSource, pages: Iterator[PlacedPage], target: Path) -> list[PageFailed]:
        """What is given back are pages that got no text, or of an image file no picture.

        Raises:
            DocumentRejected: the file is gone, another one by now, or no PDF can be made of it.
            UsageError: the file would be overwritten.
            StorageGone, DiskFull: it cannot be fetched for now.
        """
        content_hash, detail, locations = self._where_it_lies(source)
        if _is_one_of(target, locations):
            raise was_read(target)
        with ExitStack() as open_files:
            file, name = self._inputs.open(content_hash, locations)
            open_files.enter_context(file)
            part = open_files.enter_context(part_of(target))
            out = open_files.enter_context(part.open("wb"))
            opened = (file, name, str(source.kind), detail)
            return write_searchable(self._rasterizer, self._settings, opened, map(page_text, pages), out)

    def _where_it_lies(self, source: ExportedSource) -> tuple[str, str, dict[str, str]]:
        """Its hash, the detail at which it was drawn, and locations → paths, its own first."""
        places = select(Source.location, Source.path).where(
            (Source.document_id == source.key) | (Source.path == source.source_path)
        )
        with self._db.read() as connection:
            document = connection.execute(
                select(Document.content_hash, Document.detail).where(Document.id == source.key)
            ).one()
            found = sorted(connection.execute(places).all(), key=lambda row: (row.path != source.source_path, row.path))
        return document.content_hash, document.detail, {row.location: row.path for row in found}


def _is_one_of(target: Path, locations: Iterable[str]) -> bool:
    """Also under another name, as of a hard link."""
    paths = map(Path, filter(None, map(local_path, locations)))
    return target.exists() and any(path.exists() and target.samefile(path) for path in paths)


def page_text(page: PlacedPage) -> PageText:
    """What goes over a page, in reading order, as readers copy it: nothing where it carries sound text of its own,
    and spread over the whole where nobody knows the places."""
    lines = [line for block in blocks_of(page.text or "", page.lines) for line in block]
    if page.has_own_text or page.image_px is None:
        lines = []
    elif not lines and page.text:
        lines = list(spread(page.text, *page.shown_px))
    return PageText(page.page_number - 1, lines, page.image_px, page.dpi)
