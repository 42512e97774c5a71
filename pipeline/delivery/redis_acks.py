"""Two faults of kombu's acknowledgements on Redis, mended: one that a broken connection swallowed, and one trip each.

Importing this module mends the first for the whole process; `gather_acknowledgements` is for readers of many messages.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import QoS as RedisQoS
from kombu.transport.virtual.base import QoS as VirtualQoS

_ACK_SECONDS = 0.3


class _ForgivingQoS(RedisQoS):
    """An acknowledgement that a broken connection swallowed is over all the same: the row says what became of it.

    kombu 5.7 leaves such a message among the delivered ones, where it counts against the prefetch limit for ever: an
    ingest worker, whose limit is one, never took another document after one broken connection.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            VirtualQoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class _GatheringQoS(_ForgivingQoS):
    """Acknowledges in the round trip that notes the next message, or soon where there is room for one and none comes.

    A third of the time of a reader's main thread was waiting for the answer to each. Who dies in between leaves
    messages that come again when their visibility timeout is over, as where the answer was lost: their rows say that
    all is done.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._acked: list[str] = []
        self._acked_at = 0.0  # the first of them
        self._client: Any = None

    def ack(self, delivery_tag: str) -> None:
        if self.channel.closed:  # nobody will ask whether it can consume
            super().ack(delivery_tag)
            return
        if not self._acked:
            self._acked_at = time.monotonic()
        self._acked.append(delivery_tag)
        VirtualQoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        with super().pipe_or_acquire(pipe, client if pipe else client or self._kept_client()) as ours:
            acked = [] if pipe else list(self._acked)
            if acked:
                ours.zrem(self.unacked_index_key, *acked).hdel(self.unacked_key, *acked)
            yield ours
            del self._acked[: len(acked)]  # not where it failed

    def _kept_client(self) -> Any:
        """kombu makes one for each message, which takes a sixth of the main thread's time."""
        if self._client is None or self._client.connection_pool is not self.channel.pool:
            self._client = self.channel._create_client()
        return self._client

    has_room: Callable[[], bool] = staticmethod(lambda: True)

    def can_consume(self) -> bool:
        if self._acked and time.monotonic() - self._acked_at > _ACK_SECONDS:
            self._send_acks()
        return self.has_room() and bool(super().can_consume())  # type: ignore[no-untyped-call]

    def restore_unacked_once(self, stderr: Any = None) -> None:
        with contextlib.suppress(Exception):  # the broker is away
            self._send_acks()
        super().restore_unacked_once(stderr)  # type: ignore[no-untyped-call]

    def _send_acks(self) -> None:
        if self._acked:
            with self.pipe_or_acquire() as pipe:
                pipe.execute()


RedisChannel.QoS = _ForgivingQoS


def gather_acknowledgements(has_room: Callable[[], bool] = lambda: True) -> None:
    """For a process that acknowledges many messages a second, on Redis or Valkey.

    It takes another message while it `has_room`; asked when one is acknowledged or came.
    """
    _GatheringQoS.has_room = staticmethod(has_room)
    RedisChannel.QoS = _GatheringQoS
