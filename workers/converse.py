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
from typing import Any

from pipeline.errors import UsageError
from pipeline.settings import Settings
from schemas.prompts import Prompt
from workers.choose import make_engine
from workers.engines import Answer, Converses, Engine


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
        talk = _Talk(2 * engine.capacity)  # the next ones are there when the engine has room
        for line in sys.stdin:
            asked = json.loads(line)
            talk.await_room()
            prompt = Prompt("conversation", "", max_tokens=asked["max_tokens"])
            talk.follow(asked["id"], engine.converse(asked["messages"], prompt))
        talk.await_end()
    finally:
        engine.close()


class _Talk:
    """Says answers as they come; only so many conversations, with their images, are in memory at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._room = threading.BoundedSemaphore(most)
        self._writing = threading.Lock()

    def await_room(self) -> None:
        self._room.acquire()

    def follow(self, key: int, future: Future[Answer]) -> None:
        future.add_done_callback(lambda done: self._ended(key, done))

    def await_end(self) -> None:
        for _ in range(self._most):
            self._room.acquire()

    def _ended(self, key: int, done: Future[Answer]) -> None:
        try:
            _say(key, done, self._writing)
        finally:
            self._room.release()


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
