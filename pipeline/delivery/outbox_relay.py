"""The outbox relay: notices become messages, and again where the broker lost them before they were taken.

    unsent ──send──► sent ──its queue was seen shorter──► taken
       ▲              │
       └── the broker forgot what lay in it ──┘

A notice is sent at least once: marked after it was sent, and the sender may die in between. What the broker forgets is
known by a mark: a queue with one message, put anew after each sending, whose name is a row. Only who dispatches for all
sends and watches: a run has perhaps a broker of its own, which ends with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress

from celery import Celery

from pipeline.database.engine import Database
from pipeline.delivery.broker import delete_mark, depth_if_there, notify, put_mark, queue_depth, target_queue
from pipeline.errors import Unavailable
from pipeline.store.due import forget_enqueued
from pipeline.store.outbox import (
    forget_sent,
    lying_notices,
    mark_notices_sent,
    mark_notices_taken,
    marked_queue,
    move_mark,
    take_notices,
)
from schemas.messages import DocumentDone

MOST_NOTICES = 10_000  # in a queue that nobody reads; further ones stay rows, which cost the broker nothing
_NOTICES_AT_ONCE = 500


class OutboxRelay:
    """Of one dispatcher. Not thread-safe."""

    def __init__(self, db: Database, say: Callable[[str], None], again_seconds: float) -> None:
        self._db = db
        self._say = say
        self._again_seconds = again_seconds
        self._refused: set[str] = set()  # targets
        self._is_marked = True  # the broker's mark is younger than what was sent

    def try_all_again(self) -> None:
        """Targets that refused, too."""
        self._refused.clear()

    def relay(self, app: Celery) -> None:
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
        # Before the rows say it: who dies in between sends again. So does who finds that a loss came in between.
        if sent and self._mark_anew(app):
            mark_notices_sent(self._db, sent)
        for target, reason in refused.items():
            self._say(f"--notify {target}: {reason}; trying again in {self._again_seconds:.0f} s")
        self._refused |= set(refused)  # until the next sweep, so that they do not stand before the others

    def watch_memory(self, app: Celery) -> None:
        """Has the broker lost what it was given? Then rows are enqueued again, and what lay in queues is sent again.

        What was lost is noted first, then the mark is put: who dies in between is repeated.
        """
        mark = marked_queue(self._db)
        if self._is_marked and mark is not None and queue_depth(app, mark):
            return
        messages, notices = forget_enqueued(self._db), forget_sent(self._db)
        if messages or notices:
            self._say(
                f"the broker lost its queues: enqueueing {messages:,} rows again, sending {notices:,} notices again"
            )
        self._mark_anew(app, loss_is_noted=True)

    def _mark_anew(self, app: Celery, *, loss_is_noted: bool = False) -> bool:
        """A mark after what was sent: a broker that comes back without its last second lacks the mark, too.

        False, and all is as it was, where the mark before is gone and nobody noted it yet. It is looked for when the
        new one is put: what is lost after that is lost with the new one.
        """
        self._is_marked = False  # where this fails, nobody knows what the broker has
        is_ours = False
        while not is_ours:  # another dispatcher may do the same
            before, queue = marked_queue(self._db), f"pagepack.memory.{uuid.uuid4().hex}"
            put_mark(app, queue)
            if not loss_is_noted and (before is None or not queue_depth(app, before)):
                delete_mark(app, queue)
                return False
            is_ours = move_mark(self._db, before, queue)
            left_over = before if is_ours else queue
            if left_over is not None:
                delete_mark(app, left_over)
        self._is_marked = True
        return True

    def note_taken(self, app: Celery) -> None:
        """Mark what has left its queue, the oldest first: no flush can lose it any more."""
        mark, lying = marked_queue(self._db), lying_notices(self._db)
        taken: list[int] = []
        queues: dict[str, list[int]] = {}
        for notice, target in lying:  # of several targets, perhaps
            queues.setdefault(target_queue(target), []).append(notice)
        for queue, ids in queues.items():
            with suppress(Unavailable):  # one that cannot be asked holds up no other
                depth = depth_if_there(app, queue)
                taken += ids[: len(ids) - depth] if depth is not None and depth < len(ids) else []
        # Asked after the depths: a loss is why they are short.
        if taken and mark is not None and queue_depth(app, mark):
            mark_notices_taken(self._db, taken)
