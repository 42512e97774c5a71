"""`from pipeline.query import open_archive`: what programs of others call, as docs/sql.md shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipeline.query
from pipeline.errors import PagepackError, UsageError
from pipeline.query import open_archive
from pipeline.settings import Settings
from tests.conftest import Archive
from tests.database.test_worked_queries import REPORT, build
from tests.sql_docs import FILE

DATABASES = ("sqlite", "postgresql")


@pytest.mark.only("sqlite")
def test_the_page_shows_what_it_prints(
    archive: Archive,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build(archive)
    (tmp_path / "pagepack-data").symlink_to(settings.home)
    monkeypatch.chdir(tmp_path)
    section = FILE.read_text(encoding="utf-8").partition("## From Python")[2]
    (code,), (printed,) = (re.findall(rf"^```{kind}\n(.*?)^```$", section, re.S | re.M) for kind in ("python", "text"))
    exec(compile(code, str(FILE), "exec"), {})
    assert capsys.readouterr().out == printed


def test_an_archive_is_opened_by_its_folder_or_its_url(archive: Archive, settings: Settings) -> None:
    archive.file(REPORT, ["some text"])
    for where in (str(settings.database_url),) if settings.database_url else (settings.home, str(settings.home)):
        with open_archive(where) as opened:
            assert opened.page("report.pdf", 1).text == "some text"
            assert [hit.source_path for hit in opened.search("text", batch="b", folder="reports")] == [REPORT]
            assert opened.search("text", folder="letters") == opened.search("text", min_confidence=0.5) == []
            result = opened.sql("SELECT page_number, text FROM page_text")
            assert (result.columns, list(result.rows)) == (["page_number", "text"], [(1, "some text")])
            with pytest.raises(UsageError):
                opened.page("other.pdf", 1)
            with pytest.raises(UsageError):
                opened.sql("DROP TABLE pages")


@pytest.mark.only("sqlite")
def test_what_is_no_archive_is_an_error_of_ours(tmp_path: Path) -> None:
    for where in (tmp_path, "mysql://u:secret@host/x"):
        with pytest.raises(PagepackError) as error:
            open_archive(where)
        assert "secret" not in str(error.value)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pipeline.query.nothing  # noqa: B018
