"""Alarms: a worker tells its supervisor what no retry will mend, such as a full disk."""

from __future__ import annotations

import contextlib
import os
from queue import Empty
from typing import Any

from celery import Celery

from pipeline.delivery.broker import ask_broker, make_queue, simple_queue
from pipeline.errors import Unavailable

ALARM_QUEUE = "pagepack.alarm"
"""Where a worker says what no retry will mend (a full disk); its supervisor names it a queue of its own and listens."""


def raise_alarm(app: Celery, cause: str, reason: str) -> None:
    """Tell the supervisor; best effort, for where even the database cannot be written."""
    queue = make_queue(os.environ.get("PAGEPACK_INTERNAL_ALARM", ALARM_QUEUE), is_own=True)
    alarm = {"cause": cause, "reason": reason}
    with contextlib.suppress(Unavailable):
        ask_broker(app, lambda channel: simple_queue(channel, queue).put(alarm, serializer="json"))


def heard_alarm(app: Celery, queue: str) -> dict[str, Any] | None:
    """The oldest alarm, taken off its queue; None where all is well or the broker is away."""

    def take(channel: Any) -> dict[str, Any] | None:
        with contextlib.suppress(Empty):
            message = simple_queue(channel, make_queue(queue, is_own=True)).get(block=False)
            message.ack()
            return dict(message.payload)
        return None

    with contextlib.suppress(Unavailable):
        return ask_broker(app, take)
    return None
