"""Exports: whole, inside `out` whatever files are called, and silent about no page."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline.errors import DiskFull, NothingToDo, PageFailed, UsageError
from pipeline.export.export import Format, export
from pipeline.export.paths import Targets, safe_name, shared_folder
from pipeline.query.batch_status import find_batch
from pipeline.store.batches import open_batch
from pipeline.store.pages import NewPage
from pipeline.store.sources import begin_walk, forget_unseen
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import Archive, examples, sha

DATABASES = ("sqlite", "postgresql")


def files(out: Path) -> dict[str, str]:
    found = [path for path in out.rglob("*") if path.is_file() and out / "home" not in path.parents]
    return {str(path.relative_to(out)): path.read_bytes().decode() for path in found}


def pages_of(markdown: str) -> dict[int, str]:
    """Page number → text, as a small program would read it."""
    pieces = re.split(r"(?m)^<!-- page (\d+) -->\n\n", markdown)[1:]
    unescaped = (re.sub(r"(?m)^\\(\\*<!-- (?:page|prompt) )", r"\1", text) for text in pieces[1::2])
    numbers = [int(number) for number in pieces[::2]]
    texts = [text[: -1 if index == len(numbers) - 1 else -2] for index, text in enumerate(unescaped)]
    return dict(zip(numbers, texts, strict=True))


def test_markdown_keeps_the_folders_and_the_extensions(archive: Archive, tmp_path: Path) -> None:
    for path in ("/in/2019/a.pdf", "/in/2019/a.png", "/in/b"):
        archive.file(path, [f"text of {path}", "second"])
    summary = export(archive.db, tmp_path / "out", "markdown")
    assert (summary.files, summary.pages, summary.pages_failed) == (3, 6, 0)
    written = files(tmp_path / "out")
    assert set(written) == {"2019/a.pdf.md", "2019/a.png.md", "b.md"}
    document_id = archive.scalar("SELECT document_id FROM page_text WHERE source_path = '/in/b' AND page_number = 1")
    assert written["b.md"] == (
        f'---\nsource_path: "/in/b"\ndocument_id: "{document_id}"\npages: 2\nprompt: "ocr"\nengine: "rapidocr"\n'
        'model: "m1"\nconfidence: null\n---\n\n<!-- page 1 -->\n\ntext of /in/b\n\n<!-- page 2 -->\n\nsecond\n'
    )


@pytest.mark.parametrize("form", ["markdown", "jsonl", "parquet"])
def test_a_batch_is_exported_as_it_saw_its_files(archive: Archive, tmp_path: Path, form: Format) -> None:
    """Whatever lies at their paths by now, or why nothing does."""
    for path in ("/in/changed.pdf", "/in/gone.pdf"):
        (page,) = archive.ingest(archive.see(path, f"{path} before", batch="old") or 0, [f"{path} 1"])
        archive.read(page, f"{path} as it was")
    archive.see("/in/was-locked.pdf", batch="old", rejection="encrypted")
    for path in ("/in/changed.pdf", "/in/was-locked.pdf"):
        pages = archive.ingest(archive.see(path, f"{path} now", batch="new") or 0, [f"{path} 2", f"{path} 3"])
        for page in pages:
            archive.read(page, f"{path} as it is")
    archive.see("/in/gone.pdf", batch="new", rejection="missing")

    def exported(batch: str | None) -> dict[str, list[Any]]:
        out = tmp_path / str(batch)
        export(archive.db, out, form, find_batch(archive.db, batch) if batch else None)
        if form == "markdown":
            return {name: list(pages_of(text).values()) for name, text in files(out).items()}
        read = parquet.read_table(out).to_pylist() if form == "parquet" else map(json.loads, out.open())
        texts: dict[str, list[Any]] = {}
        for row in read:
            texts.setdefault(row["source_path"].removeprefix("/in/") + ".md", []).append(row["text"])
        return texts

    why: list[str | None] = [] if form == "markdown" else [None]  # a file that says why; a row without text
    old = {"changed.pdf.md": ["/in/changed.pdf as it was"], "gone.pdf.md": ["/in/gone.pdf as it was"]}
    now = {path: [f"/in/{path[:-3]} as it is"] * 2 for path in ("changed.pdf.md", "was-locked.pdf.md")}
    assert exported("old") == old | {"was-locked.pdf.md": why}
    for batch in ("new", None):
        assert exported(batch) == now | {"gone.pdf.md": why}


def test_no_page_and_no_file_is_silently_absent(archive: Archive, tmp_path: Path) -> None:
    good, bad, _ = archive.ingest(
        archive.see("/in/a.pdf") or 0,
        [
            "good",
            "bad",
            NewPage(2, error=PageFailed("page 3 hangs -->\n# fake", cause="timeout")),
            NewPage(3, sha("w"), 16, 16),
        ],
    )
    archive.read(good, "text")
    archive.read(bad, PageFailed("no answer"))
    archive.see("/in/locked.pdf", rejection="encrypted")
    archive.see("/in/notes.txt", rejection="unsupported")
    summary = export(archive.db, tmp_path, "markdown", find_batch(archive.db))
    assert (summary.files, summary.pages, summary.pages_failed, summary.pages_waiting) == (2, 4, 2, 1)
    assert summary.files_rejected == 2
    written = files(tmp_path)
    pages = pages_of(written["a.pdf.md"])
    assert pages[1] == "text" and pages[2] == "> **Page 2 not read** (engine): no answer"
    assert pages[3] == "> **Page 3 not read** (timeout): page 3 hangs --&gt; # fake"
    assert pages[4] == "> **Page 4 not read** (waiting): not read yet"
    assert "**Not read** (encrypted)" in written["locked.pdf.md"] and len(written) == 2
    export(archive.db, tmp_path / "x.jsonl", "jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [(row["page_number"], row["state"], row["cause"]) for row in map(json.loads, lines)] == [
        (1, "done", None),
        (2, "failed", "engine"),
        (3, "failed", "timeout"),
        (4, "waiting", "waiting"),
        (None, "rejected", "encrypted"),
        (None, "rejected", "unsupported"),
    ]


def test_pages_that_nobody_asked_about_do_not_wait(archive: Archive, tmp_path: Path) -> None:
    """Some of a document's pages, by one batch and one prompt: the others are none of an export, whatever it takes."""
    asked = {"engine": "rapidocr", "text_layer": "keep"}
    archive.batches["b"] = open_batch(
        archive.db, key="b", name="b", prompts=[OCR, DESCRIBE], model="m1", pages=[(1, 2)], **asked
    )
    document_id = archive.see("/in/a.pdf")
    assert document_id is not None
    second, third = archive.ingest(document_id, ["one", "two", "three", "four"])
    archive.read(second, "second")
    archive.batches["other"] = open_batch(
        archive.db, key="other", name="other", prompts=[OCR], model="m2", pages=[(2, 3)], **asked
    )
    archive.see("/in/a.pdf", batch="other")

    def exported(prompt: str) -> list[tuple[int, str]]:
        export(archive.db, tmp_path / "x.jsonl", "jsonl", prompt=prompt)
        rows = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
        return [(row["page_number"], row["state"]) for row in rows]

    assert exported("ocr") == [(2, "done"), (3, "waiting"), (4, "waiting")]
    assert exported("describe") == [(2, "done"), (3, "waiting")]
    for form in ("markdown", "hocr", "alto", "page-xml"):
        assert export(archive.db, tmp_path / form, form, prompt="ocr").pages_waiting == 2
    archive.read(third, PageFailed("no answer"))
    assert exported("describe") == [(2, "done"), (3, "failed")]


