"""Files that are left out, and what that does to a batch, its counts and the exit code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from schemas.prompts import OCR
from tests.running import call, pagepack, reconciles, rows, write_pdf

WORD = "1 file is of a kind that is not read"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Two documents and a stray text."""
    folder = tmp_path / "docs"
    write_pdf(folder / "a.pdf", 1)
    write_pdf(folder / "drafts" / "b.pdf", 1)
    (folder / "notes.txt").write_text("no page")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def submitted(docs: Path, home: Path, *options: str) -> str:
    done = call("submit", docs, "--home", home, "--json", *options)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["batch_id"])


def files_of(home: Path, batch: str) -> list[str]:
    found = rows(home, f"SELECT file_name FROM files WHERE batch_id = '{batch}' ORDER BY 1")
    return [name for (name,) in found]


def test_a_stray_text_alone_is_no_failure_and_may_be_ignored_but_nothing_else(docs: Path, home: Path) -> None:
    told = pagepack("run", docs, "--home", home)
    assert told.returncode == 0, told.stderr
    assert "3 files seen: 2 done, 0 failed, 1 rejected" in told.stdout
    assert f"\n{WORD}: no failure; --ignore-unsupported leaves such files out\n" in told.stdout
    assert rows(home, "SELECT cause FROM failures") == [("unsupported",)]
    reconciles(home)

    ignored = pagepack("run", docs, "--home", home, "--ignore-unsupported")
    assert ignored.returncode == 0, ignored.stderr
    assert "2 files seen: 2 done, 0 failed, 0 rejected" in ignored.stdout
    assert f"\n{WORD}: ignored\n" in ignored.stdout and "no failure" not in ignored.stdout
    assert rows(home, "SELECT cause FROM failures") == []
    assert rows(home, "SELECT count(*) FROM batch_summary") == [(1,)], "the same batch goes on"
    reconciles(home)

    again = pagepack("run", docs, "--home", home, "--json")
    row = json.loads(again.stdout)
    assert (again.returncode, row["files_rejected"], row["files_ignored"]) == (0, 1, 0)
    counted = json.loads(pagepack("run", docs, "--home", home, "--json", "--ignore-unsupported").stdout)
    assert (counted["files_seen"], counted["files_rejected"], counted["files_ignored"]) == (2, 0, 1)

    (docs / "zero.pdf").touch()  # whatever else is wrong is a failure beside it
    for option in ([], ["--ignore-unsupported"]):
        failed = pagepack("run", docs, "--home", home, *option)
        assert failed.returncode == 1 and "no failure" not in failed.stdout, failed.stderr
    assert f"{WORD}: ignored" in failed.stdout
    mended = pagepack("run", docs, "--home", home, "--exclude", "zero.*", "--exclude", "*.txt")
    assert mended.returncode == 0 and "2 files seen: 2 done, 0 failed, 0 rejected" in mended.stdout
    assert "not read" not in mended.stdout
    assert rows(home, "SELECT count(*) FROM attempts") == [(2,)], "nothing was read twice"
    reconciles(home)


def test_patterns_make_a_batch_of_their_own_which_repeating_finds_again(docs: Path, home: Path) -> None:
    whole = submitted(docs, home)
    without = submitted(docs, home, "--exclude", "*.txt", "--exclude", "drafts")
    only = submitted(docs, home, "--include", "drafts")
    assert len({whole, without, only}) == 3
    assert files_of(home, whole) == ["a.pdf", "b.pdf", "notes.txt"]
    assert (files_of(home, without), files_of(home, only)) == (["a.pdf"], ["b.pdf"])

    write_pdf(docs / "c.pdf", 1)
    assert submitted(docs, home, "--exclude", "drafts", "--exclude", "*.txt", "--exclude", "drafts") == without
    assert files_of(home, without) == ["a.pdf", "c.pdf"], "it takes up what was added"
    assert files_of(home, whole) == ["a.pdf", "b.pdf", "notes.txt"], "and leaves the others alone"
    assert submitted(docs, home, "--ignore-unsupported") == whole
    assert files_of(home, whole) == ["a.pdf", "b.pdf", "c.pdf"]
    names = rows(home, "SELECT name FROM batch_summary ORDER BY started_at")
    assert names == [("docs",), ("docs --exclude *.txt --exclude drafts",), ("docs --include drafts",)]


def test_a_batch_without_patterns_is_found_by_the_key_that_it_always_had(docs: Path, home: Path) -> None:
    submitted(docs, home)
    identity = json.dumps([[str(docs)], [OCR.version], "", "keep"])
    key = "paths:" + hashlib.sha256(identity.encode()).hexdigest()
    assert rows(home, "SELECT key FROM batches") == [(key,)]


def test_a_named_batch_forgets_what_it_told_as_unsupported(docs: Path, home: Path) -> None:
    """It keeps files that are gone from its paths, and those that a pattern leaves out now."""
    batch = submitted(docs, home, "--batch", "letters")
    assert submitted(docs, home, "--batch", "letters", "--exclude", "drafts", "--ignore-unsupported") == batch
    assert files_of(home, batch) == ["a.pdf", "b.pdf"]


def test_submit_counts_what_it_ignored(docs: Path, home: Path) -> None:
    done = call("submit", docs, "--home", home, "--ignore-unsupported")
    assert done.returncode == 0 and f"{WORD}: ignored\n" in done.stderr
    assert rows(home, "SELECT files_seen FROM batch_summary") == [(2,)]


def test_patterns_that_leave_nothing_or_are_none_are_told(docs: Path, home: Path) -> None:
    nothing = call("run", docs, "--home", home, "--include", "*.tiff")
    assert nothing.returncode == 3
    assert nothing.stderr.endswith(f"no file found at {docs} that --include and --exclude leave\n")
    wrong = call("submit", docs, "--home", home, "--exclude", "a**b")
    assert wrong.returncode == 2 and "--exclude 'a**b' is no pattern: " in wrong.stderr
    assert not home.exists()


def test_a_folder_of_nothing_but_what_is_ignored_is_walked_to_its_end(tmp_path: Path, home: Path) -> None:
    """Also where more of them stand in a row than are registered at once."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(250):
        (folder / f"{number:03}.txt").write_text("no page")
    done = pagepack("run", folder, "--home", home, "--ignore-unsupported")
    assert done.returncode == 0, done.stderr
    assert "250 files are of a kind that is not read: ignored" in done.stdout
    (folder / "z.pdf").touch()
    again = pagepack("run", folder, "--home", home, "--ignore-unsupported", "--json")
    row = json.loads(again.stdout)
    assert (again.returncode, row["files_rejected"], row["files_ignored"], row["state"]) == (1, 1, 250, "finished")


def test_what_is_no_failure_is_named_last(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text("no page")
    (folder / "z.pdf").touch()
    failed = pagepack("run", folder, "--home", home)
    assert failed.returncode == 1 and f"\n  {folder}/z.pdf has zero bytes" in failed.stdout, failed.stdout
