"""The command `sql`: one statement from an argument, a file or a pipe; a small shell on a terminal."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import EXIT_DONE, Choice, cli, home_option, path
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings


class _SqlCommand(click.Command):
    """A statement may begin with a comment, which else would be taken for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_statement = re.compile(r"--(\s|.*\n)")
        statements = [arg for arg in args if is_statement.match(arg)]
        if statements and "--" not in args:
            args = [*(arg for arg in args if arg not in statements), "--", *statements]
        return super().parse_args(ctx, args)


@cli.command(cls=_SqlCommand)
@click.argument("statement", required=False)
@home_option
@click.option("--file", "file", type=path, help="Read the statement from a file.")
@click.option("--format", "form", type=Choice(["table", "csv", "json"]), help="[table on a terminal, else csv]")
@click.option("--seconds", default=60.0, show_default=True, help="Stop the statement after this long.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(
    statement: str | None, home: Path | None, file: Path | None, form: str | None, seconds: float, as_json: bool
) -> int:
    """Run one read-only SQL STATEMENT. - or a pipe reads it from there; on a terminal, none opens a shell.

    \b
    page_text        a row a page and prompt     failures          what was not read, and why
    document_text    a row a document            current_failures  of that, what is broken still
    answers          every version of an answer  prompts           every version of a prompt
    attempts         a row a try                 files             a row a file and batch
    page_images      a row a page image          batch_summary     a row a batch
    page_lines       a row a line, with its box  page_batches      a row a page and batch that asks for it
    page_words       for full-text search        chunks            pieces for retrieval
    page_data        answers as JSON             review            what is worth a look
    schema_doc       what each column means      docs/sql.md       worked queries
    """
    from pipeline.settings import load_settings

    if not 0 < seconds < math.inf:
        raise UsageError(f"--seconds {seconds:g}: give a number above 0")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other")
    form = "json" if as_json else form
    settings = load_settings(home=home)
    asked = _asked(statement, file)
    if asked is not None:
        _run(settings, asked, form, seconds)
        return EXIT_DONE
    from pipeline.cli.sql_shell import run_shell

    run_shell(lambda one: _run(settings, one, form, seconds))
    return EXIT_DONE


def _run(settings: Settings, statement: str, form: str | None, seconds: float) -> None:
    from pipeline.query.formats import write_csv, write_json, write_table
    from pipeline.query.sql import run_sql

    result = run_sql(settings, statement, limit_seconds=seconds)
    writers: dict[str, Callable[..., int]] = {"table": write_table, "csv": write_csv, "json": write_json}
    writers[form or ("table" if sys.stdout.isatty() else "csv")](sys.stdout, result.columns, result.rows)


def _asked(statement: str | None, file: Path | None) -> str | None:
    """The statement; None where somebody at a terminal gave none."""
    if file is not None:
        if statement is not None:
            raise UsageError(f"--file {file} and a statement: give one of them")
        try:
            return _decoded(file.read_bytes(), f"--file {file}")
        except OSError as error:
            raise UsageError(f"--file {file} cannot be read: {error.strerror}") from error
    if statement not in (None, "-"):
        return statement
    if statement is None and sys.stdin.isatty():
        return None
    given = _decoded(sys.stdin.buffer.read(), "the standard input")
    if not given.strip():
        raise UsageError(
            'no statement: write one, as in `pagepack sql "SELECT * FROM batch_summary"`, name a --file, or pipe it in'
        )
    return given


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is no UTF-8 text (byte {error.start + 1:,}); save it as UTF-8") from error
