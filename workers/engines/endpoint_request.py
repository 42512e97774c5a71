"""What a server is asked for a page: which model, in which words, with images how large; and the fingerprint of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.endpoints.catalogue import MISTRAL_OCR, Entry, entry_of
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.structured.check import closed, requires_all
from schemas.prompts import OCR, Prompt
from workers.engines.endpoint_images import Format, PageImages

# Part of the fingerprint: raise it when the same page would be asked for otherwise.
_VERSION = 1


@dataclass(frozen=True)
class Asked:
    """What the settings ask a server for. All that shapes an answer is in the fingerprint; where it runs is not."""

    url: str
    kind: str
    model: str
    entry: Entry
    image_format: Format
    max_side_px: int | None
    extra: dict[str, Any]

    @classmethod
    def of(cls, settings: Settings) -> Asked:
        """Raises UsageError: something is not set, or is no such thing."""
        if settings.endpoint_url is None or settings.endpoint_model is None:
            lacks = "--endpoint-url URL" if settings.endpoint_url is None else "--endpoint-model NAME"
            raise UsageError(f"the engine endpoint needs a server and a model: {lacks}")
        kind, is_chat = settings.endpoint_kind, settings.endpoint_kind == "chat"
        entry = entry_of(settings.endpoint_model, settings.endpoint_profile) if is_chat else MISTRAL_OCR
        side = settings.endpoint_max_side_px or entry.max_side_px
        extra = json.loads(settings.endpoint_body) if settings.endpoint_body else {}
        return cls(settings.endpoint_url, kind, settings.endpoint_model, entry, settings.endpoint_image, side, extra)

    @property
    def only_prompts(self) -> list[str] | None:
        return ["ocr"] if self.entry.reads_only else None

    @cached_property
    def fingerprint(self) -> str:
        """The model's name there, the catalogue's entry, and a hash of both and of how the page is sent."""
        said = [_VERSION, self.model, self.entry.version, self.image_format, self.max_side_px, self.extra]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{self.model}/{self.entry.name}-{self.entry.version}/{digest[:8]}"

    def prompt(self, prompt: Prompt) -> Prompt:
        """As this model is asked it: in the words and with the sampling that it was trained for, where it is `ocr`.

        A text layer that stands in ours as a hint does not stand in theirs.
        """
        if prompt.name != OCR.name:
            return prompt
        known: dict[str, Any] = {
            "text": self.entry.ocr_prompt,
            "max_tokens": self.entry.max_tokens,
            "temperature": self.entry.temperature,
            "top_p": self.entry.top_p,
        }
        return replace(prompt, **{name: value for name, value in known.items() if value is not None})

    def body(self, images: PageImages, prompt: Prompt) -> dict[str, Any]:
        """Of the request for one page; `prompt` as the model is asked it."""
        from pipeline.endpoints.chat import chat_body, image_part, text_part
        from workers.pixtral.text.tile_images import about

        text = about(images.tiling) + prompt.text
        parts = [image_part(image, self.image_format) for image in images.images]
        words = [text_part(text)] if text else []
        return chat_body(
            self.model,
            [{"role": "user", "content": words + parts if self.entry.is_text_first else parts + words}],
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            top_p=prompt.top_p,
            seed=prompt.seed if prompt.temperature > 0 else None,
            stop=prompt.stop,
            logprobs=True,
            extra=response_format(prompt) | self.entry.extra | self.extra,
        )


def response_format(prompt: Prompt) -> dict[str, Any]:
    """The field that has the server hold its answer to the prompt's JSON Schema; none without one.

    `strict` is what OpenAI's servers promise only where every object lists all its fields as required; others go by the
    schema whatever it says.
    """
    if prompt.schema is None:
        return {}
    schema = closed(json.loads(prompt.schema))
    named = {"name": re.sub(r"[^a-zA-Z0-9_-]+", "_", prompt.name)[:64], "schema": schema}
    strict = {"strict": True} if requires_all(schema) else {}
    return {"response_format": {"type": "json_schema", "json_schema": named | strict}}
