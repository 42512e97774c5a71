"""What workers keep while a server is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.broker import make_app
from pipeline.embedded import EmbeddedBroker
from pipeline.errors import DiskFull, Unavailable
from pipeline.patience import insist


class Away:
    """Does not answer a few times, then does."""

    def __init__(self, times: int, error: Unavailable) -> None:
        self.calls = 0
        self._times = times
        self._error = error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "stored"


def test_an_answer_waits_for_the_database() -> None:
    away = Away(2, Unavailable("the server is being restarted"))
    assert insist(away, lambda: False) == "stored" and away.calls == 3


def test_nobody_waits_who_is_told_to_stop_or_for_a_full_disk() -> None:
    stopping, full = Away(9, Unavailable("away")), Away(9, DiskFull("full"))
    with pytest.raises(Unavailable):
        insist(stopping, lambda: True)
    with pytest.raises(DiskFull):
        insist(full, lambda: False)
    assert stopping.calls == full.calls == 1


def test_a_message_whose_acknowledgement_was_lost_holds_up_no_other(tmp_path: Path) -> None:
    """Celery's consumer asks this before it takes a message; an ingest worker holds one at a time."""
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    app = make_app(broker.url)
    try:
        with app.connection_for_write() as connection:
            connection.SimpleQueue("q").put({})
            channel = connection.channel()
            channel.basic_qos(0, 1, False)
            message = channel.basic_get("q")
            assert not channel.qos.can_consume()
            broker.stop()
            with pytest.raises(connection.connection_errors):
                message.ack()
            assert channel.qos.can_consume()
    finally:
        app.close()
        broker.stop()
