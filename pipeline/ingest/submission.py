"""Batches that people or programs ask for: by `pagepack submit`, by `pagepack run`, or by a message.

Submitting needs the database alone. Workers are woken by whoever leads (`delivery/dispatcher.py`), so a broker that is
away, or workers that are not started yet, cost nothing but time.

Longer than most modules: what a command and a message may ask is checked by the same rules, which stand side by side.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.database.home import HomeLock
from pipeline.database.open import open_database
from pipeline.documents.discover import absolute, discover
from pipeline.documents.files import display
from pipeline.documents.pages.raster import drawn_for
from pipeline.errors import DocumentRejected, NothingToDo, PagepackError, StorageGone, UsageError, redacted
from pipeline.ingest.register import register, register_all
from pipeline.ingest.selection import ALL_FILES, Seen, Selection
from pipeline.settings import Settings
from pipeline.store.batches import (
    EVALUATION_KEY,
    PATHS_KEY,
    QUESTION_KEY,
    OpenBatch,
    open_batch,
    text_layer_of,
)
from pipeline.store.fleet import READ_PICTURES_ALONE
from pipeline.store.sources import SeenFile, record_files
from pipeline.structured.check import checked
from pipeline.urls import is_url
from schemas.messages import MOST_OF_A_NAME, SubmitDocument
from schemas.prompts import CATALOGUE, Prompt, choose_prompts, schema_prompt, with_hint
from schemas.text import storable

_MOST_OF_A_PROMPT = 100  # characters of a prompt's name
_MOST_OF_A_TARGET = 255  # bytes of a task's or queue's name, as RabbitMQ has it

log = logging.getLogger("pagepack.submit")


class BadMessage(PagepackError):
    """A message asks for what there is not; it is dropped. The log and, in its batch, the view `failures` say so."""

    cause = "message"


def check_paths(paths: Sequence[str | Path], settings: Settings, selection: Selection = ALL_FILES) -> None:
    """Raises NothingToDo where no file is at the paths; asked before anything is made. Else raises as `discover`."""
    if next(discover(paths, settings, selection.globs), None) is None:
        left = " that --include and --exclude leave" if selection.identity() else ""
        places = ", ".join(str(path) if is_url(str(path)) else str(Path(path).absolute()) for path in paths)
        raise NothingToDo(f"no file found at {places}{left}")


def open_named_batch(
    db: Database,
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    batch_name: str | None,
    engine: str,
    model: str,
    pages: Sequence[tuple[int, int]] = (),
    selection: Selection = ALL_FILES,
    *,
    priority: int = 0,
    notify: str | None = None,
    is_question: bool = False,
    command: Sequence[str] | None = None,
    is_evaluation: bool = False,
) -> OpenBatch:
    """The batch of this name, or else of these paths, patterns, prompts, model and pages: repeating a command finds it
    again.

    A question's key says that it is one: a run reads what is asked in its home meanwhile. An evaluation is a batch of
    its own, which leaves what pages show.
    """
    if batch_name is not None and len(batch_name) > MOST_OF_A_NAME:
        raise UsageError(f"--batch {batch_name[:20]}…: {len(batch_name):,} characters; at most {MOST_OF_A_NAME}")
    places = sorted({absolute(path) for path in paths})
    if settings.text_layer == "hint":
        check_takes_hint(engine)
        prompts = list(map(with_hint, prompts))
    versions = sorted(prompt.version for prompt in prompts)
    kind = QUESTION_KEY if is_question else EVALUATION_KEY if is_evaluation else PATHS_KEY

    def key_of(text_layer: str) -> str:
        if batch_name:
            return f"name:{batch_name}"
        identity = json.dumps([places, versions, model, text_layer, *pages, *selection.identity(), *_unusual(settings)])
        return kind + hashlib.sha256(identity.encode()).hexdigest()

    text_layer = _text_layer(db, settings, engine, key_of)
    key = key_of(text_layer)
    called = ["eval of"] if is_evaluation else []
    places_named = (Path(path).name or path for path in places)
    name = batch_name or " ".join([*called, *places_named, *selection.globs.words()])[:200]
    return open_batch(
        db,
        key=key,
        name=name.encode("utf-8", "backslashreplace").decode(),
        prompts=prompts,
        engine=engine,
        model=model,
        text_layer=text_layer,
        detail=drawn_for(settings),
        blank_pages=settings.blank_pages,
        pages=pages,
        priority=priority,
        notify=notify,
        all_seen=False,
        command=command,
        max_cost=settings.max_cost,
        shows_answers=not is_evaluation,
    )


def check_takes_hint(engine: str) -> None:
    """Raises UsageError where an engine sees the picture of a page alone."""
    if engine in READ_PICTURES_ALONE:
        raise UsageError(
            f"--text-layer hint: the engine {engine} is told no text; use auto, keep or prefer, or --engine pixtral"
        )


def _text_layer(db: Database, settings: Settings, engine: str, key_of: Callable[[str], str]) -> str:
    """What is made of a PDF's own text: as the settings say, else as the batch that is there does, else by the engine.

    What reads the picture alone reads it no better than sound text. Pixtral is chosen to read; so is an engine that
    nobody knows yet.
    """
    if settings.text_layer is not None:
        return settings.text_layer
    by_engine = "auto" if engine in READ_PICTURES_ALONE else "keep"
    known = (text_layer_of(db, key_of(text_layer)) for text_layer in (by_engine, "keep"))
    return next(filter(None, known), by_engine)


def _unusual(settings: Settings) -> list[str]:
    """In a batch's key only where it is not the default, so that batches of older archives are found again."""
    detail = [] if settings.detail == "auto" else [f"detail {settings.detail}"]
    return detail + ([] if settings.blank_pages == "skip" else [f"blank pages {settings.blank_pages}"])


