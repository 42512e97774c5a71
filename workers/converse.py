"""`python -m workers converse`: conversations on standard input, answers on standard output, a JSON line each.

{"id": 3, "messages": [{"role": "user", "content": [{"type": "image_url", …}, {"type": "text", …}]}, …],
 "max_tokens": 4096}
{"id": 3, "text": "…", "finish_reason": "stop", "error": ""}       text is null where there is an error
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

from pipeline.errors import UsageError
from pipeline.settings import Settings
from schemas.prompts import Prompt
from workers.choose import make_engine
from workers.engines import Answer, Engine


@runtime_checkable
class Converses(Protocol):
    """An engine that answers more than a question about a page; `prompt` says how, and its text is not asked."""

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        """Messages as OpenAI's API takes them, images as data URLs; the last one is answered."""


def run(settings: Settings) -> None:
    """Answer all that comes; ends when standard input has.

    Raises:
        UsageError: the engine answers no conversations.
    """
    engine: Engine = make_engine(settings)
    try:
        if not isinstance(engine, Converses):
            raise UsageError(
                f"the engine {engine.name} reads pages only; conversations need --engine pixtral --model DIR, or "
                "--engine endpoint"
            )
        writing = threading.Lock()
        waiting: list[Future[Answer]] = []
        for line in sys.stdin:
            asked = json.loads(line)
            prompt = Prompt("conversation", "", max_tokens=asked["max_tokens"])
            future = engine.converse(asked["messages"], prompt)
            future.add_done_callback(lambda done, key=asked["id"]: _say(key, done, writing))  # type: ignore[misc]
            waiting.append(future)
        for future in waiting:
            future.exception()
        with writing:
            sys.stdout.flush()
    finally:
        engine.close()


def _say(key: int, done: Future[Answer], writing: threading.Lock) -> None:
    error = done.exception()
    said: dict[str, Any] = {"id": key, "text": None, "finish_reason": None, "error": ""}
    if error is not None:
        said["error"] = str(error) or type(error).__name__
    else:
        answer = done.result()
        said |= {"text": answer.text, "finish_reason": answer.finish_reason}
    with writing:
        print(json.dumps(said), flush=True)
