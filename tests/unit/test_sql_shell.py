"""What the shell of `pagepack sql` offers at the Tab key, and how wide tables are laid out."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.cli.sql_shell import complete, run_shell
from pipeline.errors import UsageError
from pipeline.query.formats import write_table
from schemas.view_columns import COLUMNS


@pytest.mark.parametrize(
    ("begun", "statement", "offered"),
    [
        ("page_t", "SELECT * FROM page_t", ["page_text"]),
        ("PAGE_T", "select * from PAGE_T", ["page_text"]),
        ("sel", "sel", ["select"]),
        ("SEL", "SEL", ["SELECT"]),
        ("files_se", "SELECT files_se FROM batch_summary", ["files_seen"]),
        ("f.mod", "SELECT f.mod FROM files AS f", ["f.modified_at"]),
        ("files.mod", "SELECT files.mod FROM files", ["files.modified_at"]),
        ("x.mod", "SELECT x.mod FROM files f", []),
        ("nothing", "nothing", []),
    ],
)
def test_tab_offers_views_columns_and_words_of_sql(begun: str, statement: str, offered: list[str]) -> None:
    assert complete(begun, statement) == offered


def test_columns_are_those_of_the_views_that_are_named() -> None:
    assert complete("", "SELECT  FROM prompts") == list(COLUMNS["prompts"])
    assert "cause" in complete("ca", "SELECT ca FROM failures") and "cause" not in complete(
        "ca", "SELECT ca FROM files"
    )


def test_ctrl_c_drops_what_was_typed_and_mistakes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = iter(
        ["SELECT", KeyboardInterrupt, "", "SELECT 1;", "bad;", "stopped;", "SELECT ';'", "; ", ".help", EOFError]
    )

    def typed(_: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    def run(statement: str) -> None:
        asked.append(statement)
        if statement == "bad;":
            raise UsageError("it is bad")
        if statement == "stopped;":
            raise KeyboardInterrupt

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", typed)
    run_shell(run)
    assert asked == ["SELECT 1;", "bad;", "stopped;", "SELECT ';'\n; "]
    said = capsys.readouterr()
    assert "pagepack: it is bad\npagepack: stopped\n" in said.err and "Tab completes views" in said.out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


ID = "01a22696-3051-724f-ab72-d791dddbfb5b"
TEXT = "The tide tables of the garden were late this year, and the gulls knew.\nSecond line"


def shown(monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str], *rows: tuple[object, ...]) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    write_table(stream, columns, rows)  # type: ignore[arg-type]
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def test_long_texts_wrap_at_words_beside_whole_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 80, ["document_id", "n", "text"], (ID, 1, TEXT), (ID, 22, "short"))
    assert lines[0].split() == ["document_id", "n", "text"] and lines[2].startswith(f"{ID}   1    The tide tables")
    assert [line for line in lines if line.startswith(ID)] == [lines[2], lines[-1]]
    words = " ".join(lines[2:-1]).split()
    assert words == [ID, "1", *TEXT.split()]


def test_rows_of_many_columns_are_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["source_path", "document_id", "text", "model", "n"]
    lines = shown(
        monkeypatch, 80, columns, ("/in/letters/1913/ferry.pdf", ID, TEXT, "m", None), ("/b", "2", "", "m", 0)
    )
    assert lines[:3] == ["── row 1 ──", "source_path  /in/letters/1913/ferry.pdf", f"document_id  {ID}"]
    assert lines[3].startswith("text         The tide tables") and lines[5] == "             Second line"
    assert lines[6:9] == ["model        m", "n            NULL", "── row 2 ──"]


def test_a_table_that_fits_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 30, ["a", "b"], (1, "x"), (2, "表"))
    assert lines[0] == "a   b" and lines[2:] == ["1   x", "2   表"]
