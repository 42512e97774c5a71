"""What a batch says of the model that shall read it."""

from __future__ import annotations

TEXT_LAYER = "+text-layer"
"""Ends the wished model of batches that take a PDF's own text where it has some; what is read is read by the model."""
