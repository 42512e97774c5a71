"""Commands about the installation: message schemas, the database itself, what this machine can run."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import EXIT_DONE, EXIT_USAGE, cli, home_option, json_option, path

if TYPE_CHECKING:
    from pipeline.database.engine import Database


@cli.command()
def messages() -> int:
    """JSON Schemas of the messages, by Celery task: what anyone may send, and what --notify sends."""
    from schemas.messages import json_schemas

    click.echo(json.dumps(json_schemas(), indent=2))
    return EXIT_DONE


@cli.group()
def db() -> None:
    """The database itself."""


@db.command()
@home_option
@json_option
def upgrade(home: Path | None, as_json: bool) -> int:
    """Bring the database to this program's schema; safe to repeat, and on a server by several at once.

    Where the index of words is of an older form, it is made anew, too: interrupted, `db reindex` goes on with it.
    """
    from contextlib import nullcontext

    from pipeline.database.home import HomeLock
    from pipeline.database.open import open_database
    from pipeline.database.revisions import head_revision
    from pipeline.settings import load_settings

    settings = load_settings(home=home)
    with HomeLock(settings.home) if settings.database_url is None else nullcontext():
        database = open_database(settings, create=True)
    _reindex(database)
    if as_json:
        click.echo(json.dumps({"database": database.name, "revision": head_revision()}, ensure_ascii=False))
    else:
        click.echo(f"{database.name} is at revision {head_revision()}")
    return EXIT_DONE


@db.command("reindex")
@home_option
@json_option
def reindex_words(home: Path | None, as_json: bool) -> int:
    """Make the index of words anew, while others read, search and store; interrupted, the next call goes on."""
    from pipeline.database.open import open_database
    from pipeline.settings import load_settings
    from pipeline.store.reindex import begin_reindex

    database = open_database(load_settings(home=home))
    begin_reindex(database)
    count = _reindex(database)
    if as_json:
        click.echo(json.dumps({"database": database.name, "answers": count}, ensure_ascii=False))
    else:
        click.echo(f"{database.name}: {count:,} {'answer is' if count == 1 else 'answers are'} in the index of words")
    return EXIT_DONE


def _reindex(database: Database) -> int:
    """How many answers were put into the index; a bar says how far it is."""
    from pipeline.store.reindex import not_indexed, reindex

    count = 0
    if waiting := not_indexed(database):
        with click.progressbar(length=waiting, label="indexing words", file=sys.stderr) as bar:
            for pieces in reindex(database):
                count += pieces
                bar.update(pieces)
    return count


@db.command()
@home_option
@click.option("--print", "only_print", is_flag=True, help="Only print the SQL, for someone else to run.")
def roles(home: Path | None, only_print: bool) -> int:
    """Create the roles of a PostgreSQL server, each with what it needs and no more; safe to repeat.

    \b
    pagepack_owner    owns the tables; db upgrade
    pagepack_ingest   submit, ingest workers, the leader
    pagepack_worker   read workers
    pagepack_query    sql: the public views

    None can log in: GRANT them to the users that programs log in as. Run `pagepack db upgrade` before.
    """
    from pipeline.database.open import open_database
    from pipeline.database.roles import GRANTS, OWNER, create_roles, role_statements
    from pipeline.settings import load_settings

    if only_print:
        click.echo(";\n".join(role_statements()) + ";")
        return EXIT_DONE
    database = open_database(load_settings(home=home))
    create_roles(database)
    click.echo(f"{database.name} has the roles {', '.join([OWNER, *GRANTS])}")
    return EXIT_DONE


@cli.command()
@home_option
@click.option("--model", type=path, help="Also look at this checkpoint folder.")
@json_option
def doctor(home: Path | None, model: Path | None, as_json: bool) -> int:
    """What this machine can run, what is missing, and the way out."""
    from rich.console import Console
    from rich.text import Text

    from pipeline.settings import load_settings
    from pipeline.supervisor.doctor import check_machine

    checks = check_machine(load_settings(home=home, model=model))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], ensure_ascii=False))
    else:
        signs = {"ok": ("ok", "green"), "absent": ("--", "yellow"), "broken": ("!!", "bold red")}
        console = Console(highlight=False, soft_wrap=True)
        for check in checks:
            sign, style = signs[check.state]
            console.print(Text(sign, style=style), Text(f"{check.name}: {check.fact}"))
    return EXIT_USAGE if any(check.state == "broken" for check in checks) else EXIT_DONE
