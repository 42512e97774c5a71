"""What a batch says of the model that shall read it."""

from __future__ import annotations

_LAYERS = {"always": "+text-layer", "prefer": "+sound-text-layer", "auto": "+sound-text-layer"}
"""End the wished model of batches that take a PDF's own text, all of it or where it is sound; what they read, the
model reads. A page that one of them reads, another may not: each has tasks of its own."""

_BLANKS = {"read": "+blank-pages"}
"""Likewise of batches in which the model reads pages that look blank, too."""


def wished_model(model: str, text_layer: str, blank_pages: str = "skip") -> str:
    """As a batch and its tasks wish for it. The model is "" where any may read."""
    return model + _LAYERS.get(text_layer, "") + _BLANKS.get(blank_pages, "")


def wishes_for(model: str) -> tuple[str, ...]:
    """All wished models that are served where this one reads."""
    layers, blanks = ("", *dict.fromkeys(_LAYERS.values())), ("", *_BLANKS.values())
    return tuple(model + layer + blank for blank in blanks for layer in layers)


def reads_blank_pages(wished: str) -> bool:
    return wished.endswith(_BLANKS["read"])


def without_choices(wished: str) -> str:
    """The model alone."""
    for end in (*_BLANKS.values(), *_LAYERS.values()):
        wished = wished.removesuffix(end)
    return wished
