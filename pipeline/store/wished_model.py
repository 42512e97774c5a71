"""What a batch says of the model that shall read it."""

from __future__ import annotations

_ENDS = {"prefer": "+text-layer", "auto": "+sound-text-layer"}
"""End the wished model of batches that take a PDF's own text, all of it or where it is sound; what they read, the
model reads. A page that one of them reads, another may not: each has tasks of its own."""


def wished_model(model: str, text_layer: str) -> str:
    """As a batch and its tasks wish for it. The model is "" where any may read."""
    return model + _ENDS.get(text_layer, "")


def wishes_for(model: str) -> tuple[str, ...]:
    """All wished models that are served where this one reads."""
    return (model, *(model + end for end in _ENDS.values()))


def without_text_layer(wished: str) -> str:
    """The model alone."""
    for end in _ENDS.values():
        wished = wished.removesuffix(end)
    return wished