def open_or_make(settings: Settings) -> Database:
    """The database, which a home without one gets. One that exists may be in use, and is not migrated."""
    if settings.database_url is None and not (settings.home / "pagepack.db").exists():
        with HomeLock(settings.home):
            open_database(settings, create=True).dispose()
    return open_database(settings)


def submit(
    settings: Settings,
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    batch_name: str | None,
    pages: Sequence[tuple[int, int]],
    priority: int,
    notify: str | None,
    on_seen: Callable[[Seen], None],
    is_stopping: Callable[[], bool],
    engine: str = "any",
    model: str = "",
    is_question: bool = False,
    selection: Selection = ALL_FILES,
    command: Sequence[str] | None = None,
) -> OpenBatch:
    """Register the files for workers elsewhere. Where no model is named, whatever the workers read with serves.

    Raises:
        UsageError: settings or a database that do not fit.
    """
    db = open_or_make(settings)
    try:
        named = (paths, prompts, batch_name, engine, model, pages, selection)
        batch = open_named_batch(
            db, settings, *named, priority=priority, notify=notify, is_question=is_question, command=command
        )
        for seen in register_all(db, batch, paths, settings, selection, batch_name is None, is_stopping):
            on_seen(seen)
        return batch
    finally:
        db.dispose()


def check_notify(notify: str | None) -> None:
    """Raises UsageError unless it is a task's name, with or without a queue."""
    if notify is None:
        return
    if not re.fullmatch(r"[^@\s]+(@[^@\s]+)?", notify):
        raise UsageError(f"--notify {_begin(notify)}: write a Celery task's name, or TASK@QUEUE")
    if any(len(name.encode("utf-8", "surrogatepass")) > _MOST_OF_A_TARGET for name in notify.split("@")):
        raise UsageError(f"--notify {_begin(notify)}: a task's or queue's name has at most {_MOST_OF_A_TARGET} bytes")


def parse_pages(text: str | None) -> list[tuple[int, int]]:
    """`3-5,8,20-` → [(2, 4), (7, 7), (19, 2147483646)]: page numbers from 1 to page indexes from 0; None → [].

    Raises:
        UsageError: not of that form, a number under 1, or a range that runs backwards.
    """
    ranges: dict[int, int] = {}
    for part in (text or "").split(",") if text else []:
        match = re.fullmatch(r"\s*(\d{1,20})\s*(-\s*(\d{0,20}))?\s*", part)  # Python reads 4,300 digits, no more
        if match is None:
            raise UsageError(f"--pages {_begin(str(text))}: write page numbers and ranges, like 3-5,8,20-")
        first = int(match[1])
        last = first if match[2] is None else int(match[3] or 2**31 - 1)
        if not 1 <= first <= last < 2**31:
            fact = f"{part.strip()!r} is no range of page numbers; they count from 1"
            raise UsageError(f"--pages {_begin(str(text))}: {fact}")
        ranges[first - 1] = max(last - 1, ranges.get(first - 1, 0))
    return sorted(ranges.items())


