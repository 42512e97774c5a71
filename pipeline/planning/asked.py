"""What shall be asked of which pages, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.settings import Settings
from pipeline.store.fleet import READ_PICTURES_ALONE
from schemas.prompts import Prompt, with_hint


@dataclass(frozen=True, slots=True)
class Asked:
    prompts: Sequence[Prompt]
    engine: str  # "any": whichever worker takes a page
    model: str | None  # its fingerprint; None where any of the engine's serves
    text_layer: str
    blank_pages: str
    pages: Sequence[tuple[int, int]] = ()  # ranges of page indexes; none: all

    def count(self, num_pages: int) -> int:
        """How many of a document's pages are asked about."""
        if not self.pages:
            return num_pages
        return sum(self.is_asked(index) for index in range(num_pages))

    def is_asked(self, page_index: int) -> bool:
        return not self.pages or any(first <= page_index <= last for first, last in self.pages)


def asked_of(
    settings: Settings, prompts: Sequence[Prompt], engine: str, model: str | None, pages: Sequence[tuple[int, int]]
) -> Asked:
    """As a new batch of these settings asks."""
    text_layer = settings.text_layer or ("auto" if engine in READ_PICTURES_ALONE else "keep")
    asked = list(map(with_hint, prompts)) if text_layer == "hint" else prompts
    return Asked(asked, engine, model, text_layer, settings.blank_pages, pages)