def test_what_no_batch_sees_any_more_is_exported_as_it_is_shown(archive: Archive, tmp_path: Path) -> None:
    """An attachment, after a run without `--attachments`: `page_text` has its text, and so has an export of all."""
    archive.file("/in/a.pdf", ["of the host"])
    archive.file("/in/a.pdf!/annex.pdf", ["of the annex"])
    began = begin_walk(archive.db, archive.batches["b"])
    archive.see("/in/a.pdf")
    forget_unseen(archive.db, archive.batches["b"], began)
    assert archive.scalar("SELECT count(*) FROM files") == 1 and archive.scalar("SELECT count(*) FROM page_text") == 2
    assert export(archive.db, tmp_path / "all", "markdown").pages == 2
    written = files(tmp_path / "all")
    assert [pages_of(written[name]) for name in ("a.pdf.md", "a.pdf!/annex.pdf.md")] == [
        {1: "of the host"},
        {1: "of the annex"},
    ]
    assert export(archive.db, tmp_path / "hocr", "hocr").pages == 2
    assert export(archive.db, tmp_path / "batch", "markdown", find_batch(archive.db, "b")).pages == 1


def test_a_file_whose_pages_are_not_drawn_yet_is_told(archive: Archive, tmp_path: Path) -> None:
    """As after a stop, or after `retry` of a page that could not be drawn: it has no rows of pages for them."""
    archive.file("/in/a.pdf", ["text"])
    archive.see("/in/b.pdf")
    summary = export(archive.db, tmp_path / "x.jsonl", "jsonl")
    assert (summary.files_waiting, summary.files_rejected, summary.pages) == (1, 0, 1)
    rows = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert [(row["source_path"], row["page_number"], row["state"], row["cause"], row["reason"]) for row in rows] == [
        ("/in/a.pdf", 1, "done", None, None),
        ("/in/b.pdf", None, "waiting", "waiting", "not all of its pages are drawn yet"),
    ]
    summary = export(archive.db, tmp_path / "out", "markdown")
    assert (summary.files_waiting, summary.files_rejected) == (1, 0)
    assert "> **Not read** (waiting): not all of its pages are drawn yet" in files(tmp_path / "out")["b.pdf.md"]


