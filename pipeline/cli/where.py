"""Where answers go, in words: a file in the home, or a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import UsageError
from pipeline.query.go_on import home_words

if TYPE_CHECKING:
    from pipeline.settings import Settings


def check_home(context: click.Context, parameter: click.Parameter, home: Path | None) -> Path | None:
    """The --home that was given; beside a server, whoever gives one may mean the database that lies there.

    As a variable it may stand beside the server's, as services have it: nobody says by it which database is meant.

    Raises:
        UsageError: answers would go to, or be looked for in, another database.
    """
    servers = [name for name in ("PAGEPACK_DATABASE_URL", "PAGEPACK_DATABASE_URL_FILE") if name in os.environ]
    if home is None or not servers or context.info_name == "doctor" or context.resilient_parsing:
        return home
    server = servers[0]
    if context.info_name not in _KEEP_MORE_IN_IT:
        raise UsageError(
            f"--home {home} names the database in that folder, and {server} another one; leave --home out, or unset "
            f"{server}"
        )
    if (home / "pagepack.db").exists():
        raise UsageError(
            f"--home {home} holds a database, and {server} says that answers go to another one; unset {server}, or "
            "choose another --home for logs and page images"
        )
    click.echo(f"pagepack: --home {home} is for logs and page images; {server} says where answers go", err=True)
    return home


_KEEP_MORE_IN_IT = ("run", "ask", "worker")


def looking_words(settings: Settings) -> list[str]:
    """`--home DIR` of a command that looks into this database, where it needs one."""
    return home_words(settings.home) if settings.database_url is None else []


def database_name(settings: Settings) -> str:
    """As people know it, without a password."""
    if settings.database_url is None:
        return str(settings.home / "pagepack.db")
    from pipeline.urls import server_name, server_url

    return server_name(server_url(settings.database_url))
