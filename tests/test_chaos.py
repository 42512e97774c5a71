"""A short selection of `make chaos`, one trial each; see `tests/chaos`. Two hosts on PostgreSQL, or one on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.__main__ import chosen, watchdog
from tests.chaos.network import Loopback
from tests.chaos.world import World

SELECTION = [
    ("1", "postgresql"),
    ("3", "sqlite"),
    ("4a", "sqlite"),
    ("6", "sqlite"),
    ("7", "postgresql"),
    ("13b", "postgresql"),
]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With a short name, for Unix sockets, and open to PostgreSQL's user."""
    folder = tmp_path_factory.mktemp("c")
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o755)
    return folder


@pytest.mark.parametrize(("label", "database"), SELECTION)
def test_a_fault_loses_nothing(label: str, database: str, folder: Path) -> None:
    ((_, fault, _),) = chosen(label, database)
    with watchdog(fault.seconds), World(1, database, folder, Loopback()) as world:
        fault.run(world)
