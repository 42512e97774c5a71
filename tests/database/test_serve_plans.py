"""No page of `pagepack serve` goes through a whole table: in a large archive it would take seconds.

What does so on purpose is gathered beside the pages, by a thread of its own.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipeline.database.looking import Look
from pipeline.errors import PageFailed
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.web.app import create_app
from tests.conftest import Archive

LARGE = {"pages", "page_tasks", "answer_versions", "current_answers", "task_attempts", "sources", "documents"}
LARGE |= {"batch_sources", "text_layers", "answer_tries"}


def scanned(home: Path, statement: str, values: Mapping[str, Any]) -> set[str]:
    """Large tables that a statement goes through: by a scan, or by a range of ids that may hold all."""
    with sqlite3.connect(home / "pagepack.db") as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    names = dict(re.findall(r"\b(?:FROM|JOIN) (\w+) (?:AS )?(\w)\b", statement))
    names = {alias: table for table, alias in names.items()}
    walks = r"(?:SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?|SEARCH (\w+) USING INTEGER PRIMARY KEY \(rowid[<>])"
    found = [re.match(walks, line) for line in plan]
    partial = "ix_pages_failed"  # holds what failed alone
    aliases = [one[1] or one[3] for one in found if one and one[2] != partial]
    return {names.get(alias, alias) for alias in aliases} & LARGE


def test_the_plans_of_all_pages_begin_at_keys(
    archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = archive.see("/a.pdf")
    assert document is not None
    broken = NewPage(1, error=PageFailed("torn", cause="damaged"))
    first, second = archive.ingest(document, [NewPage(0, "a" * 64, 16, 32), broken, NewPage(2, "c" * 64, 16, 32)])
    archive.read(first, "the tide came in")
    archive.read(second, PageFailed("fell over", cause="engine"))
    asked: list[tuple[str, Mapping[str, Any]]] = []
    make = Look.__init__

    def remembering(self: Look, dialect: str, run: Callable[[str, Mapping[str, Any]], Sequence[Any]]) -> None:
        def remember(statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
            if threading.current_thread().name != "gather":
                asked.append((statement, values))
            return run(statement, values)

        make(self, dialect, remember)

    monkeypatch.setattr(Look, "__init__", remembering)
    client = TestClient(create_app(settings), base_url="http://localhost")
    batch, where = archive.batches["b"].public_id, archive.scalar("SELECT '/documents/' || public_id FROM documents")
    slow: dict[str, set[str]] = {}
    for path in (
        *("/", f"/batches/{batch}", f"/batches/{batch}/progress", "/review", "/charts", where),
        *(f"/batches/{batch}/failures", f"/batches/{batch}/failures?cause=engine&after=1-1"),
        *(f"{where}/pages/1", f"{where}/pages/3", f"{where}/pages/1/image", f"{where}/pages/1?prompt=ocr&queue=."),
    ):
        asked.clear()
        client.get(path)
        assert asked, path
        for statement, values in asked:
            slow |= {f"{path}: {statement}": found for found in [scanned(settings.home, statement, values)] if found}
    assert slow == {}
