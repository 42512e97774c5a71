"""A judge behind an endpoint: asked about each turn, at a pace that it bears; its words, and the score in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.endpoints.chat import Completion, chat_body, complete
from pipeline.endpoints.client import Client, Server
from pipeline.errors import PagepackError, UsageError
from pipeline.evaluation.mm_mt_bench import JudgedTurn, Turn, judge_messages, score_of
from pipeline.settings import Settings

_MOST_TOKENS = 2048
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


def judge_turns(
    settings: Settings,
    answered: Sequence[tuple[Turn, str | None, str]],
    instruction: str,
    on_judged: Callable[[], None],
) -> list[JudgedTurn]:
    """`answered` has for each turn an answer, or None and why.

    A turn without one has no score; nor has one that the judge does not score, or for which it is gone.
    """
    server, model = judge_of(settings)
    client = Client(server)

    async def ask(turn: Turn, answer: str) -> JudgedTurn:
        said = ""
        for _ in range(_TRIES):
            messages = judge_messages(turn, answer, instruction)
            completion: Completion = await complete(client, chat_body(model, messages, max_tokens=_MOST_TOKENS))
            said = completion.text
            if (score := score_of(said)) is not None:
                return JudgedTurn(turn, answer, score, said)
        return JudgedTurn(turn, answer, None, f"(no score from 1 to 10 in [[ ]]) {said}")

    try:
        asked = [
            (turn, answer, None if answer is None else client.start(ask(turn, answer))) for turn, answer, _ in answered
        ]
        judged = []
        for (turn, answer, future), (*_, why) in zip(asked, answered, strict=True):
            try:
                judged.append(JudgedTurn(turn, None, None, why) if future is None else future.result())
            except PagepackError as error:
                judged.append(JudgedTurn(turn, answer, None, str(error)))
            on_judged()
        return judged
    finally:
        client.close()
