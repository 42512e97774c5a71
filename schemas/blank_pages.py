"""What stands as the answer to every prompt about a page on which nothing is."""

from __future__ import annotations

ENGINE = "blank"
FINISH_REASON = "blank"

MODEL = "blank/1"
"""Raise its number where the pictures of other pages would be blank (`pipeline/documents/pages/blank.py`)."""