def test_front_matter_names_what_read_most_of_the_pages(archive: Archive, tmp_path: Path) -> None:
    """Not the first page's: of a scan whose cover is empty, that is nobody; nor where it was not read."""
    blank = [NewPage(number, sha("white"), 16, 16, is_blank=True) for number in range(2)]
    unread, read = archive.ingest(archive.see("/in/a.pdf") or 0, [*blank, NewPage(2, sha("b")), NewPage(3, sha("c"))])
    archive.read(unread, PageFailed("no answer"))
    archive.read(read, "text")
    archive.ingest(archive.see("/in/blank.pdf") or 0, blank[:1])
    archive.see("/in/waiting.pdf")
    export(archive.db, tmp_path, "markdown")
    heads = {name: re.findall("^(?:engine|model): (.*)", text, re.M) for name, text in files(tmp_path).items()}
    assert heads == {"a.pdf.md": ['"rapidocr"', '"m1"'], "blank.pdf.md": ['"blank"', '"blank/1"'], "waiting.pdf.md": []}


@pytest.mark.parametrize("prompt", [None, "ocr"])
def test_files_that_were_not_taken_in_are_rows(archive: Archive, tmp_path: Path, prompt: str | None) -> None:
    archive.file("/in/a.pdf", ["text"])
    archive.see("/in/b.txt", rejection="unsupported")
    archive.see("/in/c.pdf")
    archive.execute(
        "UPDATE documents SET state = 'failed', cause = 'crash', reason = 'it died' WHERE state = 'pending'"
    )
    names = "source_path", "page_number", "prompt", "text", "state", "cause", "reason"
    rows: dict[str, list[Any]] = {}
    for form in ("jsonl", "parquet"):
        out = tmp_path / form
        summary = export(archive.db, out, form, prompt=prompt)
        assert (summary.pages, summary.pages_failed, summary.files_rejected) == (1, 0, 2)
        read = parquet.read_table(out).to_pylist() if form == "parquet" else list(map(json.loads, out.open()))
        rows[form] = [tuple(row[name] for name in names) for row in read]
        assert list(read[0]) == list(read[1]) and read[0]["document_id"] and read[1]["document_id"] is None
    assert rows["jsonl"] == rows["parquet"]
    assert rows["jsonl"] == [
        ("/in/a.pdf", 1, "ocr", "text", "done", None, None),
        ("/in/b.txt", None, None, None, "rejected", "unsupported", "/in/b.txt is unsupported"),
        ("/in/c.pdf", None, None, None, "failed", "crash", "it died"),
    ]


