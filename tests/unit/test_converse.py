"""Conversations on standard input: few of them are in the engine at once, and all are answered."""

from __future__ import annotations

import io
import json
import sys
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from pipeline.settings import Settings
from schemas.prompts import Prompt
from tests.stand_ins import InstantEngine
from workers import converse
from workers.engines import Answer


class TalkingEngine(InstantEngine):
    """Answers four a moment after they wait, one of them with a failure; takes more meanwhile."""

    capacity = 2

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Future[Answer]]] = []
        self.most = 0

    def converse(self, messages: list[dict[str, Any]], prompt: Prompt) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.waiting.append((messages[0]["content"], future))
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) == 4:
            threading.Timer(0.05, self._answer).start()
        return future

    def _answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for text, future in waiting:
            if text == "2":
                future.set_exception(ValueError("no such image"))
            else:
                future.set_result(Answer(f"to {text}", "stop", 0.0))


def test_twice_the_engine_s_capacity_is_given_to_it_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{"id": n, "messages": [{"role": "user", "content": str(n)}], "max_tokens": 9} for n in range(20)]
    engine = TalkingEngine()
    monkeypatch.setattr(converse, "make_engine", lambda settings: engine)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(one) + "\n" for one in asked)))
    converse.run(Settings())
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert engine.most == 4
    assert sorted(one["id"] for one in said) == list(range(20))
    assert [(one["id"], one["error"]) for one in said if one["text"] is None] == [(2, "no such image")]
