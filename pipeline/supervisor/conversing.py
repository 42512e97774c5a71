"""Conversations with the engine that the settings choose, in a process of its own: `python -m workers converse`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import ProgramFault, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.supervisor.processes import WORKERS, child_environment
from pipeline.supervisor.server_warnings import warning_of


def converse(
    settings: Settings, conversations: Sequence[list[dict[str, Any]]], max_tokens: int
) -> Iterator[tuple[int, str | None, str]]:
    """(which, answer, why not) as they are answered; messages as OpenAI's API takes them, images as data URLs.

    Raises:
        UsageError: the engine cannot run here, or answers no conversations. ProgramFault: its process failed.
    """
    try:
        process = subprocess.Popen(
            [*WORKERS, "converse"],
            env=child_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise Unavailable(f"no process can be started for the engine: {error}") from error
    assert process.stdin and process.stdout and process.stderr
    told: list[str] = []

    def give() -> None:
        assert process.stdin
        try:
            for number, messages in enumerate(conversations):
                process.stdin.write(json.dumps({"id": number, "messages": messages, "max_tokens": max_tokens}) + "\n")
            process.stdin.close()
        except OSError:
            pass  # it ended, and says why

    def hear() -> None:
        assert process.stderr
        for line in process.stderr:
            told.append(line)
            if (words := warning_of(line)) is not None:
                sys.stderr.write(f"{words}\n")

    threads = [threading.Thread(target=work, daemon=True) for work in (give, hear)]
    for thread in threads:
        thread.start()
    try:
        for line in process.stdout:
            if not line.startswith('{"id"'):  # a library that greets
                continue
            answer = json.loads(line)
            yield answer["id"], answer["text"], answer["error"]
        code = process.wait()
        threads[1].join(timeout=10)
        if code:
            lines = [line.strip() for line in told if line.strip()] or ["no word from it"]
            last = lines[-1].removeprefix("pagepack: ")
            if code == UsageError.exit_code:
                raise UsageError(last)
            raise ProgramFault(f"the engine's process ended with {code}: {last}")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
