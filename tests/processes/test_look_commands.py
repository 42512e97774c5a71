"""The commands that only look, as people use them: what they print, what they load, and how they are completed."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.conftest import Archive
from tests.running import PAGEPACK, call, environment

DATABASES = ("sqlite",)


@pytest.fixture
def home(archive: Archive, settings: Settings) -> Path:
    for index in range(5):
        archive.file(f"/in/{index}.pdf", [f"tide tables of garden {index}"])
    archive.finish()
    return settings.home


@pytest.mark.parametrize("command", [["search", "tide"]])
def test_looking_loads_no_library_that_it_can_do_without(home: Path, command: list[str]) -> None:
    python = [sys.executable, "-X", "importtime", "-P", "-m", "pipeline", *command, "--home", str(home)]
    done = subprocess.run(python, capture_output=True, text=True, check=True, env=environment("InstantEngine"))
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sqlite3" in loaded and loaded.isdisjoint({"sqlalchemy", "alembic", "rich", "numpy", "celery"})


def test_search_says_how_many_there_are(home: Path) -> None:
    some = call("search", "tide", "--limit", "2", "--home", home)
    assert some.returncode == 0 and some.stdout.count(".pdf:1\n") == 2
    assert some.stderr == "2 of 5 hits shown; --limit shows more\n"
    assert call("search", "tide", "NOT", "3", "--home", home).stderr == "4 hits\n"
    assert call("search", "(garden OR gull) 3", "--json", "--home", home).stderr == "1 hit\n"
    assert call("search", "tide", "OR", "gull", "--home", home).stdout.count(".pdf:1\n") == 5
    none = call("search", "gull OR", "whale", "--home", home)
    assert none.returncode == 1 and none.stderr == "pagepack: no page fits: gull OR whale\n"
    bad = call("search", "tide", "OR", "--home", home)
    assert bad.returncode == 2 and "no word after OR; write `report OR draft`" in bad.stderr


def on_a_terminal(*command: str | Path, keys: bytes = b"", **variables: str) -> str:
    """What a command writes to a terminal, and what is typed there."""
    terminal, inside = pty.openpty()
    words = [*PAGEPACK, *map(str, command)]
    process = subprocess.Popen(
        words, stdin=inside, stdout=inside, stderr=inside, env=environment("InstantEngine", TERM="xterm", **variables)
    )
    os.close(inside)
    os.write(terminal, keys)
    said = b""
    while True:
        try:
            some = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        said += some
    process.wait()
    os.close(terminal)
    return said.decode().replace("\r\n", "\n")


def test_matches_are_coloured_on_a_terminal_unless_nobody_wants_it(home: Path) -> None:
    red = "    \x1b[31m\x1b[1mtide\x1b[0m tables of garden"
    assert red in on_a_terminal("search", "tide", "--home", home)
    assert "\x1b" not in on_a_terminal("search", "tide", "--home", home, NO_COLOR="1")