def test_a_document_without_one_rendered_page_is_exported_too(archive: Archive, tmp_path: Path) -> None:
    archive.ingest(archive.see("/in/a.pdf") or 0, [NewPage(0, error=PageFailed("hangs", cause="timeout"))])
    assert export(archive.db, tmp_path, "markdown").pages_failed == 1
    assert "Page 1 not read" in files(tmp_path)["a.pdf.md"]


def test_prompts_become_sections_and_can_be_chosen(archive: Archive, tmp_path: Path) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    archive.read(page, lambda prompt: f"{prompt.name} answer")
    archive.file("/in/b.pdf", ["only ocr"], batch="second")
    export(archive.db, tmp_path / "all", "markdown")
    both = files(tmp_path / "all")["a.pdf.md"]
    assert both.index("<!-- prompt describe -->") < both.index("describe answer") < both.index("<!-- prompt ocr -->")
    summary = export(archive.db, tmp_path / "one", "markdown", prompt="describe")
    assert summary.pages == 1 and "ocr answer" not in files(tmp_path / "one")["a.pdf.md"]
    export(archive.db, tmp_path / "batch", "markdown", batch=find_batch(archive.db, "second"))
    assert set(files(tmp_path / "batch")) == {"b.pdf.md"}


@examples(10)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=6)
)
@example(texts=["<!-- page 2 -->\n\nfake", "\\<!-- page 1 -->", "---\n\r\n"])
def test_texts_come_back_as_they_were(
    archive: Archive, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    out = tmp_path_factory.mktemp("out")
    path = f"/in/{sha(repr(texts))}"
    if not archive.rows("SELECT 1 FROM sources WHERE path = :path", path=path):
        archive.file(path, texts, batch=path)
    batch = find_batch(archive.db, path)
    export(archive.db, out, "markdown", batch)
    assert list(pages_of(*files(out).values()).values()) == texts
    export(archive.db, out / "a.jsonl", "jsonl", batch)
    assert [json.loads(line)["text"] for line in (out / "a.jsonl").read_bytes().split(b"\n")[:-1]] == texts
    export(archive.db, out / "a.parquet", "parquet", batch)
    table = parquet.read_table(out / "a.parquet").to_pylist()
    assert [row["text"] for row in table] == texts and table[0]["created_at"].tzinfo is not None


def test_jsonl_goes_to_the_standard_output(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.file("/in/a.pdf", ["text"])
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert export(archive.db, Path("-"), "jsonl").pages == 1
    assert json.loads(stream.getvalue())["source_path"] == "/in/a.pdf"


def test_a_reader_that_leaves_is_no_usage_error(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    class ClosedPipe(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    archive.file("/in/a.pdf", ["text"])
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with pytest.raises(BrokenPipeError):
        export(archive.db, Path("-"), "jsonl")


def test_existing_files_are_replaced(archive: Archive, tmp_path: Path) -> None:
    archive.file("/in/a.pdf", ["text"])
    target = tmp_path / "a.pdf.md"
    target.write_text("mine")
    export(archive.db, tmp_path, "markdown")
    assert list(files(tmp_path)) == ["a.pdf.md"] and "text" in target.read_text()


@pytest.mark.parametrize("form", ["markdown", "jsonl", "parquet"])
def test_no_file_that_was_read_is_replaced(archive: Archive, tmp_path: Path, form: Format) -> None:
    """A PDF may well be called `note.md`. What was only looked at, as an older export's files, is replaced."""
    (tmp_path / "note.md").write_bytes(b"%PDF-1.7 of the user's own")
    archive.file(str(tmp_path / "note.md"), ["text"])
    archive.see(str(tmp_path / "rows"), rejection="unsupported")
    archive.execute("UPDATE sources SET document_id = NULL WHERE path LIKE '%rows'")
    (tmp_path / "rows").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match=r"note\.md is a file that was read, and would be overwritten; choose"):
            export(archive.db, folder if form == "markdown" else folder / "note.md", form)
    assert (tmp_path / "note.md").read_bytes() == b"%PDF-1.7 of the user's own"
    if form != "markdown":
        export(archive.db, tmp_path / "rows", form)
        assert (tmp_path / "rows").read_bytes() != b"mine"


@pytest.mark.only("sqlite")
def test_the_database_is_not_replaced(archive: Archive, tmp_path: Path) -> None:
    archive.file("/in/a.pdf", ["text"])
    (file,) = tmp_path.rglob("pagepack.db")
    for ending in ("", "-wal", "-shm"):
        with pytest.raises(UsageError, match="belongs to the database, and would be overwritten"):
            export(archive.db, file.with_name(file.name + ending), "jsonl")
    assert archive.scalar("SELECT count(*) FROM page_text") == 1


def test_pipes_and_devices_are_written_into_or_refused(archive: Archive, tmp_path: Path) -> None:
    archive.file("/in/a.pdf", ["text"])
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    for out in (fifo, link):
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        assert export(archive.db, out, "jsonl").pages == 1
        assert json.loads(os.read(reader, 10_000))["text"] == "text"
        os.close(reader)
        with pytest.raises(UsageError, match=rf"{out.name} is a pipe or a device"):
            export(archive.db, out, "parquet")
        with pytest.raises(UsageError, match="goes into a folder"):
            export(archive.db, out, "markdown")
        assert fifo.is_fifo() and link.is_symlink()
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "a.pdf.md")
    with pytest.raises(UsageError, match=r"a\.pdf\.md: it is no regular file"):
        export(archive.db, tmp_path / "out", "markdown")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_symbolic_link_stays_and_its_file_is_replaced(archive: Archive, tmp_path: Path, form: Format) -> None:
    archive.file("/in/a.pdf", ["text"])
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "file")
    for _ in ("dangling", "there"):
        export(archive.db, link, form)
        assert link.is_symlink() and (tmp_path / "disk" / "file").stat().st_size > 0
    assert len(list((tmp_path / "disk").iterdir())) == 1


def test_what_does_not_fit_is_named_as_the_user_named_it(archive: Archive, tmp_path: Path) -> None:
    archive.file("/in/a.pdf", ["text"])
    for form in ("markdown", "parquet"):
        with pytest.raises(UsageError, match="--out -: only --format jsonl"):
            export(archive.db, Path("-"), form)
    with pytest.raises(UsageError, match="is a folder"):
        export(archive.db, tmp_path, "jsonl")
    with pytest.raises(UsageError, match="'nope'; known are ocr"):
        export(archive.db, tmp_path / "out", "markdown", prompt="nope")
    for form in ("jsonl", "parquet"):
        with pytest.raises(UsageError, match=re.escape(f"cannot write {tmp_path / 'no' / 'out'}: No such file")):
            export(archive.db, tmp_path / "no" / "out", form)
    (tmp_path / "a.pdf.md").mkdir()
    with pytest.raises(UsageError, match=r"a\.pdf\.md: it is no regular file"):
        export(archive.db, tmp_path, "markdown")
    with pytest.raises(DiskFull, match="no room left for /dev/full"):
        export(archive.db, Path("/dev/full"), "jsonl")
    assert Path("/dev/full").is_char_device()


def test_nothing_to_export_and_places_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(NothingToDo):
        export(archive.db, tmp_path / "out", "markdown")
    archive.file("/in/a.pdf", ["text"])
    (tmp_path / "file").write_text("x")
    for form in ("markdown", "jsonl"):
        with pytest.raises(UsageError, match="cannot write"):
            export(archive.db, tmp_path / "file" / "out", form)


def test_parquet_without_pyarrow_names_the_extra(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.file("/in/a.pdf", ["text"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pagepack\[parquet\]"):
        export(archive.db, tmp_path / "a.parquet", "parquet")


HOSTILE = [
    "/in/../../etc/passwd",
    "/in/..",
    "/in/.",
    "/in/a\0b.pdf",
    "/in/new\nline\x1b[31m.pdf",
    "/in/C:\\windows\\x.pdf",
    "/in/CON.pdf",
    "/in/aux",
    "/in/" + "长" * 120 + ".pdf",
    "/in/" + "长" * 121 + ".pdf",
    "/in/" + "/".join(["deep" * 20] * 60) + "/x.pdf",
    "/in/a.pdf",
    "/in/A.PDF",
    "/in/a.pdf.md/b.pdf",
    "/in/e\u0301.pdf",
    "/in/\u00e9.pdf",
    "/in//double.pdf",
    "/in/ quotes ' \" $(rm) .pdf",
    "/in/.hidden",
]


def test_hostile_names_stay_inside_and_apart(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "below" / "out"
    for path in HOSTILE:
        archive.file(path.replace("\0", "\ufffd"), [f"text of {path!r}"])
    assert export(archive.db, out, "markdown").files == len(HOSTILE)
    written = files(tmp_path)
    assert len(written) == len(HOSTILE) and all(name.startswith("below/out/") for name in written)
    for path in HOSTILE:
        assert sum(f"text of {path!r}\n" in text for text in written.values()) == 1
    assert "below/out/%2E%2E/%2E%2E/etc/passwd.md" in written and "below/out/_CON.pdf.md" in written
    again = files(tmp_path)
    export(archive.db, out, "markdown")
    assert files(tmp_path) == again  # the same names the second time


def test_a_link_that_leads_out_is_not_followed(archive: Archive, tmp_path: Path) -> None:
    archive.file("/in/sub/a.pdf", ["text"])
    archive.file("/in/b.pdf", ["text"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        export(archive.db, tmp_path / "out", "markdown")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@given(st.lists(st.text(max_size=30).map(lambda tail: f"/in/{tail}"), min_size=1, max_size=10, unique=True))
def test_any_names_stay_inside_and_apart(paths: list[str]) -> None:
    paths.sort()
    root = shared_folder(paths[0], paths[-1])
    assert all(path.startswith(root) for path in paths) and (root == "" or root.endswith("/"))
    targets = Targets(Path("/nonexistent/out"), root)
    seen = set()
    for path in paths:
        target = targets.of(path)
        assert target.is_relative_to("/nonexistent/out") and ".." not in target.parts
        assert all(len(part.encode()) <= 255 for part in target.parts)
        assert str(target).casefold() not in seen and "\0" not in str(target)
        seen.add(str(target).casefold())


def test_names_of_what_is_written_are_kept_outside_of_memory() -> None:
    """A set of them took 160 bytes a document, and a folder for each document's pages as much again and more."""
    targets = Targets(Path("/nonexistent/out"), "/in/", ".alto")
    (cache,) = targets._names.execute("PRAGMA cache_size").fetchone()
    assert cache == -8_000, "kilobytes; the rest is on the disk"
    tracemalloc.start()
    for number in range(4_000):
        targets.within(targets.of(f"/in/{number // 10}/{number}.pdf"), "00001.xml")
    traces = tracemalloc.take_snapshot().traces
    tracemalloc.stop()
    # Python's table of all names, made anew, is larger; a set of 4,000 names is 0.26 MB beside its strings.
    held = sum(trace.size for trace in traces if trace.size < 1e6)
    assert held < 700_000, "1,000 folders are kept, 4,000 documents are not"
    assert "_renamed" in targets.of("/in/7/70.PDF").parts  # and remembered


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..") and not set(safe) & set("/\\\0\n\r\x1b") and len(safe.encode()) <= 240
