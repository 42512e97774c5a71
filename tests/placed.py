"""Files on disk whose pages were read, with lines at known places, against which exports are held."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.store.pages import NewPage
from tests.conftest import Archive, answer, sha

StoredLine = list[Any]


@dataclass
class ReadPage:
    """As an engine leaves it."""

    lines: Sequence[StoredLine] | None
    size_px: tuple[int, int]
    size_pt: tuple[float, float] | None = None
    dpi: float | None = None
    text: str | None = None
    angle: float | None = None
    engine: str = "tesseract"
    facts: dict[str, Any] = field(default_factory=dict)
    """More of `NewPage`."""


def put(archive: Archive, path: Path, kind: str, pages: Sequence[ReadPage]) -> int:
    """See the file, and read it; its document's id."""
    document_id = archive.see(str(path))
    assert document_id is not None
    archive.execute(
        "UPDATE documents SET content_hash = :hash, kind = :kind WHERE id = :id",
        hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        kind=kind,
        id=document_id,
    )
    archive.execute("UPDATE sources SET location = :at WHERE path = :path", at=path.as_uri(), path=str(path))
    new = []
    for index, page in enumerate(pages):
        width_pt, height_pt = page.size_pt or (None, None)
        sides = {"width_pt": width_pt, "height_pt": height_pt, "dpi": page.dpi}
        new.append(NewPage(index, sha(f"{path}#{index}"), *page.size_px, **sides, **page.facts))
    for page_id, page in zip(archive.ingest(document_id, new), pages, strict=True):
        details = {} if page.lines is None else {"lines": list(page.lines)}
        text = page.text if page.text is not None else "\n".join(line[5] for line in page.lines or ())
        said = answer(text, engine=page.engine, details=details, angle=page.angle, confidence=0.9)
        archive.read(page_id, lambda prompt, said=said: said)
    return document_id
