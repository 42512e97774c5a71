"""Answers to conversations, in files named by what was asked of which model: a second run asks for none again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import Unavailable


class KeptAnswers:
    """Of one model, in a folder. What shapes an answer is in the model's fingerprint, and in what was asked."""

    def __init__(self, folder: Path, model: str, max_tokens: int) -> None:
        self._folder = folder
        self._asked_of = [model, max_tokens]

    def find(self, messages: list[dict[str, Any]]) -> str | None:
        try:
            return str(json.loads(self._file(messages).read_text(encoding="utf-8"))["text"])
        except (OSError, ValueError, LookupError, TypeError):
            return None  # not there, or half a file: it is asked for anew

    def keep(self, messages: list[dict[str, Any]], text: str) -> None:
        """Whole or not at all. Raises Unavailable: the disk is full, or read-only."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".new")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"model": self._asked_of[0], "text": text}, file)
            Path(name).replace(self._file(messages))
        except OSError as error:
            raise Unavailable(f"an answer cannot be kept in {self._folder}: {error.strerror or error}") from error

    def _file(self, messages: list[dict[str, Any]]) -> Path:
        said = json.dumps([*self._asked_of, messages], sort_keys=True)
        return self._folder / f"{hashlib.sha256(said.encode()).hexdigest()}.json"
