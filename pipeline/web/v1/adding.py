"""What programs add: documents, by upload or by a path on the server; and failures that are tried again.

Each only where the server was started to allow it. A batch is made as `pagepack submit` makes one: workers read it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from pipeline.database.looking import Looking
from pipeline.database.open import open_database
from pipeline.errors import DiskFull, NothingToDo, UsageError
from pipeline.query.batch_status import BatchRow, asked_prompts, find_batch, who_works
from pipeline.query.failure_list import all_failures
from pipeline.settings import Settings
from pipeline.store.fleet import why_nobody_reads, workers
from pipeline.store.retries import retry_failures
from pipeline.store.worked_on_by import WorkedOnBy
from pipeline.web.request_site import Site, TheSite
from pipeline.web.v1 import shapes
from pipeline.web.v1.reading import Ref, batch_of
from pipeline.web.v1.registrar import Busy, Registrar
from pipeline.web.v1.uploads import Receiver, TooLarge, Uploaded, clear_parts, too_large
from schemas.messages import MOST_OF_A_NAME
from schemas.prompts import CATALOGUE, Prompt, choose_prompts
from schemas.text import storable

router = APIRouter(prefix="/api/v1", tags=["add"], dependencies=[shapes.TOKEN])

_WAIT_SECONDS = 10.0  # for files to be looked at, before a request is answered


@dataclass(frozen=True)
class Additions:
    """What may be added: uploads, and what lies below these folders."""

    uploads: Path | None
    read_from: tuple[Path, ...]
    registrar: Registrar
    max_bytes: int


def make_additions(settings: Settings, allow_upload: bool, read_from: Sequence[Path]) -> Additions:
    """Raises UsageError: one of the folders is none."""
    for folder in read_from:
        if not folder.is_dir():
            raise UsageError(f"--read-from {folder} is no folder")
    uploads = (settings.home / "uploads").absolute() if allow_upload else None
    if uploads is not None:
        clear_parts(uploads)
    roots = tuple(Path(os.path.realpath(folder)) for folder in read_from)
    return Additions(uploads, roots, Registrar(settings), settings.max_upload_bytes)


def _additions(request: Request) -> Additions:
    additions = request.app.state.additions
    assert isinstance(additions, Additions)
    return additions


TheAdditions = Annotated[Additions, Depends(_additions)]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                        "batch": {"type": "string", "description": "name of the batch; without one, that of the files"},
                        "prompt": {"type": "array", "items": {"type": "string"}, "description": "ocr without one"},
                    },
                }
            }
        },
    }
}


@router.post("/documents", status_code=202, responses=shapes.TOO_LARGE, openapi_extra=_FORM)
async def upload_documents(request: Request, site: TheSite, additions: TheAdditions) -> shapes.Added:
    """Upload files, in fields called `file`; workers read them then.

    A file's name may be a relative path. All files of a request are taken, or none; again, they are the same batch.
    """
    if additions.uploads is None:
        raise HTTPException(403, "uploads are off; start the server as `pagepack serve --allow-upload`")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > additions.max_bytes:
        raise _refused_size(too_large(additions.max_bytes))
    receiver = Receiver(additions.uploads, request.headers.get("content-type", ""), additions.max_bytes)
    try:
        async for piece in request.stream():
            await run_in_threadpool(receiver.feed, piece)
        prompts, name = _wishes(receiver.fields)  # before anything is put into its place
        files = await run_in_threadpool(receiver.finish)
        return await run_in_threadpool(_added, site, additions, files, prompts, name)
    except TooLarge as error:
        raise _refused_size(error) from error
    except DiskFull as error:
        raise HTTPException(507, str(error)) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the sender went in the middle of the upload; nothing was kept") from error
    finally:
        await run_in_threadpool(receiver.close)


def _refused_size(error: TooLarge) -> HTTPException:
    """What else is sent would be read and thrown away, but for the end of the connection."""
    return HTTPException(413, str(error), {"Connection": "close"})


def _wishes(fields: dict[str, list[str]]) -> tuple[list[Prompt], str | None]:
    """What a form asks beside its files: prompts, and the batch's name. Raises UsageError."""
    unknown = set(fields) - {"batch", "prompt"}
    if "file" in unknown:
        raise UsageError("a field called file holds words and no file; send the file itself: curl -F file=@letter.pdf")
    if unknown:
        raise UsageError(f"no field is called {min(unknown)[:80]!r}; there are file, batch and prompt")
    name = next(iter(fields.get("batch", [])), "") or None
    if name is not None and len(name) > MOST_OF_A_NAME:
        raise UsageError(f"the batch {name[:20]!r}… has a name of {len(name):,} characters; at most {MOST_OF_A_NAME}")
    return _prompts([prompt for prompt in fields.get("prompt", []) if prompt] or ["ocr"]), name


