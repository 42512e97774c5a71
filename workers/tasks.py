"""The Celery tasks. A message only wakes a worker up: each task looks in the database for what really waits.

A message is acknowledged after its work is stored; one that alone says what was asked for is put back until it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from pydantic import ValidationError

from pipeline.delivery.alarms import raise_alarm
from pipeline.errors import DiskFull, EndpointGone, PagepackError, StorageGone
from pipeline.ingest.ingester import Ingester
from pipeline.ingest.submission import BadMessage, submit_message
from pipeline.settings import Settings
from schemas.messages import (
    INGEST_TASK,
    READ_PAGES_TASK,
    READ_TASK,
    SUBMIT_TASK,
    IngestDocument,
    ReadPage,
    ReadPages,
    SubmitDocument,
)
from workers.reader import Reader

log = logging.getLogger("pagepack.worker")

_MOST_OF_A_MESSAGE = 500  # characters in a log line
_AWAY_SECONDS = 5.0  # between two tries at a message that alone says what was asked for


def add_read_task(app: Celery, reader: Reader) -> None:
    """Serve `pagepack.read_page` and `pagepack.read_pages` from this process."""

    @app.task(name=READ_TASK, shared=False)  # type: ignore[untyped-decorator]
    def read_page(**message: Any) -> None:
        _run(app, READ_TASK, message, lambda: reader.read(ReadPage(**message).page_id))

    @app.task(name=READ_PAGES_TASK, shared=False)  # type: ignore[untyped-decorator]
    def read_pages(**message: Any) -> None:
        _run(app, READ_PAGES_TASK, message, lambda: reader.read(*ReadPages(**message).page_ids))


def add_ingest_tasks(app: Celery, settings: Settings, ingester: Callable[[], Ingester]) -> None:
    """Serve `pagepack.ingest_document` and `pagepack.submit_document`; `ingester` makes or finds this process's own."""

    @app.task(name=INGEST_TASK, shared=False)  # type: ignore[untyped-decorator]
    def ingest_document(**message: Any) -> None:
        _run(app, INGEST_TASK, message, lambda: ingester().ingest(IngestDocument(**message).document_id))

    @app.task(name=SUBMIT_TASK, shared=False)  # type: ignore[untyped-decorator]
    def submit_document(**message: Any) -> None:
        def submit() -> None:
            try:
                submit_message(ingester().db, settings, SubmitDocument(**message))
            except (BadMessage, ValidationError):
                raise
            except PagepackError as error:  # away; and no row says yet what was asked for: the message must stay
                log.warning("%s %s waits: %s", SUBMIT_TASK, _shortened(message), error)
                time.sleep(_AWAY_SECONDS)
                raise Reject(str(error), requeue=True) from error

        _run(app, SUBMIT_TASK, message, submit)


def _run(app: Celery, task: str, message: dict[str, Any], work: Callable[[], None]) -> None:
    """One message: whatever happens it is acknowledged, for the row in the database says what is to be done."""
    said = _shortened(message)
    try:
        work()
    except ValidationError as error:
        log.error("%s: dropped a message that this version does not know: %s (%s)", task, said, _misfit(error))
    except Reject:
        raise
    except (DiskFull, StorageGone, EndpointGone) as error:
        log.error("%s", error)
        raise_alarm(app, error.cause, str(error))
    except PagepackError as error:
        log.warning("%s %s: %s", task, said, error)
    except Exception:
        log.exception("%s %s failed", task, said)


def _shortened(message: dict[str, Any]) -> str:
    """What anyone may send, for the log: a field may be as long as the broker lets it be."""
    text = str(message)
    return text if len(text) <= _MOST_OF_A_MESSAGE else f"{text[:_MOST_OF_A_MESSAGE]}… ({len(text):,} characters)"


def _misfit(error: ValidationError) -> str:
    """Which fields of a message, in our own words."""
    words = {"missing": "is missing", "extra_forbidden": "is no field"}
    fields = [f"{'.'.join(map(str, one['loc']))} {words.get(one['type'], 'does not fit')}" for one in error.errors()]
    return f"{', '.join(fields)}; `pagepack messages` prints the schemas"
