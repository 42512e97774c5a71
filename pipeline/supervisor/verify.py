"""The check of a checkpoint, by the worker package in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import EXIT_FAULT, ProgramFault, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.supervisor.processes import WORKERS, child_environment


def verify_model(settings: Settings, paths: Sequence[Path], pages: int, tokens: int) -> dict[str, Any]:
    """What `workers/verify/` found, as JSON.

    Raises:
        UsageError: there is no model, it does not serve here, or no page. ProgramFault: it failed to say so.
    """
    if settings.model is None:
        raise UsageError("pagepack verify needs a checkpoint: --model DIR")
    asked = json.dumps({"paths": list(map(str, paths)), "pages": pages, "tokens": tokens})
    environment = child_environment(settings) | {"PAGEPACK_INTERNAL_VERIFY": asked}
    try:
        done = subprocess.run(
            [*WORKERS, "verify"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        raise Unavailable(f"no process can be started to check the model: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line] or ["no word from it"]
        raise (ProgramFault if done.returncode == EXIT_FAULT else UsageError)(lines[-1].removeprefix("pagepack: "))
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