def _added(
    site: Site, additions: Additions, files: list[Uploaded], prompts: Sequence[Prompt], name: str | None
) -> shapes.Added:
    paths = sorted({file.path for file in files})
    shown = [
        shapes.AddedFile(
            name=file.name,
            source_path=str(file.path),
            size_bytes=file.size_bytes,
            content_hash=file.content_hash,
            was_known=file.was_known,
        )
        for file in files
    ]
    return _submitted(site, additions, paths, prompts, name, shown)


@router.post("/batches", status_code=202, responses=shapes.REFUSED)
def submit_paths(site: TheSite, additions: TheAdditions, asked: shapes.Paths) -> shapes.Added:
    """Files and folders that lie on the server already, below what `--read-from` names; workers read them then."""
    if not additions.read_from:
        raise HTTPException(403, "no path may be read; start the server as `pagepack serve --read-from FOLDER`")
    paths = [_allowed(path, additions.read_from) for path in asked.paths]
    return _submitted(site, additions, paths, _prompts(asked.prompts), asked.batch or None, [])


def _allowed(path: str, roots: tuple[Path, ...]) -> Path:
    """The path with all links resolved. Whether something is there is not told of what lies elsewhere."""
    refusal = HTTPException(403, f"{path[:200]!r} is not below a folder that may be read: {', '.join(map(str, roots))}")
    if "\0" in path or not os.path.isabs(path):
        raise refusal
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise refusal from error
    if not any(real == root or root in real.parents for root in roots):
        raise refusal
    try:
        is_there = os.path.lexists(real)
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        raise HTTPException(404, f"nothing is at {path[:200]!r}")
    return real


def _prompts(names: Sequence[str]) -> list[Prompt]:
    try:
        return list(choose_prompts(list(dict.fromkeys(names)), []))
    except KeyError as error:
        raise UsageError(f"no prompt of the catalogue is called {error}; there are {', '.join(CATALOGUE)}") from error


def _submitted(
    site: Site,
    additions: Additions,
    paths: Sequence[Path],
    prompts: Sequence[Prompt],
    name: str | None,
    files: list[shapes.AddedFile],
) -> shapes.Added:
    named = None if name is None else storable(name)
    try:
        batch, is_done = additions.registrar.submit(paths, prompts, named, _WAIT_SECONDS)
    except NothingToDo as error:
        raise HTTPException(404, str(error)) from error
    except Busy as error:
        raise HTTPException(503, str(error), {"Retry-After": "60"}) from error
    db = site.db
    row = find_batch(db, batch.public_id)
    why = _why_nobody_reads(db, row)
    return shapes.Added(batch_id=row.batch_id, name=row.name, all_seen=is_done, files=files, nobody_reads=why)


def _why_nobody_reads(db: Looking, batch: BatchRow) -> str | None:
    if batch.state != "running" or who_works(db, batch) == WorkedOnBy.RUN:
        return None
    there = [worker for worker in workers(db) if worker.role != "run"]
    return why_nobody_reads(there, batch.engine, batch.model, asked_prompts(db, batch.id))


@router.post("/batches/{batch}/retry", responses=shapes.REFUSED)
def retry(site: TheSite, batch: Ref, asked: shapes.Retry) -> shapes.Retried:
    """Failures of a batch wait again, as `pagepack retry` has it; workers read them."""
    if not site.allow_retry:
        raise HTTPException(403, "retrying is off; start the server as `pagepack serve --allow-retry`")
    looked_at = site.db
    chosen = batch_of(looked_at, batch)
    cause = None if asked.cause is None else storable(asked.cause)
    failures = [(one.source_path, one.page_number) for one in all_failures(looked_at, chosen.id, cause)]
    db = open_database(site.settings)
    try:
        documents, answers = retry_failures(db, chosen.id, failures)
    finally:
        db.dispose()
    why = _why_nobody_reads(looked_at, find_batch(looked_at, chosen.batch_id)) if documents or answers else None
    return shapes.Retried(failures=len(failures), documents=documents, answers=answers, nobody_reads=why)
