"""A chat completion: the body of a request, and what the server's answer says.

Only what a request needs goes into its body, for servers differ in what they refuse: vLLM and SGLang take all of these
fields, Mistral's API knows no `seed` and no `logprobs`, newer models of OpenAI's no `max_tokens`. `extra` mends the
rest: its fields are laid over the body, and those that are None are left out.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pipeline.endpoints.client import Client
from pipeline.endpoints.words import bad_answer, error_words, fields_of, one_line
from pipeline.errors import PageFailed, PagepackError, Unavailable

log = logging.getLogger("pagepack.endpoint")

PATH = "/chat/completions"

_REASONS = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "tool_calls": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "repetition": "repetition",
}
_LEAST_LOG_PROBABILITY = -9999.0  # as servers write minus infinity, which JSON does not know
_BROKEN_OFF = ("error", "abort", "cancelled", "cancel")


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server answered, in our words. `pieces` are its tokens' bytes, each with the logarithm of how likely it
    was; none where the server does not say."""

    text: str
    finish_reason: str  # stop, length, content_filter, repetition
    model: str  # as the server calls what answered; "" where it does not say
    seconds: float
    tries: int = 1
    prompt_tokens: int = 0
    output_tokens: int = 0
    pieces: tuple[bytes, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    cost: float | None = None


def chat_body(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    if top_p != 1.0:
        body["top_p"] = top_p
    if seed is not None:
        body["seed"] = seed
    if stop:
        body["stop"] = list(stop)
    if logprobs:
        body["logprobs"] = True
    body |= extra or {}
    return {name: value for name, value in body.items() if value is not None}


def image_part(data: bytes, kind: str) -> dict[str, Any]:
    """An image in a message; `kind` is png or jpeg."""
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


async def complete(
    client: Client,
    body: Mapping[str, Any],
    deadline: float | None = None,
    cost: Callable[[int, int, int], float | None] = lambda prompt_tokens, output_tokens, pages: None,
) -> Completion:
    """Ask, on the client's thread: `client.start(complete(client, body)).result()`.

    A server that knows no `logprobs` is asked without them from then on.

    Raises: PageFailed, Unavailable, EndpointGone, as `Client.send`; and for an answer that is none, with its `cost`.
    """
    try:
        reply = await client.send("POST", PATH, deadline, json=_without(body, client.unknown_fields))
    except PageFailed as error:
        if "logprobs" not in body or "logprob" not in str(error) or "logprobs" in client.unknown_fields:
            raise
        client.unknown_fields.add("logprobs")
        log.info("%s gives no log-probabilities; answers have no confidence (%s)", client.name, error)
        reply = await client.send("POST", PATH, deadline, json=_without(body, client.unknown_fields))
    answer = reply.json()
    price = cost(*tokens_of(answer), 0)
    try:
        completion = completion_of(answer)
    except PagepackError as error:
        error.cost = price
        raise
    return replace(completion, seconds=reply.seconds, tries=reply.tries, cost=price)


def _without(body: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in fields}


def completion_of(answer: Mapping[str, Any]) -> Completion:
    """Raises: PageFailed (`filtered`), Unavailable (`bad-answer`, `endpoint`)."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = error_words(json.dumps(answer).encode()) if answer.get("error") else f"it has {fields_of(answer)}"
        raise bad_answer(f"no choices: {said}")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_answer(f"a choice without a message: it has {fields_of(choice)}")
    text = _text_of(message.get("content"))
    reason = str(choice.get("finish_reason") or "stop").lower()
    if reason in _BROKEN_OFF:
        raise Unavailable(f"the endpoint broke the answer off (finish_reason {one_line(reason, 40)})", cause="endpoint")
    refusal = message.get("refusal")
    if not text and (refusal or _REASONS.get(reason) == "content_filter"):
        said = f": {one_line(str(refusal))}" if refusal else ""
        raise PageFailed(f"the endpoint's filter lets no answer to this page through{said}", cause="filtered")
    prompt_tokens, output_tokens = tokens_of(answer)
    pieces, log_probabilities = _tokens(choice.get("logprobs"))
    return Completion(
        text=text,
        finish_reason=_REASONS.get(reason, "stop"),
        model=one_line(str(answer.get("model") or ""), 100),
        seconds=0.0,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        pieces=pieces,
        log_probabilities=log_probabilities,
    )


def tokens_of(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Of image and prompt, and of the answer, as the server counts them; 0 where it does not."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))


def _text_of(content: Any) -> str:
    """A message's content: a text, or parts of which some are texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if content is None:
        return ""
    raise bad_answer(f"content that is no text ({type(content).__name__})")


def _tokens(logprobs: Any) -> tuple[tuple[bytes, ...], tuple[float, ...]]:
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    pieces, numbers = list[bytes](), list[float]()
    for entry in entries if isinstance(entries, list) else ():
        value = entry.get("logprob") if isinstance(entry, dict) else None
        if isinstance(value, int | float) and not math.isnan(value):
            numbers.append(min(0.0, max(float(value), _LEAST_LOG_PROBABILITY)))
            pieces.append(_bytes_of(entry))
    return tuple(pieces), tuple(numbers)


def _bytes_of(entry: Mapping[str, Any]) -> bytes:
    with suppress(TypeError, ValueError):
        if isinstance(given := entry.get("bytes"), list):
            return bytes(given)
    return str(entry.get("token") or "").encode(errors="replace")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
