"""Telling who asked: the outbox's rows become messages, and again where the broker lost them before they were taken.

    unsent ──send──► sent ──its queue was seen shorter──► taken
       ▲              │
       └── the broker forgot what lay in it ──┘

A notice is sent at least once: marked after it was sent, and the sender may die in between.
"""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from pipeline.broker import notify, queue_depth, target_queue
from pipeline.database import Database
from pipeline.errors import Unavailable
from pipeline.notices import lying_targets, mark_notices_sent, mark_notices_taken, take_notices
from schemas.messages import DocumentDone

MOST_NOTICES = 10_000  # in a queue that nobody reads; further ones stay rows, which cost the broker nothing
_NOTICES_AT_ONCE = 500


class Teller:
    """Of one dispatcher. Not thread-safe."""

    def __init__(self, db: Database, say: Callable[[str], None], again_seconds: float) -> None:
        self._db = db
        self._say = say
        self._again_seconds = again_seconds
        self._refused: set[str] = set()  # targets

    def try_all_again(self) -> None:
        """Targets that refused, too."""
        self._refused.clear()

    def tell(self, app: Celery) -> None:
        """Send some of the notices of documents that are done.

        A target that refuses (a queue that was declared otherwise) is said and tried again; the others are still told.
        """
        sent: list[int] = []
        refused: dict[str, Unavailable] = {}
        heard: set[str] = set()
        for notice in take_notices(self._db, _NOTICES_AT_ONCE, without=self._refused):
            if notice.notify in refused:
                continue
            done = DocumentDone(document_id=notice.document_id, batch_id=notice.batch_id)
            try:
                if notice.notify not in heard:
                    heard.add(notice.notify)
                    if (depth := queue_depth(app, target_queue(notice.notify))) >= MOST_NOTICES:
                        raise Unavailable(f"{depth:,} messages wait in its queue, and more would fill the broker")
                notify(app, notice.notify, done)
            except Unavailable as error:
                refused[notice.notify] = error
            else:
                sent.append(notice.id)
        if sent:
            mark_notices_sent(self._db, sent)
        for target, reason in refused.items():
            self._say(f"--notify {target}: {reason}; trying again in {self._again_seconds:.0f} s")
        self._refused |= set(refused)  # until the next sweep, so that they do not stand before the others

    def note_taken(self, app: Celery, has_forgotten: Callable[[], bool]) -> None:
        """Mark what has left its queue, the oldest first: no flush can lose it any more.

        Asked after the queues' depths, `has_forgotten` says whether a flush is why they are short.
        """
        queues: dict[str, list[str]] = {}
        for target in lying_targets(self._db):
            queues.setdefault(target_queue(target), []).append(target)
        depths = {queue: queue_depth(app, queue) for queue in queues}
        if not depths or has_forgotten():
            return
        for queue, targets in queues.items():
            mark_notices_taken(self._db, targets, depths[queue])
