"""The Celery app: two queues, late acknowledgement, JSON only; and the messages that wake workers up."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from celery import Celery
from celery.backends.base import DisabledBackend
from kombu.entity import Exchange, Queue
from kombu.exceptions import BatchPublishError, LimitExceeded, OperationalError
from kombu.simple import SimpleQueue

import pipeline.delivery.redis_acks  # noqa: F401 (mends kombu's acknowledgements)
from pipeline.errors import Unavailable, UsageError, redacted
from schemas.messages import (
    INGEST_QUEUE,
    INGEST_TASK,
    READ_PAGES_TASK,
    READ_QUEUE,
    READ_TASK,
    SUBMIT_TASK,
    DocumentDone,
    IngestDocument,
    ReadPage,
    ReadPages,
)

_OWN_SECONDS = 3600.0  # queues of one run, host or model, without anybody at them
_AT_ONCE = 500  # operations of the broker in one round trip, on Redis some five a message
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")

R = TypeVar("R")


class _App(Celery):  # type: ignore[misc]
    """Celery asks each installed package for the backends of results that it brings: 6 ms in each process, for none."""

    def _get_backend(self) -> DisabledBackend:
        return DisabledBackend(app=self)


def make_app(broker_url: str, *, events: bool = False, own: str = "", silence_seconds: float = 30) -> Celery:
    """A Celery app on this broker; nothing is connected yet. Workers with `events` can be seen and asked by Flower.

    `own` makes the names of both queues its own: messages for one run and its workers, on a broker that others share.
    A server that says nothing for `silence_seconds` is taken for gone.
    """
    app = _App("pagepack", broker=broker_url, set_as_current=False)
    ingest, read = INGEST_QUEUE + own, READ_QUEUE + own
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,  # the row says what became of it; a repeated message adds nothing
        task_default_queue=read,
        task_queues=[make_queue(name, is_own=bool(own)) for name in (ingest, read)],
        task_routes={
            INGEST_TASK: {"queue": ingest},
            SUBMIT_TASK: {"queue": ingest},
            READ_TASK: {"queue": read},
            READ_PAGES_TASK: {"queue": read},
        },
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=broker_url.startswith(("redis", "valkey")),
        # After a lost connection Celery 5.7 would restore it from the threads of its tasks, which wait for the answer:
        # on RabbitMQ, whose client is for one thread, for ever.
        worker_enable_prefetch_count_reduction=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=events,
        worker_send_task_events=events,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            # Longer than any page takes: redelivery is not how lost pages come back here, the sweep is.
            "visibility_timeout": 3600,
            "socket_connect_timeout": 10,
            "confirm_publish": True,  # RabbitMQ: sent is what the server has
            # Workers ask for a message once a second. A connection that a firewall forgot says nothing, for ever.
            "socket_timeout": silence_seconds,
            "socket_keepalive": True,
            # kombu would wait for ever where the supervisor must go on and start its broker again.
            "max_retries": 2,
            "interval_start": 0.1,
            "interval_step": 0.1,
        },
    )
    return app


def make_queue(name: str, is_own: bool) -> Queue:
    """On RabbitMQ those of a run that was killed go by themselves; on Redis an empty queue is nothing."""
    if is_own:
        return _passing_queue(name, expires=_OWN_SECONDS)
    # Bound as Celery binds a queue of which it knows the name only; else all would share one exchange and key.
    return Queue(name, Exchange(name), routing_key=name)  # type: ignore[no-untyped-call]


def _passing_queue(name: str, expires: float | None = None) -> Queue:
    """One whose exchange goes with it; on RabbitMQ it goes itself when nobody was at it for `expires` seconds."""
    exchange = Exchange(name, auto_delete=True)  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name, expires=expires)  # type: ignore[no-untyped-call]


def queue_of(app: Celery, task: str) -> str:
    """Where the app sends a task, and its workers look for it."""
    return str(app.conf.task_routes[task]["queue"])


def read_queue(app: Celery, model: str = "") -> str:
    """Where the messages for pages go that a certain model shall read, or any; the app knows the queue from then on.

    In one queue for all, readers would take the messages for other models in vain. A run's own readers have one model.
    """
    of_all = queue_of(app, READ_TASK)
    if not model or of_all != READ_QUEUE:
        return of_all
    name = f"{of_all}.{_NOT_IN_A_NAME.sub('-', model)}"
    if name not in app.amqp.queues:
        app.amqp.queues.add(_passing_queue(name, expires=_OWN_SECONDS))  # the rows know what was enqueued
    return name


def delete_queues(app: Celery) -> None:
    """Both queues, and what lies in them; best effort, and only for an app that has its own."""

    def delete(channel: Any) -> None:
        for task in (INGEST_TASK, READ_TASK):
            app.amqp.queues[queue_of(app, task)](channel).declare()  # else kombu knows nothing to delete
            channel.queue_delete(queue_of(app, task))

    with contextlib.suppress(Unavailable):
        ask_broker(app, delete)


def enqueue_documents(app: Celery, document_ids: Iterable[int]) -> None:
    """Say that these documents wait for ingest.

    Raises:
        Unavailable: the broker does not answer; the rows wait, and the sweep enqueues them again.
    """
    _send(app, ((INGEST_TASK, IngestDocument(document_id=document_id)) for document_id in document_ids))


def enqueue_pages(app: Celery, page_ids: Iterable[int], queue: str | None = None, together: int = 1) -> list[int]:
    """Say that these pages wait to be read, in the queue of all readers or in this; how many each message names.

    A message names `together` pages at most. Raises as `enqueue_documents`.
    """
    sizes: list[int] = []

    def messages() -> Iterator[tuple[str, ReadPage | ReadPages]]:
        pages = iter(page_ids)
        while part := list(islice(pages, together)):
            sizes.append(len(part))
            if len(part) == 1:
                yield READ_TASK, ReadPage(page_id=part[0])
            else:
                yield READ_PAGES_TASK, ReadPages(page_ids=part)

    _send(app, messages(), queue)
    return sizes


def _send(
    app: Celery, messages: Iterable[tuple[str, IngestDocument | ReadPage | ReadPages]], queue: str | None = None
) -> None:
    how: dict[str, Any] = {} if queue is None else {"queue": queue}
    with (
        _broker_errors_translated(app),
        app.producer_pool.acquire(block=True, timeout=30) as producer,
        producer.batch(max_size=_AT_ONCE),
    ):
        for task, message in messages:
            arguments = message.model_dump()
            # Celery would take an eighth of the time to draw them.
            shown = {"argsrepr": "()", "kwargsrepr": repr(arguments)}
            app.send_task(task, kwargs=arguments, producer=producer, retry=False, ignore_result=True, **shown, **how)
            how["declare"] = []  # the queue is there now; to look again takes a fifth of the time


def notify(app: Celery, target: str, message: DocumentDone) -> None:
    """Send `TASK@QUEUE`, or `TASK` to Celery's default queue. Raises as `enqueue_documents`."""
    task = target.partition("@")[0]
    with _broker_errors_translated(app), app.producer_pool.acquire(block=True, timeout=30) as producer:
        app.send_task(task, kwargs=message.model_dump(), producer=producer, retry=False, queue=target_queue(target))