def _begin(text: str) -> str:
    """Enough of it for a message."""
    return text if len(text) <= 80 else f"{text[:80]}…"


def submit_message(db: Database, settings: Settings, message: SubmitDocument) -> None:
    """What anyone asked for in a message. Messages of one batch that ask the same in the same way are one batch.

    A location that is not there, not to be reached, or that nothing can be made of, and a wish that cannot be
    fulfilled, are recorded so in the view `failures`. A batch that was paused or cancelled stays so.

    Raises:
        BadMessage: it asks for what there is not. Unavailable: the database is away; that may pass.
    """
    try:
        prompts, pages = _wishes(message)
    except BadMessage as error:
        plain = message.model_copy(update={"prompts": ["ocr"], "schemas": {}, "pages": None, "notify": None})
        batch = _open_batch_of(db, settings, plain, *_wishes(plain))
        # Not under the path itself: the file may be there, and read, for whoever asked better.
        _reject(db, batch, f"message:{storable(message.location)}", DocumentRejected(str(error), cause=error.cause))
        raise
    batch = _open_batch_of(db, settings, message, prompts, pages)
    location = storable(message.location)
    try:
        if not any([*register(db, batch, [location], settings, forget_gone=False, is_stopping=lambda: False)]):
            raise UsageError(f"no file found at {location}")
    except (UsageError, StorageGone) as error:  # nobody waits at a command line: `failures` says it
        cause = "missing" if isinstance(error, UsageError) else error.cause
        rejection = DocumentRejected(redacted(str(error)), cause=cause)
    except PagepackError:
        raise
    except Exception as error:  # of a library that knows no better; the same message would raise it again
        log.exception("%s cannot be registered", redacted(location))
        reason = f"{redacted(location)} cannot be registered: {type(error).__name__}: {redacted(str(error))}"
        rejection = DocumentRejected(reason, cause="unreadable")
    else:
        return
    _reject(db, batch, location, rejection)


def _reject(db: Database, batch: OpenBatch, location: str, rejection: DocumentRejected) -> None:
    record_files(db, batch, [SeenFile(display(redacted(location)), "", 0, 0, rejection=rejection)])


def _wishes(message: SubmitDocument) -> tuple[list[Prompt], list[tuple[int, int]]]:
    schemas = sorted(message.schemas.items())  # whatever their order, it is the same batch
    try:
        check_notify(message.notify)
        own = [schema_prompt(_own_name(name), checked(one, f"the schema {_begin(name)}")) for name, one in schemas]
        return choose_prompts(message.prompts, own), parse_pages(message.pages)
    except KeyError as error:
        raise BadMessage(f"no prompt of the catalogue is called {error}; there are {', '.join(CATALOGUE)}") from error
    except UsageError as error:
        raise BadMessage(str(error)) from error


def _own_name(name: str) -> str:
    """A prompt's name of somebody's own. Raises UsageError: it cannot be one."""
    if name in CATALOGUE:
        raise UsageError(f"the schema {name}: that is a prompt of the catalogue; choose another name")
    if not name or name != name.strip() or len(name) > _MOST_OF_A_PROMPT or not name.isprintable():
        raise UsageError(
            f"the schema {_begin(name)!r}: a prompt's name has 1 to {_MOST_OF_A_PROMPT} characters, in one line"
        )
    return name


def _open_batch_of(
    db: Database,
    settings: Settings,
    message: SubmitDocument,
    prompts: Sequence[Prompt],
    pages: Sequence[tuple[int, int]],
) -> OpenBatch:
    text_layer = settings.text_layer or "keep"
    if text_layer == "hint":
        prompts = list(map(with_hint, prompts))
    asked = [sorted(prompt.version for prompt in prompts), text_layer, message.priority, message.notify]
    digest = hashlib.sha256(json.dumps([*asked, *pages, *_unusual(settings)]).encode()).hexdigest()[:16]
    return open_batch(
        db,
        key=f"message:{message.batch}:{digest}",
        name=message.batch,
        prompts=prompts,
        engine="any",
        model="",
        text_layer=text_layer,
        detail=drawn_for(settings),
        blank_pages=settings.blank_pages,
        pages=pages,
        priority=message.priority,
        notify=message.notify,
        reopens=False,
    )
