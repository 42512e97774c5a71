"""The prompt catalogue: what a page can be asked.

A prompt's version is the hash of its name and of all that shapes the answer (text and sampling parameters), so that a
changed prompt is a new version beside the old answers, never a silent mix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from schemas.text import storable

LONG_TOKENS, SHORT_TOKENS = 4096, 1024
"""What an answer usually needs at most: a page's text, and a description or an answer to a question."""


@dataclass(frozen=True)
class Prompt:
    """A question to a page, with the sampling parameters that it is asked with.

    `text` follows the page's image in the message. `temperature` 0 is greedy. `stop` holds strings that end an
    answer (they are not part of it). `schema` is a JSON Schema, as text, that the answer is held to; it is part of
    the text, too.
    """

    name: str
    text: str
    max_tokens: int = LONG_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: str | None = None
    is_capped: bool = False  # somebody has set `max_tokens` to what is usual, and means it: `sampled`

    def __post_init__(self) -> None:
        """What the database would change is changed before, for the version is a hash of it."""
        for field in ("name", "text"):
            object.__setattr__(self, field, storable(getattr(self, field)))

    @property
    def takes_hint(self) -> bool:
        return self.text.endswith(HINT)

    @property
    def goes_on(self) -> bool:
        """Whether an answer that reaches `max_tokens` may go on: where nobody has set that, it is but what is usual."""
        is_short = self.name == "describe" or self.name.startswith("ask: ")
        return not self.is_capped and self.max_tokens == (SHORT_TOKENS if is_short else LONG_TOKENS)

    @cached_property  # so no slots
    def version(self) -> str:
        """First 16 hex digits of the SHA-256 of name, text and parameters."""
        said = {"name": self.name, "text": self.text, **self.parameters}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answer beside the text; without a schema or a cap as before there were any."""
        values = asdict(self)
        unsaid = {"name", "text"} | {name for name in ("schema", "is_capped") if not values[name]}
        return {name: value for name, value in values.items() if name not in unsaid}


def sampled(prompt: Prompt, **sampling: Any) -> Prompt:
    """As somebody wants it sampled. A `max_tokens` that is said to be what is usual makes a version of its own."""
    if "max_tokens" not in sampling:
        return replace(prompt, **sampling)
    chosen = replace(prompt, is_capped=False, **sampling)
    return replace(chosen, is_capped=chosen.goes_on)


HINT = (
    "\n\nThe file carries the text below for this page. It may be wrong, incomplete or out of order: where it differs "
    "from the image, the image is right.\n<text>\n{text_layer}\n</text>"
)
"""Ends a prompt that is asked with the text that a PDF page carries, where it carries one."""

MOST_HINT_CHARACTERS = 4_000  # a page of print; a thousand tokens of Latin letters


def with_hint(prompt: Prompt) -> Prompt:
    """A version of its own, for its answers are others."""
    return prompt if prompt.takes_hint else replace(prompt, text=prompt.text + HINT)


def hinted(prompt: Prompt, text_layer: str | None) -> Prompt:
    """As a page is asked whose file carries this text, or none."""
    if not prompt.takes_hint:
        return prompt
    plain = prompt.text.removesuffix(HINT)
    if text_layer is None:
        return replace(prompt, text=plain)
    return replace(prompt, text=plain + HINT.replace("{text_layer}", bounded_hint(text_layer)))


def bounded_hint(text_layer: str) -> str:
    """So much of it as a model is given: whole lines."""
    text = text_layer.strip()
    if len(text) <= MOST_HINT_CHARACTERS:
        return text
    return (text[:MOST_HINT_CHARACTERS].rpartition("\n")[0] or text[:MOST_HINT_CHARACTERS]) + "\n[…]"


OCR = Prompt(
    "ocr",
    "Transcribe this page as Markdown, exactly and completely, in reading order. Keep headings, lists, headers, "
    "footers and page numbers. Write tables as Markdown tables and formulas as LaTeX between dollar signs. Read "
    "columns one after the other. Add nothing, correct nothing, translate nothing. Write [illegible] where text "
    "cannot be read. For an empty page, answer with nothing. Answer with the transcription only.",
)

DESCRIBE = Prompt(
    "describe",
    "Describe this page. Say what kind of document it is and what it is about, how it is laid out, and what each "
    "picture, chart or diagram shows, with the values, axes and trends that can be read from it. State only what "
    "is visible on the page.",
    max_tokens=SHORT_TOKENS,
)

CATALOGUE = {prompt.name: prompt for prompt in (OCR, DESCRIBE)}


def choose_prompts(names: Sequence[str], own: Sequence[Prompt]) -> list[Prompt]:
    """Prompts of the catalogue by name, and a user's own; `ocr` where nothing is chosen.

    Raises:
        KeyError: a name is not in the catalogue.
    """
    chosen = [CATALOGUE[name] for name in dict.fromkeys(names)] + list(own)
    return chosen or [OCR]


def question_prompt(question: str) -> Prompt:
    """A user's question to a page; its name begins with `ask: ` and carries the question, so that SQL can tell them."""
    text = " ".join(question.split())
    name = text if len(text) <= 100 else f"{text[:90]}… {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Prompt(f"ask: {name}", question, max_tokens=SHORT_TOKENS)


FILL_IN = (
    "Read this page and fill in the fields of the JSON Schema below with what stands on it, exactly as it is written. "
    "Invent nothing: where the page does not say, take null, or an empty text or list, if the schema lets you."
)


def held_to(prompt: Prompt, schema: str) -> Prompt:
    """The prompt with a JSON Schema for its answer. The model reads it: descriptions in it say what is meant."""
    asked = f"{prompt.text}\n\nAnswer with JSON that fits this JSON Schema, and with nothing else:\n{schema}"
    return replace(prompt, text=asked, schema=schema)


def schema_prompt(name: str, schema: str, **sampling: Any) -> Prompt:
    """A prompt that asks for nothing but the fields of a schema."""
    return held_to(sampled(Prompt(name, FILL_IN), **sampling), schema)
