"""One small interface to whatever reads a page."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from schemas.prompts import Prompt

if TYPE_CHECKING:  # an ingest worker, and who describes an engine, do without numpy
    import numpy as np
    from numpy.typing import NDArray

    from workers.engines.endpoint_jobs import Book


@dataclass(frozen=True, slots=True)
class Try:
    """One of several tries at an answer, and what came of it: a word of `schemas/tries.py`. `tiles` is their number,
    None where the page was one image; `error` says why it could not be made."""

    verdict: str
    text: str = ""
    finish_reason: str | None = None
    temperature: float | None = None
    angle: float | None = None
    tiles: int | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    confidence: float | None = None
    is_chosen: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """What is there of an answer before it is read.

    `tokens` and `confidence` are those of one that was cut at its longest length; no tokens: none was. `draft` is a
    text that it may be, as the page carries it or as others read it.
    """

    tokens: tuple[int, ...] = ()
    confidence: float | None = None
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine says about one page and one prompt.

    `finish_reason` is stop, repetition, length, content_filter, deadline, cancelled or error; where nothing was
    read, the reader makes `empty` of stop. `seconds` is the engine's own time for this answer. `confidence` (0 to
    1) is a mean over the answer, `lowest_confidence` that of the line or token which the engine was least sure of;
    None where it has none. `details` is small JSON for people who look closer (line boxes, timings); it is stored
    as it is. `angle` is by how many degrees the engine turned the image clockwise to read it. `review_reason` is a
    word for why people should look at this answer, `review_score` how much so (0 to 1); both None where they need
    not. `model` is what answered, where it is not the engine's own; `cost` what a server charges for it. `tries`
    are all that the engine took for this answer, where it took several: it is one of them.
    `drafted_tokens` are tokens of a draft that the engine tried, `accepted_tokens` those of them that it would have
    written itself; None where it tried none.
    `token_ids` are those of an answer that was cut at its longest length, where the engine can go on from them:
    its `submit` then takes `begun`, for each prompt a `Begun` or None.
    """

    text: str
    finish_reason: str
    seconds: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    temperature: float = 0.0
    confidence: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    angle: float | None = None
    review_reason: str | None = None
    review_score: float | None = None
    lowest_confidence: float | None = None
    model: str | None = None
    cost: float | None = None
    tries: tuple[Try, ...] = ()
    token_ids: tuple[int, ...] = ()
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None


class Engine(Protocol):
    """Reads pages. Engines derive from it, for what most of them need not say.

    Safe to call from many threads; `submit` never blocks on the reading itself.
    """

    name: str
    """`rapidocr`, `pixtral`…: the `engine` column of the views."""
    model: str
    """A fingerprint of what reads (weights and parameters): the `model` column."""
    capacity: int
    """Pages worth having in flight at once; sizes the worker's thread pool."""

    least_cost: float | None = None
    """What an answer costs, where that is known before."""
    least_page_seconds: float = 0.0
    """So long a page must be allowed to take, whatever the settings say: where a server answers within a day."""

    takes_drafts: bool = False
    """Whether it reads sooner where it is told what a page may say."""

    def keep_jobs_in(self, book: Book) -> None:
        """Before the first page is submitted: where an engine writes down into which job of a server it put a page."""
        return

    def supports(self, prompt: Prompt) -> bool:
        """Whether this engine can answer this prompt at all.

        With `prompt.schema`: whether it asks its model for JSON that fits. Whether it fits is looked at by the worker
        (`workers/outcome.py`), whatever the engine; what does not is a failure.
        """
        ...

    def submit(
        self,
        image_hash: str,
        pixels: NDArray[np.uint8],
        prompts: Sequence[Prompt],
        deadline: float | None = None,
        begun: Sequence[Begun | None] = (),
    ) -> list[Future[Answer]]:
        """Read one page with several prompts; one future a prompt, in their order.

        `begun` are answers, one a prompt, that were cut; they come from an engine that left `token_ids`, and it goes on
        from them. Any other reads anew. Drafts come to an engine that `takes_drafts`; they change no answer.

        `pixels` is (H, W, 3) RGB, both sides multiples of 16, or of the square of the model that it was drawn for;
        `image_hash` names them (same hash, same pixels).
        `deadline` is a `time.monotonic()` moment after which an unfinished answer ends with what it has and
        finish_reason "deadline". A future raises `PageFailed` where the page cannot be read. Cancelling a
        future that has not finished releases what it holds in the engine.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Figures since the start for people who watch: pages, seconds, tokens, what the engine has of them."""
        ...

    def close(self) -> None:
        """Stop; unfinished futures raise `Unavailable`."""
        ...


@runtime_checkable
class Converses(Protocol):
    """An engine that answers more than a question about a page; `prompt` says how, and its text is not asked."""

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        """Messages as OpenAI's API takes them, images as data URLs; the last one is answered."""
