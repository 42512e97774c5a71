"""Files that are gone from their paths: told, hidden, and there again when they come back; nothing is read again."""

from __future__ import annotations

import io
import logging
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.batch_options import take_selection
from pipeline.export.export import export
from pipeline.ingest.register import register_all
from pipeline.ingest.selection import ALL_FILES, Selection, select_files
from pipeline.ingest.submission import open_named_batch
from pipeline.query.search import find
from pipeline.settings import Settings
from schemas.prompts import OCR
from tests.conftest import Archive

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    for name in ("a", "sub/b", "sub/deep/c"):
        written(folder / f"{name}.pdf")
    return folder


def written(path: Path, text: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"%PDF-1.4 " + (text or path.name).encode())
    return path


class Walks:
    """Walks folders as `run` and `submit` do, and reads what is new as their workers do."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self.archive, self._settings = archive, settings

    def walk(
        self, *paths: Path, name: str | None = None, selection: Selection = ALL_FILES, model: str = "m1"
    ) -> list[str]:
        """The paths of which a page was read anew."""
        batch = open_named_batch(self.archive.db, self._settings, paths, [OCR], name, "e", model, (), selection)
        self.archive.batches["b"] = batch
        list(register_all(self.archive.db, batch, paths, self._settings, selection, name is None, lambda: False))
        waiting = self.archive.rows("SELECT id FROM documents WHERE state = 'pending' ORDER BY id")
        read = []
        for (document_id,) in waiting:
            (page,) = self.archive.ingest(document_id, [f"page of {document_id}"])
            path = self.archive.scalar("SELECT min(path) FROM sources WHERE document_id = :id", id=document_id)
            self.archive.read(page, f"words of {Path(path).name}", model)
            read.append(path)
        assert self.archive.rows("SELECT id FROM page_tasks WHERE state = 'pending'") == []
        assert self.archive.finish()
        return read

    def names(self, query: str, **values: Any) -> list[str]:
        return sorted(Path(path).name for (path,) in self.archive.rows(query, **values))

    def gone(self) -> list[str]:
        return self.names("SELECT DISTINCT source_path FROM files WHERE gone_at IS NOT NULL")

    def shown(self) -> list[str]:
        return self.names("SELECT source_path FROM page_text")


@pytest.fixture
def walks(archive: Archive, settings: Settings) -> Walks:
    return Walks(archive, settings)


@pytest.mark.parametrize("name", [None, "1913"])
def test_a_file_that_was_renamed_is_shown_at_its_new_path_alone(
    walks: Walks, docs: Path, tmp_path: Path, name: str | None
) -> None:
    assert len(walks.walk(docs, name=name)) == 3
    (docs / "sub/b.pdf").rename(docs / "z.pdf")
    assert walks.walk(docs, name=name) == [], "nothing is read again"
    assert walks.gone() == ["b.pdf"] and walks.shown() == ["a.pdf", "c.pdf", "z.pdf"]
    assert walks.names("SELECT source_path FROM document_text") == ["a.pdf", "c.pdf", "z.pdf"]
    assert [Path(hit.source_path).name for hit in find(walks.archive.db, '"words of b.pdf"').hits] == ["z.pdf"]
    assert export(walks.archive.db, tmp_path / "out", "markdown").files == 3
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.md")) == ["a.pdf.md", "c.pdf.md", "z.pdf.md"]
    counts = walks.archive.rows("SELECT files_seen, files_done, state FROM batch_summary")
    assert counts == [(4, 4, "finished")], "what was read of it is the batch's"
    written(docs / "sub/b.pdf")
    assert walks.walk(docs, name=name) == []
    assert walks.gone() == [] and walks.shown() == ["a.pdf", "b.pdf", "c.pdf", "z.pdf"]


def test_a_batch_that_is_finished_says_what_it_said_and_that_the_file_is_gone(walks: Walks, docs: Path) -> None:
    walks.walk(docs, name="old")
    before = walks.archive.rows("SELECT * FROM batch_summary")
    shutil.rmtree(docs / "sub/deep")
    walks.walk(docs, name="old")
    walks.archive.execute("UPDATE batches SET finished_at = NULL")
    assert [row[:-1] for row in walks.archive.rows("SELECT * FROM batch_summary")] == [row[:-1] for row in before]
    states = "SELECT file_name, state, gone_at IS NOT NULL FROM files ORDER BY 1"
    assert [(name, state, bool(gone)) for name, state, gone in walks.archive.rows(states)] == [
        ("a.pdf", "done", False),
        ("b.pdf", "done", False),
        ("c.pdf", "done", True),
    ]
    assert export(walks.archive.db, docs.parent / "out", "jsonl").pages == 2


def test_the_moment_stays_at_which_a_file_was_first_missed(walks: Walks, docs: Path) -> None:
    walks.walk(docs, name="n")
    (docs / "a.pdf").unlink()
    walks.walk(docs, name="n")
    first = walks.archive.rows("SELECT gone_at FROM files WHERE file_name = 'a.pdf'")
    walks.walk(docs, name="n")
    assert walks.archive.rows("SELECT gone_at FROM files WHERE file_name = 'a.pdf'") == first


def test_a_disk_that_is_not_mounted_takes_no_file_away(
    walks: Walks, docs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    walks.walk(docs)
    shutil.rmtree(docs / "sub")
    (docs / "sub").mkdir()
    with caplog.at_level(logging.WARNING):
        walks.walk(docs)
    assert walks.gone() == [] and "is a disk not mounted?" in caplog.text
    (docs / "sub").rmdir()
    (docs / "sub").symlink_to(docs.parent / "nowhere")
    walks.walk(docs, name="link")
    assert walks.names("SELECT path FROM sources WHERE gone_at IS NOT NULL") == [], "nor a link to what is not there"
    (docs / "sub").unlink()
    walks.walk(docs, docs, name="link")
    if walks.archive.db.dialect == "sqlite":
        assert walks.shown() == ["a.pdf"]


def test_what_is_left_out_or_elsewhere_is_not_gone(walks: Walks, docs: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other/d.pdf")
    (docs / "notes.txt").write_text("no document")
    walks.walk(docs, other.parent, name="n")
    other.unlink()
    selection = select_files((), ("sub",), ignores_unsupported=True)
    walks.walk(docs, name="n", selection=selection)
    assert walks.gone() == [] and walks.shown() == ["a.pdf", "b.pdf", "c.pdf", "d.pdf"]
    walks.walk(docs / "sub/b.pdf", name="n")
    assert walks.gone() == []


def zipped(names: Sequence[str], sign: str = "") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, f"%PDF-1.4 {sign}{name}")
    return data.getvalue()


def test_members_are_gone_with_their_archive_or_from_it(walks: Walks, docs: Path) -> None:
    path = docs / "letters.zip"
    path.write_bytes(zipped(["1.pdf", "2.pdf"]))
    walks.walk(docs, name="n")
    path.write_bytes(zipped(["1.pdf"]))
    left_out = select_files((), ("*2.pdf",), ignores_unsupported=False)
    walks.walk(docs, name="n", selection=left_out)
    assert walks.gone() == [], "it may have been left out"
    walks.walk(docs, name="n")
    assert walks.gone() == ["2.pdf"] and "1.pdf" in walks.shown()
    path.unlink()
    walks.walk(docs, name="n")
    assert walks.gone() == ["1.pdf", "2.pdf", "letters.zip"] and walks.shown() == ["a.pdf", "b.pdf", "c.pdf"]


def test_on_a_server_only_files_that_the_batch_has_seen_are_looked_for(walks: Walks, docs: Path) -> None:
    """Another machine may have other files at the same paths."""
    walks.walk(docs, name="here")
    (docs / "a.pdf").unlink()
    walks.walk(docs, name="there")
    expected = ["a.pdf"] if walks.archive.db.dialect == "sqlite" else []
    assert walks.gone() == expected
    walks.walk(docs, name="here")
    assert walks.gone() == ["a.pdf"]


def test_a_failure_of_a_file_that_is_gone_is_nobodys(walks: Walks, docs: Path) -> None:
    (docs / "empty.pdf").touch()
    walks.walk(docs, name="n")
    assert walks.names("SELECT source_path FROM current_failures") == ["empty.pdf"]
    (docs / "empty.pdf").unlink()
    walks.walk(docs, name="n")
    assert walks.names("SELECT source_path FROM current_failures") == []
    assert walks.names("SELECT source_path FROM failures") == ["empty.pdf"], "the batch says what it met"


def test_content_that_changed_within_size_and_time_is_noticed_where_it_is_checked(walks: Walks, docs: Path) -> None:
    path, zip_path = docs / "a.pdf", docs / "z.zip"
    zip_path.write_bytes(zipped(["1.pdf"], "x"))
    walks.walk(docs, name="n")
    for changed, data in ((path, b"%PDF-1.4 x.pdf"), (zip_path, zipped(["1.pdf"], "y"))):
        status = changed.stat()
        changed.write_bytes(data)
        assert changed.stat().st_size == status.st_size
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert walks.walk(docs, name="n") == []
    given = {"include": (), "exclude": (), "ignores_unsupported": False, "check": "content"}
    checking = take_selection(given)
    assert sorted(walks.walk(docs, name="n", selection=checking)) == [str(path), f"{zip_path}!/1.pdf"]
    assert walks.walk(docs, name="n", selection=checking) == []
