"""A judge behind an endpoint: asked about each turn, at a pace that it bears; its words, and the score in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from pipeline.endpoints.chat import Completion, chat_body, complete
from pipeline.endpoints.client import Client, Server
from pipeline.errors import EndpointGone, PagepackError, UsageError
from pipeline.evaluation.mm_mt_bench import JudgedTurn, Turn, judge_messages, score_of
from pipeline.settings import Settings

_MOST_TOKENS = 2048
_CHECK_SECONDS = 5.0  # for a judge that is there, or refuses; one that is slow is asked on beside the answers
_TRIES = 2  # at a judge that answers without a score; it is asked the same again


def judge_of(settings: Settings) -> tuple[Server, str]:
    """Whom to ask, and for which model. Raises UsageError: something is not set."""
    if settings.judge_url is None or settings.judge_model is None:
        lacks = "--judge-url URL" if settings.judge_url is None else "--judge-model NAME"
        raise UsageError(
            f"a judge scores the answers, and {lacks} is not given; it is a server that answers as OpenAI's does. Its "
            "key is PAGEPACK_JUDGE_KEY"
        )
    server = Server(
        settings.judge_url,
        settings.judge_key,
        most_at_once=settings.endpoint_concurrency,
        request_seconds=settings.endpoint_seconds,
        settings="PAGEPACK_JUDGE",
    )
    return server, settings.judge_model


class Judge:
    """Asked about turns; to be closed."""

    def __init__(self, settings: Settings, instruction: str) -> None:
        server, self._model = judge_of(settings)
        self._client = Client(server)
        self._instruction = instruction
        self._check: Future[JudgedTurn] | None = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self, turn: Turn) -> None:
        """Ask it about a reference answer, before others are made that cost something; waits a moment for that.

        Raises EndpointGone: it serves nobody.
        """
        self._check = self._client.start(self._ask(turn, turn.reference))
        with suppress(PagepackError, TimeoutError):
            self._check.result(_CHECK_SECONDS)
        self.raise_if_gone()

    def raise_if_gone(self) -> None:
        """As what came of `check` since. Raises EndpointGone."""
        if self._check is not None and self._check.done() and isinstance(gone := self._check.exception(), EndpointGone):
            raise gone

    def judge(
        self, answered: Sequence[tuple[Turn, str | None, str]], on_judged: Callable[[], None]
    ) -> list[JudgedTurn]:
        """`answered` has for each turn an answer, or None and why.

        A turn without one has no score; nor has one that the judge does not score, or for which it is gone.
        """
        asked = [
            (turn, answer, None if answer is None else self._client.start(self._ask(turn, answer)))
            for turn, answer, _ in answered
        ]
        judged = []
        for (turn, answer, future), (*_, why) in zip(asked, answered, strict=True):
            try:
                judged.append(JudgedTurn(turn, None, None, why) if future is None else future.result())
            except PagepackError as error:
                judged.append(JudgedTurn(turn, answer, None, str(error)))
            on_judged()
        return judged

    async def _ask(self, turn: Turn, answer: str) -> JudgedTurn:
        said = ""
        for _ in range(_TRIES):
            messages = judge_messages(turn, answer, self._instruction)
            body = chat_body(self._model, messages, max_tokens=_MOST_TOKENS)
            completion: Completion = await complete(self._client, body)
            said = completion.text
            if (score := score_of(said)) is not None:
                return JudgedTurn(turn, answer, score, said)
        return JudgedTurn(turn, answer, None, f"(no score from 1 to 10 in [[ ]]) {said}")
