"""The workers that are there, and whether one of them reads what a batch asks; in plain SQL, for commands that look."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.database.looking import Looking, as_json
from pipeline.store.wished_model import without_choices

READ_PICTURES_ALONE = ("rapidocr", "tesseract")  # engines that are told nothing beside them
SILENT_SECONDS = 30.0  # a worker that said nothing for so long is not counted on


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as people see it; `silent_seconds` since it last said that it is there.

    Its role is `ingest`, `read`, or `run`: a reader that serves its own `pagepack run` alone.
    """

    owner: str
    role: str
    host: str
    device: str | None
    engine: str | None
    model: str | None
    version: str
    slots: int
    silent_seconds: float
    prompts: list[str] | None = None  # that it answers; None: any

    def is_reading(self) -> bool:
        return self.role in ("read", "run") and self.silent_seconds < SILENT_SECONDS

    def is_ingesting(self) -> bool:
        return self.role == "ingest" and self.silent_seconds < SILENT_SECONDS


def workers(db: Looking) -> list[WorkerRow]:
    """All that are known, by role and host."""
    columns = "owner, role, host, device, engine, model, version, slots, prompts, seen_at"
    with db.looking() as look:
        now = look.now()
        rows = look.rows(f"SELECT {columns} FROM worker_processes ORDER BY role, host, device, owner")
    return [
        WorkerRow(*known, silent_seconds=max(0.0, now - seen_at), prompts=as_json(prompts))  # type: ignore[misc]
        for *known, prompts, seen_at in rows
    ]


def why_nobody_reads(
    there: Sequence[WorkerRow], engine: str, model: str, prompts: Collection[str], *, is_hinted: bool = False
) -> str | None:
    """Why pages of a batch would wait for ever beside these workers, and the way out; None where they are read.

    Args:
        engine, model: what the batch asked for; model "" where any may read.
        prompts: the names of what it asks.
        is_hinted: the text that a page carries is told to the model.
    """
    readers = [worker for worker in there if worker.is_reading()]
    if not readers:
        return "no worker is ready to read; where none is starting, start one: `pagepack worker`"
    if model := without_choices(model):
        readers = [worker for worker in readers if worker.model == model]
        if not readers:
            return (
                f"no worker reads with what the batch asked for: {engine} ({model}); start a worker with that model, "
                "or submit for another"
            )
    if is_hinted:
        readers = [worker for worker in readers if worker.engine not in READ_PICTURES_ALONE]
        if not readers:
            return (
                "no worker is told the text that pages carry (--text-layer hint); start one that is: "
                "`pagepack worker --engine pixtral --model DIR`, or --engine endpoint; or submit with --text-layer auto"
            )
    missing = [
        name for name in prompts if all(worker.prompts is not None and name not in worker.prompts for worker in readers)
    ]
    if missing:
        return (
            f"no worker answers the prompt {', '.join(missing)}; start one that does: "
            "`pagepack worker --engine pixtral --model DIR`"
        )
    return None
