"""Which engine reads here: the worker package is asked in a process of its own, so that this one stays small."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import EXIT_FAULT, ProgramFault, Unavailable, UsageError
from pipeline.settings import Settings
from pipeline.supervisor.forked import Forked
from pipeline.supervisor.processes import ask_worker
from schemas.prompts import Prompt


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """What the settings' engine turned out to be: the line that `run` logs, and the key of its answers."""

    engine: str
    model: str
    reason: str
    only_prompts: list[str] | None


def describe_engine(
    settings: Settings, devices: Sequence[str] = (), spare: Forked | None = None, *, reads_here: bool = True
) -> EngineChoice:
    """Ask the worker package, in a process of its own: this one stays without onnxruntime and torch.

    `devices` are GPUs that it shall read on; all of them must be there. `spare` as of `ask_worker`. Without
    `reads_here` a worker elsewhere reads, and this machine's devices are asked only where a setting is auto.

    Raises:
        UsageError: the engine cannot run here; the message says why. ProgramFault: it failed to say so.
    """
    try:
        done = ask_worker(settings, "describe" if reads_here else "name", devices, spare)
    except OSError as error:
        raise Unavailable(f"no process can be started to ask which engine reads here: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line] or ["no word from it"]
        raise (ProgramFault if done.returncode == EXIT_FAULT else UsageError)(lines[-1].removeprefix("pagepack: "))
    return EngineChoice(**json.loads(done.stdout.strip().splitlines()[-1]))


def check_prompts(choice: EngineChoice, prompts: Sequence[Prompt]) -> None:
    """Raises UsageError where the engine does not answer one of them."""
    for prompt in prompts:
        if choice.only_prompts is not None and prompt.name not in choice.only_prompts:
            what = repr(prompt.name)
            way_out = "use --engine pixtral --model DIR"
            if prompt.schema is not None:
                what, way_out = f"{what}, which has a JSON Schema", f"{way_out}, or --engine endpoint"
            raise UsageError(
                f"the engine {choice.engine} answers {', '.join(choice.only_prompts)} only, not {what}; {way_out}"
            )


def asked_model(settings: Settings, prompts: Sequence[Prompt]) -> tuple[str, str]:
    """Engine and model that shall read, where the settings name one, and answer these prompts; else any.

    Raises:
        UsageError: the engine cannot run here, or does not answer one of the prompts.
    """
    says_nothing = settings.engine == "auto" and settings.model is None
    is_of_default = settings.ocr_language is None and not settings.fast and settings.ocr_runtime == "onnxruntime"
    if says_nothing and is_of_default:
        return "any", ""
    choice = describe_engine(settings, reads_here=False)
    check_prompts(choice, prompts)
    return choice.engine, choice.model
