"""A server that answers as OpenAI's API does, as an engine: whatever model runs there, behind the same ledger.

A page is a request: its image as a data URL, and the prompt. Pages wait on the worker's threads, requests run on the
client's; how many at once, and what is tried again, is the client's to say (`pipeline/endpoints/`). How large the image
is and how the model is asked, the catalogue says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.endpoints.catalogue import is_same_model, without_front_matter
from pipeline.endpoints.prices import Prices
from pipeline.endpoints.words import shown_url
from pipeline.errors import Unavailable
from pipeline.settings import Settings
from schemas.prompts import OCR, Prompt
from schemas.review import ReviewReason
from workers.engines import Answer, Begun, Engine
from workers.engines.endpoint_images import PageImages
from workers.engines.endpoint_request import Asked
from workers.pixtral.text.confidence import confidence_of, without

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.documents.pages.tiles import Tiling
    from pipeline.endpoints.chat import Completion
    from workers.engines.endpoint_jobs import Book, Jobs

log = logging.getLogger("pagepack.endpoint")


class EndpointEngine(Engine):
    """Answers with chat completions, any prompt that its model does."""

    name = "endpoint"

    def __init__(self, settings: Settings) -> None:
        """Raises UsageError: something is not set."""
        from pipeline.endpoints.client import Client, Server
        from pipeline.endpoints.mistral_batch import HOURS

        self._asked = Asked.of(settings)
        self.model = self._asked.fingerprint
        is_batch = self._asked.kind == "mistral-batch"
        self.capacity = settings.endpoint_batch_pages if is_batch else settings.endpoint_concurrency
        self.least_page_seconds = (HOURS + 1) * 3600.0 if is_batch else 0.0
        self._client = Client(
            Server(
                self._asked.url,
                settings.endpoint_key,
                most_at_once=settings.endpoint_concurrency,
                request_seconds=settings.endpoint_seconds,
            )
        )
        self._prices = Prices.of(settings)
        self.least_cost = self._prices.cost(0, 0, 1)  # None where it is not the page that is paid for
        self._batch_pages = settings.endpoint_batch_pages
        self._jobs: Jobs | None = None
        self._served = ""  # the name under which the last answer came

    def keep_jobs_in(self, book: Book) -> None:
        """Before the first page is submitted: jobs of a batch API are written down there."""
        if self._asked.kind == "mistral-batch":
            from workers.engines.endpoint_jobs import Jobs

            self._jobs = Jobs(self._client, book, self.model, self._asked.model, self._batch_pages, self._prices.cost)

    def supports(self, prompt: Prompt) -> bool:
        return self._asked.only_prompts is None or prompt.name in self._asked.only_prompts

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        from workers.engines.endpoint_images import images_of

        asked = self._asked
        images = images_of(
            pixels,
            asked.image_format,
            max_side_px=asked.max_side_px,
            max_pixels=asked.entry.max_pixels,
            is_tiled=asked.entry.is_tiled,
        )
        return [self._client.start(self._ask(image_hash, images, prompt, deadline)) for prompt in prompts]

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        """Of a conversation, whose messages are as OpenAI's API has them, the next answer."""
        return self._client.start(self._converse(messages, prompt))

    async def _converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Answer:
        from pipeline.endpoints.chat import chat_body, complete

        body = chat_body(
            self._asked.model,
            messages,
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            extra=self._asked.entry.extra | self._asked.extra,
        )
        completion = await complete(self._client, body, None, self._prices.cost)
        return Answer(
            text=completion.text,
            finish_reason=completion.finish_reason,
            seconds=completion.seconds,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=completion.output_tokens,
            temperature=prompt.temperature,
        )

    async def _ask(self, image_hash: str, images: PageImages, prompt: Prompt, deadline: float | None) -> Answer:
        from pipeline.endpoints.chat import complete
        from pipeline.endpoints.mistral_batch import line_of
        from pipeline.endpoints.mistral_ocr import ocr_body, read_page

        asked, as_asked = self._asked, self._asked.prompt(prompt)
        if asked.kind == "chat":
            body = asked.body(images, as_asked)
            completion = await complete(self._client, body, deadline, self._prices.cost)
        else:
            body = ocr_body(asked.model, images.images[0], asked.image_format, asked.extra)
            images = PageImages([])  # hundreds of pages may wait for a day
            if asked.kind == "mistral-batch":
                assert self._jobs is not None, "keep_jobs_in was not called"
                page = f"{image_hash}-{prompt.version}"
                waiting = self._jobs.read(page, line_of(page, body))
                del body
                completion = await waiting
            else:
                completion = await read_page(self._client, body, deadline, self._prices.cost)
        return self._answer(completion, images.tiling, as_asked)

    def _answer(self, completion: Completion, tiling: Tiling | None, prompt: Prompt) -> Answer:
        text, about, cuts = completion.text, dict[str, str](), list[tuple[int, int]]()
        details: dict[str, Any] = {"server": shown_url(self._asked.url), "tries": completion.tries}
        if completion.model:
            details["served_model"] = completion.model
        if self._asked.entry.has_front_matter and prompt.name == OCR.name:
            text, about = without_front_matter(text)
            if about:
                details["front_matter"] = about
                cuts = [(0, len(completion.text) - len(text))]
        if tiling is not None:
            from workers.pixtral.text.seams import doubled_seams, without_doubled_seams

            details["tiles"] = tiling.on_page()
            if prompt.name == OCR.name:
                cuts = doubled_seams(text, len(tiling.boxes) - 1)
                text, doubled = without_doubled_seams(text, len(tiling.boxes) - 1)
                details |= {"doubled_lines": doubled} if doubled else {}
        sure = confidence_of(completion.pieces, completion.log_probabilities, len(completion.text))
        if sure and b"".join(completion.pieces).decode(errors="replace").startswith(completion.text):
            doubts = without(sure.doubts, cuts)
            details |= {"doubts": [[*one, text[one.first : one.last]] for one in doubts]} if doubts else {}
        reason, score = _doubt(completion, about)
        self._note_served(completion.model)
        is_other = completion.model and not is_same_model(self._asked.model, completion.model)
        return Answer(
            text=text,
            finish_reason=completion.finish_reason,
            seconds=completion.seconds,
            prompt_tokens=completion.prompt_tokens,
            output_tokens=completion.output_tokens,
            temperature=prompt.temperature,
            confidence=sure.mean if sure else None,
            lowest_confidence=sure.lowest if sure else None,
            details=details,
            review_reason=reason,
            review_score=score,
            model=f"{self.model}={completion.model}" if is_other else None,
            cost=completion.cost,
        )

    def _note_served(self, served: str) -> None:
        """Say it once where another model answers than was asked for, or than did until now."""
        if not served or served == self._served:
            return
        if self._served:
            log.warning("%s answered as %s until now, and as %s from here on", self._client.name, self._served, served)
        elif served != self._asked.model:
            log.info("%s was asked for %s, and answers as %s", self._client.name, self._asked.model, served)
        self._served = served

    def stats(self) -> dict[str, float]:
        return self._client.stats()

    def close(self) -> None:
        if self._jobs is not None:
            with suppress(Unavailable):  # it is closed already
                self._client.start(self._jobs.close()).result()
        self._client.close()


def _doubt(completion: Completion, about: dict[str, str]) -> tuple[ReviewReason | None, float | None]:
    """Why people should look at this answer, and how much so; what any answer shows the view finds."""
    if completion.finish_reason == "content_filter":
        return ReviewReason.FILTERED, 0.9
    if about.get("is_rotation_valid", "").lower() == "false":
        return ReviewReason.TURN_IN_DOUBT, 0.5
    return None, None
