"""The Celery app: two queues, late acknowledgement, JSON only; and the doorbells that are rung on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from queue import Empty
from typing import Any

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from pipeline.errors import Unavailable
from schemas.messages import INGEST_QUEUE, INGEST_TASK, READ_QUEUE, READ_TASK, IngestDocument, ReadPage

_BELLS_AT_ONCE = 100  # sent in one round trip

ALARM_QUEUE = "pagepack.alarm"
"""Where a worker says what no retry will mend (a full disk); `pagepack run` listens and stops."""


def make_app(broker_url: str) -> Celery:
    """A Celery app on this broker; nothing is connected yet."""
    app = Celery("pagepack", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,  # the row says what became of it; a repeated message adds nothing
        task_default_queue=READ_QUEUE,
        task_queues=[Queue(name) for name in (INGEST_QUEUE, READ_QUEUE)],  # type: ignore[no-untyped-call]
        task_routes={INGEST_TASK: {"queue": INGEST_QUEUE}, READ_TASK: {"queue": READ_QUEUE}},
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=broker_url.startswith(("redis", "valkey")),
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            # Longer than any page takes: redelivery is not how lost pages come back here, the sweep is.
            "visibility_timeout": 3600,
            "socket_connect_timeout": 10,
            "socket_keepalive": True,
            # kombu would wait for ever where the supervisor must go on and start its broker again.
            "max_retries": 2,
            "interval_start": 0.1,
            "interval_step": 0.1,
        },
    )
    return app


def ring_documents(app: Celery, document_ids: Iterable[int]) -> None:
    """Say that these documents wait for ingest.

    Raises:
        Unavailable: the broker does not answer; the rows wait, and the sweep rings again.
    """
    _send(app, INGEST_TASK, (IngestDocument(document_id=document_id) for document_id in document_ids))


def ring_pages(app: Celery, page_ids: Iterable[int]) -> None:
    """Say that these pages wait to be read. Raises as `ring_documents`."""
    _send(app, READ_TASK, (ReadPage(page_id=page_id) for page_id in page_ids))


def _send(app: Celery, task: str, messages: Iterable[IngestDocument | ReadPage]) -> None:
    with (
        _broker_errors_translated(app),
        app.producer_pool.acquire(block=True, timeout=30) as producer,
        producer.batch(max_size=_BELLS_AT_ONCE),
    ):
        for message in messages:
            app.send_task(task, kwargs=message.model_dump(), producer=producer, retry=False)


def queue_depth(app: Celery, queue: str) -> int:
    """Messages that wait in a queue. Raises Unavailable."""
    try:
        with _broker_errors_translated(app), app.connection_for_read() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
    except Exception as error:  # a queue that nobody has declared yet: each transport has its own exception
        if "NOT_FOUND" in str(error) or getattr(error, "code", None) == 404:
            return 0
        raise


def raise_alarm(app: Celery, cause: str, reason: str) -> None:
    """Tell the supervisor; best effort, for where even the database cannot be written."""
    with contextlib.suppress(Unavailable), _broker_errors_translated(app), app.connection_for_write() as connection:
        connection.SimpleQueue(ALARM_QUEUE).put({"cause": cause, "reason": reason}, serializer="json")


def heard_alarm(app: Celery) -> dict[str, Any] | None:
    """The oldest alarm, taken off its queue; None where all is well or the broker is away."""
    with (
        contextlib.suppress(Empty, Unavailable),
        _broker_errors_translated(app),
        app.connection_for_read() as connection,
    ):
        message = connection.SimpleQueue(ALARM_QUEUE).get(block=False)
        message.ack()
        return dict(message.payload)
    return None


@contextlib.contextmanager
def _broker_errors_translated(app: Celery) -> Iterator[None]:
    """Each transport has its own errors, and kombu knows them."""
    any_connection = app.connection_for_read()
    away = (OperationalError, OSError, *any_connection.connection_errors, *any_connection.channel_errors)
    try:
        yield
    except away as error:
        raise Unavailable(f"the broker does not answer: {error}") from error
