"""How long some pages take here, by the worker package in a process of its own."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import EXIT_FAULT, ProgramFault, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.supervisor.processes import WORKERS, child_environment

_WAITED = 600.0  # a page that was begun is read to its end; then something is wrong


@dataclass(frozen=True, slots=True)
class TimedReading:
    """`page_seconds` while `at_once` of them were read side by side."""

    page_seconds: list[float]
    at_once: int
    start_seconds: float


def time_reading(settings: Settings, images: Sequence[bytes], seconds: float) -> TimedReading:
    """Read PNGs as a run does; none is begun after so many seconds.

    Raises:
        UsageError: the engine cannot run here. ProgramFault, Unavailable: it failed to say so.
    """
    lines = [json.dumps({"seconds": seconds}), *(base64.b64encode(image).decode() for image in images)]
    try:
        done = subprocess.run(
            [*WORKERS, "time"],
            env=child_environment(settings),
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=seconds + _WAITED,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"pages cannot be read to see how long that takes: {error}") from error
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line] or ["no word from it"]
        raise (ProgramFault if done.returncode == EXIT_FAULT else UsageError)(said[-1].removeprefix("pagepack: "))
    return TimedReading(**json.loads(done.stdout.strip().splitlines()[-1]))