def target_queue(target: str) -> str:
    """The queue of `TASK@QUEUE`, or Celery's default."""
    return target.partition("@")[2] or "celery"


def check_broker(app: Celery) -> None:
    """Connect once and say what is wrong, before anything is started that would try for ever.

    Raises:
        UsageError: a URL or password that the server refuses, or a kind of server that is not installed.
        Unavailable: nobody answers.
    """
    where = redacted(str(app.conf.broker_url))
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=10)
            client = getattr(connection.default_channel, "client", None)
            if client is not None:  # Redis checks the password with the first command
                client.ping()
    except (ImportError, KeyError, ValueError) as error:
        raise UsageError(f"PAGEPACK_BROKER_URL {where}: {error}; write it like redis://host:6379/0") from error
    except Exception as error:  # each transport has its own
        refused = ("WRONGPASS", "NOAUTH", "NOPERM", "invalid username", "ACCESS_REFUSED", "NOT_ALLOWED", "authenticat")
        if any(word.lower() in str(error).lower() for word in refused):
            raise UsageError(f"the broker {where} refuses us: {error}; check user and password in its URL") from error
        raise Unavailable(f"the broker {where} does not answer: {error}") from error


def queue_depth(app: Celery, queue: str) -> int:
    """Messages that wait in a queue; none where there is no such queue. Raises Unavailable."""
    return depth_if_there(app, queue) or 0


def depth_if_there(app: Celery, queue: str) -> int | None:
    """Messages that wait in a queue; None where RabbitMQ has none of that name (on Redis an empty one is none)."""

    def look(channel: Any) -> int | None:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except Exception as error:  # a queue that nobody has declared yet: each transport has its own exception
            if "NOT_FOUND" in str(error) or getattr(error, "code", None) == 404:
                return None if "amqp" in str(app.conf.broker_url).partition(":")[0] else 0
            raise

    return ask_broker(app, look)


def put_mark(app: Celery, queue: str) -> None:
    """A queue with one message, or two, which nobody takes. Raises Unavailable."""
    ask_broker(app, lambda channel: simple_queue(channel, _passing_queue(queue)).put({}, serializer="json"))


def delete_mark(app: Celery, queue: str) -> None:
    """Best effort."""

    def delete(channel: Any) -> None:
        mark = simple_queue(channel, _passing_queue(queue)).queue
        mark.delete()
        mark.exchange.delete()  # on Redis kombu would note it in this process for ever

    with contextlib.suppress(Unavailable):
        ask_broker(app, delete)


def simple_queue(channel: Any, queue: Queue) -> Any:
    return SimpleQueue(channel, queue)  # type: ignore[no-untyped-call]


def ask_broker(app: Celery, work: Callable[[Any], R]) -> R:
    """What `work` makes of a channel, on a connection that this process keeps for all its looks.

    A new one for each look made 7 to 15 a second, behind TLS with a handshake each. Celery's pool gives none to forked
    children, and replaces one on which anything is raised. Redis' client opens anew what broke since the last look; for
    RabbitMQ's, this does it once, and does `work` again. There each look has a channel of its own, for a queue that is
    not there closes it.
    """
    with _broker_errors_translated(app), app.pool.acquire(block=True, timeout=30) as connection:
        if connection.transport.driver_type != "amqp":
            return work(connection.default_channel)
        try:
            connection.connect()  # unless it is
            with connection.channel() as channel:
                return work(channel)
        except connection.recoverable_connection_errors:
            connection.collect()
            connection.connect()
            with connection.channel() as channel:
                return work(channel)


@contextlib.contextmanager
def _broker_errors_translated(app: Celery) -> Iterator[None]:
    """Each transport has its own errors, and kombu knows them."""
    any_connection = app.connection_for_read()
    away = (
        OperationalError,
        BatchPublishError,
        LimitExceeded,  # others of this process wait for it already
        OSError,
        *any_connection.connection_errors,
        *any_connection.channel_errors,
    )
    try:
        yield
    except away as error:
        raise Unavailable(f"the broker does not answer: {redacted(str(error))}") from error
