"""The commands that only look, as people use them: what they print, what they load, and how they are completed."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.conftest import Archive
from tests.processes.test_cli import shell
from tests.running import HANGS_AFTER_SECONDS, PAGEPACK, call, environment, pagepack

DATABASES = ("sqlite",)


@pytest.fixture
def home(archive: Archive, settings: Settings) -> Path:
    for index in range(5):
        archive.file(f"/in/{index}.pdf", [f"tide tables of garden {index}"])
    archive.finish()
    return settings.home


LOOKING = [
    ["search", "tide"],
    ["search", "tide", "--batch", "b", "--prompt", "ocr"],
    ["batches"],
    ["sql", "SELECT 1"],
    ["diff", "rapidocr", "current"],
    ["status", "--json"],
    ["status"],
]
ONE_AFTER_THE_OTHER = """
import json, sys
import pipeline.__main__  # which imports the next when it is called, and ends the process
from pipeline.cli.main import main

for sys.argv[1:] in json.loads(sys.stdin.read()):
    try:
        main()
    except SystemExit as ended:
        print(json.dumps([ended.code, *sorted(sys.modules)]), file=sys.stderr)
"""


def test_looking_loads_no_library_that_it_can_do_without(home: Path) -> None:
    """One process for all: what a command loads stays there for those behind it."""
    commands = [[*command, "--home", str(home)] for command in LOOKING]
    python = [sys.executable, "-P", "-c", ONE_AFTER_THE_OTHER]
    told = environment("InstantEngine")
    done = subprocess.run(python, input=json.dumps(commands), capture_output=True, text=True, check=True, env=told)
    ends = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    for command, (code, *loaded) in zip(LOOKING, ends, strict=True):
        assert code == 0, command
        assert "sqlite3" in loaded and {"sqlalchemy", "alembic", "numpy", "celery"}.isdisjoint(loaded), command
        assert "rich" not in loaded or command[0] == "status", command


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


def on_a_terminal(*command: str | Path, typed: Sequence[tuple[str, bytes]] = (), **variables: str) -> str:
    """What a command writes to a terminal; each (text, keys): when the text has come since the last keys, type them."""
    terminal, inside = pty.openpty()
    told = environment("InstantEngine", TERM="xterm", **variables)
    words = [*PAGEPACK, *map(str, command)]
    process = subprocess.Popen(words, stdin=inside, stdout=inside, stderr=inside, env=told)
    os.close(inside)
    said, seen, left = b"", 0, list(typed)
    while True:
        is_there, _, _ = select.select([terminal], [], [], HANGS_AFTER_SECONDS)
        assert is_there, f"{left[:1]} after {said[-500:]!r}"
        try:
            some = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        said += some
        if left and left[0][0].encode() in said[seen:]:
            seen = len(said)
            os.write(terminal, left.pop(0)[1])
    process.wait()
    os.close(terminal)
    assert not left, f"never came: {left[0][0]}"
    return said.decode().replace("\r\n", "\n")


def test_matches_are_coloured_on_a_terminal_unless_nobody_wants_it(home: Path) -> None:
    red = "    \x1b[31m\x1b[1mtide\x1b[0m tables of garden"
    assert red in on_a_terminal("search", "tide", "--home", home)
    assert "\x1b" not in on_a_terminal("search", "tide", "--home", home, NO_COLOR="1")


# sql


def test_a_statement_comes_from_a_file_a_pipe_or_an_argument_with_a_comment(home: Path, tmp_path: Path) -> None:
    query = tmp_path / "q.sql"
    query.write_bytes(b"\xef\xbb\xbf-- how many\n/* pages */\nSELECT count(*) AS n\nFROM page_text;\n")
    commented = query.read_text("utf-8-sig")
    assert call("sql", "--file", query, "--home", home).stdout == "n\n5\n"
    for words in ([commented, "--home", home], ["--home", home, commented], ["--home", home, "--", commented]):
        assert call("sql", *words).stdout == "n\n5\n", words
    assert call("sql", "-- one line SELECT 1", "--home", home).returncode == 2, "all of it is a comment"
    done = shell(f"pagepack sql < {query}; echo 'SELECT 1 AS n' | pagepack sql -", home)
    assert done.returncode == 0 and done.stdout == "n\n5\nn\n1\n", done.stderr
    assert shell(f"pagepack sql --file {query} --format json - </dev/null", home).returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--file", "{tmp}/none.sql"], "--file {tmp}/none.sql cannot be read: No such file or directory"),
        (["--file", "{tmp}/latin.sql"], "--file {tmp}/latin.sql is no UTF-8 text (byte 9); save it as UTF-8"),
        (["--file", "{tmp}/latin.sql", "SELECT 1"], "--file {tmp}/latin.sql and a statement: give one of them"),
        ([], "no statement: write one, as in `pagepack sql"),
        (["-"], "name a --file, or pipe it in"),
        (["--formt", "csv"], "No such option"),
    ],
)
def test_a_statement_that_cannot_be_had_is_told(home: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "latin.sql").write_bytes("SELECT 'é'".encode("latin-1"))
    given = [word.replace("{tmp}", str(tmp_path)) for word in words]
    done = pagepack("sql", *given, "--home", home)
    assert done.returncode == 2 and said.replace("{tmp}", str(tmp_path)) in done.stderr


def test_the_shell_runs_statements_completes_views_and_survives_mistakes(home: Path, tmp_path: Path) -> None:
    typed = [
        ("pagepack> ", b"SELECT count(*)\n"),
        ("...> ", b" FROM page_te\t"),
        ("page_text", b";\n"),
        ("pagepack> ", b"SELEC 1;\n"),
        ("pagepack> ", b"SELECT source_p\t"),
        ("source_path", b" FROM files LIMIT 1;\n"),
        ("pagepack> ", b".views\n"),
        ("pagepack> ", b"\x04"),
    ]
    said = on_a_terminal("sql", "--home", home, typed=typed, HOME=str(tmp_path))
    assert "pagepack: SQL that only reads; .help helps" in said and 'SQLite says: near "SELEC"' in said
    assert "\n5 " in said and "/in/0.pdf" in said and "document_text\n" in said
    history = tmp_path / ".pagepack_sql_history"
    assert "FROM page_text" in history.read_text() and history.stat().st_mode & 0o077 == 0


# batches


def test_batches_are_listed_the_latest_first(archive: Archive, home: Path) -> None:
    archive.see("/in/waits.pdf", batch="a later one")
    first, later = archive.batches["b"], archive.batches["a later one"]
    lines = call("batches", "--home", home).stdout.splitlines()
    assert lines[0].split() == ["batch", "state", "files", "pages", "started", "finished", "name"]
    assert lines[1].startswith(f"{later.public_id}  running") and lines[1].endswith("–                 a later one")
    assert lines[2].split()[:4] == [first.public_id, "finished", "5", "5"] and lines[2].endswith("  b")
    assert "  0 of 1  " in lines[1]
    told = [json.loads(line) for line in call("batches", "--json", "--home", home).stdout.splitlines()]
    assert [row["name"] for row in told] == ["a later one", "b"] and told[0]["finished_at"] is None
    assert told[1]["pages_done"] == 5 and told[1]["finished_at"].endswith("+00:00")


def test_a_database_without_batches_says_so(settings: Settings) -> None:
    done = call("batches", "--home", settings.home)
    assert done.returncode == 0 and done.stderr == "no batch yet; `pagepack run PATH` makes one\n"


# Completion


def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    (tmp_path / "scans here").mkdir()
    program = tmp_path / "pagepack"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PAGEPACK)} "$@"\n')
    program.chmod(0o755)
    script = call("completion", "bash").stdout
    assert call("completion", SHELL="/usr/bin/bash").stdout == script

    def completed(*words: str) -> list[str]:
        asked = f"""{script}
            cd {tmp_path}
            COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
            _pagepack_completion pagepack
            printf '%s\\n' "${{COMPREPLY[@]}}"; complete -p pagepack"""
        told = environment("InstantEngine", PATH=f"{tmp_path}:{os.environ['PATH']}")
        done = subprocess.run(["bash", "-c", asked], env=told, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        *found, rule = done.stdout.splitlines()
        assert rule.endswith("-F _pagepack_completion pagepack")
        return found

    assert completed("pagepack", "fo") == ["forget"]
    assert set(completed("pagepack", "sql", "--f")) == {"--file", "--format"}
    assert completed("pagepack", "completion", "z") == ["zsh"]
    # bash itself lists the files that begin so
    assert "compopt -o default" in script and completed("pagepack", "run", "sc") in ([], [""])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_their_own(shell: str) -> None:
    assert "_PAGEPACK_COMPLETE" in call("completion", shell).stdout
    unknown = call("completion", SHELL="/bin/dash")
    assert unknown.returncode == 2 and "which shell? `pagepack completion bash|zsh|fish`" in unknown.stderr
