"""Where answers go, in words: a file in the home, or a server."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings


def check_home(context: click.Context, parameter: click.Parameter, home: Path | None) -> Path | None:
    """The --home that was given; beside a server, whoever gives one may mean the database that lies there.

    As a variable it may stand beside the server's, as services have it: nobody says by it which database is meant.

    Raises:
        UsageError: answers would go to, or be looked for in, another database.
    """
    if home is None or context.resilient_parsing or context.info_name in _SAY_THEMSELVES:
        return home
    from pipeline.settings import explain_settings
    from pipeline.settings.file import FILE_NAME

    (origin,) = [origin for name, _, origin in explain_settings(home=home) if name == "database_url"]
    if origin in ("default", os.path.abspath(home / FILE_NAME)):
        return home
    way_out = f"unset {origin}" if origin.startswith("PAGEPACK_") else f"take database_url out of {origin}"
    if context.info_name not in _KEEP_MORE_IN_IT:
        raise UsageError(
            f"--home {home} names the database in that folder, and {origin} another one; leave --home out, or {way_out}"
        )
    if (home / "pagepack.db").exists():
        raise UsageError(
            f"--home {home} holds a database, and {origin} says that answers go to another one; {way_out}, or choose "
            "another --home for logs and page images"
        )
    click.echo(f"pagepack: --home {home} is for logs and page images; {origin} says where answers go", err=True)
    return home


_SAY_THEMSELVES = ("config", "doctor")
_KEEP_MORE_IN_IT = ("run", "ask", "worker", "forget", "prune")


def looking_words(settings: Settings) -> list[str]:
    """`--home DIR` of a command that looks into this database from this folder, where it needs one."""
    if settings.database_url is not None:
        return []
    from pipeline.settings import load_settings

    with suppress(UsageError, FileNotFoundError):  # what a flag has set right; the working folder is gone
        if is_default(settings.home) and is_default(load_settings().home):
            return []
    return ["--home", str(settings.home)]


def is_default(home: Path) -> bool:
    return home.absolute() == _DEFAULT_HOME.absolute()


_DEFAULT_HOME = Path("pagepack-data")


def database_name(settings: Settings) -> str:
    """As people know it, without a password."""
    if settings.database_url is None:
        return str(settings.home / "pagepack.db")
    from pipeline.urls import server_name, server_url

    return server_name(server_url(settings.database_url))
