"""The shell of `pagepack sql`: Python's own readline gives history, editing, and views and columns at the Tab key."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click

from pipeline.errors import PagepackError
from schemas.view_columns import COLUMNS

_HISTORY = Path("~/.pagepack_sql_history")
_HISTORY_LINES = 1_000
_KEYWORDS = (
    "SELECT", "DISTINCT", "FROM", "WHERE", "GROUP", "BY", "HAVING", "ORDER", "LIMIT", "OFFSET", "JOIN", "LEFT", "ON",
    "USING", "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "BETWEEN", "EXISTS", "UNION", "ALL", "WITH", "AS",
    "CASE", "WHEN", "THEN", "ELSE", "END", "ASC", "DESC", "COUNT(", "SUM(", "MIN(", "MAX(", "AVG(", "LENGTH(",
    "SUBSTR(", "LOWER(", "UPPER(",
)  # fmt: skip
_SCHEMA_DOC = {"schema_doc": ("view_name", "column_name", "meaning", "column_type", "view_meaning", "column_number")}
_VIEWS = {**{view: tuple(columns) for view, columns in COLUMNS.items()}, **_SCHEMA_DOC}
_HELP = """\
A statement ends with ; and may take several lines. Tab completes views and columns. Ctrl-C drops what was typed.
  SELECT * FROM schema_doc;   what each view and column means
  .views                      their names
  .quit                       or Ctrl-D"""


def complete(begun: str, statement: str) -> list[str]:
    """What a word may become: columns of the views that the statement names first, then views, then words of SQL."""
    view, dot, column = begun.rpartition(".")
    if dot:
        return [f"{view}.{name}" for name in _VIEWS.get(_view_of(view, statement), ()) if name.startswith(column)]
    named = [name for name in _VIEWS if re.search(rf"\b{name}\b", statement)] or list(_VIEWS)
    columns = dict.fromkeys(column for name in named for column in _VIEWS[name])
    found = [name for name in (*columns, *_VIEWS) if name.startswith(begun.lower())] if begun else list(columns)
    keywords = [
        word if begun.isupper() else word.lower() for word in _KEYWORDS if word.lower().startswith(begun.lower())
    ]
    return [*dict.fromkeys(found), *(keywords if begun else [])]


def _view_of(name: str, statement: str) -> str:
    """The view that an alias stands for."""
    match = re.search(rf"\b({'|'.join(_VIEWS)})\s+(?:as\s+)?{re.escape(name)}\b", statement, re.IGNORECASE)
    return match[1].lower() if match else name


def run_shell(run: Callable[[str], None]) -> None:
    """Read statements and run them until the end; what is wrong with one is told, and the next is asked for."""
    statement = ""
    with _editing(lambda: statement):
        click.echo("pagepack: SQL that only reads; .help helps, Tab completes, Ctrl-D leaves", err=True)
        while True:
            try:
                line = input("     ...> " if statement else "pagepack> ")
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo(err=True)
                statement = ""
                continue
            if not statement and (command := line.strip().rstrip(";").lower()) in _COMMANDS:
                if (said := _COMMANDS[command]) is None:
                    return
                click.echo(said)
                continue
            statement = f"{statement}\n{line}" if statement else line
            if not statement.strip():
                statement = ""
            elif sqlite3.complete_statement(statement):
                asked, statement = statement, ""
                _tell(run, asked)


def _tell(run: Callable[[str], None], statement: str) -> None:
    try:
        run(statement)
    except PagepackError as error:  # also a server that restarts: the next statement connects again
        click.echo(f"pagepack: {error}", err=True)
    except KeyboardInterrupt:
        click.echo("pagepack: stopped", err=True)


_COMMANDS: dict[str, str | None] = {
    **dict.fromkeys((".quit", ".exit", "quit", "exit", "\\q"), None),
    **dict.fromkeys((".help", "help", "\\?", "?"), _HELP),
    **dict.fromkeys((".views", ".tables", "\\d"), "\n".join(_VIEWS)),
}


@contextlib.contextmanager
def _editing(statement: Callable[[], str]) -> Iterator[None]:
    try:
        import readline
    except ImportError:  # a Python without it: lines are typed, and that is all
        yield
        return
    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(_Completer(readline, statement))
    readline.set_completer_delims(" \t\n,()=<>+-*/;'\"|")
    is_libedit = "libedit" in (readline.__doc__ or "")  # macOS
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    history = _HISTORY.expanduser()
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(history)
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])


class _Completer:
    """As readline asks: the first match, then the second, until there is none."""

    def __init__(self, readline: ModuleType, statement: Callable[[], str]) -> None:
        self._readline = readline
        self._statement = statement
        self._matches: list[str] = []

    def __call__(self, begun: str, number: int) -> str | None:
        if number == 0:
            self._matches = complete(begun, f"{self._statement()} {self._readline.get_line_buffer()}")
        return self._matches[number] if number < len(self._matches) else None
