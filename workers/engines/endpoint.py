"""A server that answers as OpenAI's API does, as an engine: whatever model runs there, behind the same ledger.

A page is a request: its image as a data URL, then the prompt. Pages wait on the worker's threads, requests run on the
client's; how many at once, and what is tried again, is the client's to say (`pipeline/endpoints/`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.settings import Settings
from schemas.prompts import Prompt
from workers.engines import Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Part of the fingerprint: raise it when the same page would be asked for otherwise.
_VERSION = 1
_MAX_SIDE_PX = 2048


@dataclass(frozen=True)
class Asked:
    """What the settings ask a server for: all that shapes an answer is in the fingerprint, where it runs is not."""

    url: str
    model: str

    @classmethod
    def of(cls, settings: Settings) -> Asked:
        """Raises UsageError: something is not set."""
        if settings.endpoint_url is None or settings.endpoint_model is None:
            lacks = "--endpoint-url URL" if settings.endpoint_url is None else "--endpoint-model NAME"
            raise UsageError(f"the engine endpoint needs a server and a model: {lacks}")
        return cls(settings.endpoint_url, settings.endpoint_model)

    @property
    def shown_url(self) -> str:
        return self.url

    @property
    def only_prompts(self) -> list[str] | None:
        return None

    @property
    def fingerprint(self) -> str:
        said = dataclasses.asdict(self) | {"url": None, "version": _VERSION, "side": _MAX_SIDE_PX}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{self.model}/{digest[:12]}"


class EndpointEngine:
    """Answers any prompt with a chat completion."""

    name = "endpoint"

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError: something is not set."""
        from pipeline.endpoints.client import Client, Server

        self._asked = Asked.of(settings)
        self.model = self._asked.fingerprint
        self.capacity = settings.endpoint_concurrency
        self._client = Client(
            Server(
                self._asked.url,
                settings.endpoint_key,
                most_at_once=settings.endpoint_concurrency,
                request_seconds=settings.endpoint_seconds,
            )
        )

    def supports(self, prompt: Prompt) -> bool:
        return self._asked.only_prompts is None or prompt.name in self._asked.only_prompts

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
    ) -> list[Future[Answer]]:
        from pipeline.endpoints.chat import image_part

        image = image_part(_png(pixels), "png")
        return [self._client.start(self._ask(image, prompt, deadline)) for prompt in prompts]

    async def _ask(self, image: dict[str, object], prompt: Prompt, deadline: float | None) -> Answer:
        from pipeline.endpoints.chat import chat_body, complete, text_part

        body = chat_body(
            self._asked.model,
            [{"role": "user", "content": [image, text_part(prompt.text)]}],
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            top_p=prompt.top_p,
            seed=prompt.seed if prompt.temperature > 0 else None,
            stop=prompt.stop,
            logprobs=True,
        )
        completion = await complete(self._client, body, deadline)
        return Answer(
            text=completion.text,
            finish_reason=completion.finish_reason,
            seconds=completion.seconds,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=completion.output_tokens,
            temperature=prompt.temperature,
            confidence=completion.confidence,
            details={"served_model": completion.model, "tries": completion.tries},
        )

    def stats(self) -> dict[str, float]:
        return self._client.stats()

    def close(self) -> None:
        self._client.close()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """As large as the model takes it."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) > _MAX_SIDE_PX:
        image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
