"""An office document as HTML, by its kind."""

from __future__ import annotations

from pipeline.documents.office import opendocument, sheets, slides, words
from pipeline.documents.office.package import Flowing, Package

_READ = {"docx": words.read, "xlsx": sheets.read, "pptx": slides.read}


def flowing_html(path: str, kind: str) -> Flowing:
    """Raises what zipfile and ElementTree raise over a broken file, or DocumentRejected."""
    with Package(path) as package:
        return _READ.get(kind, opendocument.read)(package)
