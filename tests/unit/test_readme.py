"""The README tells the truth where a program can check it."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.settings import Settings
from schemas.column_types import VIEWS
from schemas.states import CAUSES
from schemas.view_columns import COLUMNS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def view_tables() -> str:
    """The README's part about the views, as it must read."""
    parts = []
    for view, columns in COLUMNS.items():
        rows = "\n".join(f"| `{column}` | {meaning} |" for column, meaning in columns.items())
        parts.append(f"**`{view}`**: {VIEWS[view]}.\n\n| column | meaning |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def settings_table() -> str:
    """The README's table of settings, as it must read."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"{field.default:,}" if type(field.default) is int else field.default
        rows.append(f"| `PAGEPACK_{name.upper()}` | {default} | {field.description} |")
    return "| variable | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def test_the_readme_documents_every_column_of_every_view() -> None:
    assert view_tables() in README


def test_the_readme_documents_every_setting() -> None:
    assert settings_table() in README


def test_the_readme_says_of_each_cause_what_to_do() -> None:
    table = README.partition("| cause | what happened | what to do |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall("`(.+?)`", row.split(" | ")[0])}
    assert told == set(CAUSES)


def test_every_cause_that_the_code_names_is_known() -> None:
    root = Path(__file__).parents[2]
    code = "".join(file.read_text() for part in ("pipeline", "workers") for file in (root / part).rglob("*.py"))
    named = set(re.findall(r"cause=\"([a-z-]+)\"|(?:rejected|ChildGone)\(\"([a-z-]+)\"", code))
    assert {name for pair in named for name in pair if name} - {"died"} <= set(CAUSES), "died is a process's"
