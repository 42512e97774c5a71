"""What is forgotten is gone from every table, and from the bytes of a SQLite file; what others have stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.blobs.page_images import ImageStore, open_images
from pipeline.database.engine import Database
from pipeline.database.home import HomeLock
from pipeline.database.open import open_database
from pipeline.database.remains import has_remains
from pipeline.database.roles import create_roles
from pipeline.documents.files import display, on_disk
from pipeline.documents.inputs import InputCopies
from pipeline.errors import NothingToDo, PageFailed, Unavailable, UsageError
from pipeline.ingest.forget import find_known, forget
from pipeline.ingest.prune import find_gone
from pipeline.ingest.submission import open_named_batch
from pipeline.query.search import find
from pipeline.settings import Settings
from pipeline.store.batch_states import pause_batch
from pipeline.store.batches import mark_all_seen
from pipeline.store.forget_plan import plan
from pipeline.store.pages import NewPage
from pipeline.store.retention import sweep_images
from pipeline.store.seen import mark_seen
from pipeline.store.sources import SeenFile, record_files
from schemas import evaluation_tables, worker_tables  # noqa: F401 (their tables are to be known)
from schemas.base import Base
from schemas.prompts import DESCRIBE, OCR, question_prompt
from tests.conftest import LIMITS, Archive, answer, complete_page, reuse_answers, sha
from tests.database.test_batch_states import notified
from tests.postgres import PostgresServer
from tests.processes.test_look_commands import on_a_terminal
from tests.running import call

DATABASES = ("sqlite", "postgresql")


@pytest.fixture
def images(settings: Settings) -> ImageStore:
    return open_images(settings)


class Drawn(Archive):
    """With the images that it says its pages have."""

    images: ImageStore

    def ingest(self, document_id: int, pages: Sequence[NewPage | str]) -> list[int]:
        for page in pages:
            image_hash = sha(page) if isinstance(page, str) else page.image_hash
            if image_hash is not None:
                self.images.put(b"", image_hash)
        return super().ingest(document_id, pages)


@pytest.fixture
def archive(db: Database, images: ImageStore) -> Archive:
    drawn = Drawn(db)
    drawn.images = images
    return drawn


def read_file(
    archive: Archive, images: ImageStore, path: str, content: str, texts: list[str], batch: str = "b"
) -> None:
    """A whole document, whose page images are named by its texts, with each text as the PDF's own too."""
    document_id = archive.see(path, content, batch=batch)
    assert document_id is not None
    pages = [NewPage(index, sha(text), 16, 16, text_layer=f"typed {text}") for index, text in enumerate(texts)]
    for text in texts:
        images.put(b"", sha(text))
    for page_id, text in zip(archive.ingest(document_id, pages), texts, strict=True):
        archive.read(page_id, text)


def forgotten(archive: Archive, settings: Settings, *paths: str) -> None:
    forget(archive.db, settings, plan(archive.db, find_known(archive.db, paths)))


def at(settings: Settings) -> dict[str, str]:
    """The variables of a command that works on this database."""
    home = {"PAGEPACK_HOME": str(settings.home)}
    return home if settings.database_url is None else home | {"PAGEPACK_DATABASE_URL": settings.database_url}


def rows(archive: Archive) -> dict[str, int]:
    """Table → number of its rows, of all that may hold some of a document."""
    rest = {"batches", "batch_prompts", "prompt_versions", "search_index"}
    tables = set(Base.metadata.tables) - rest | {"page_search"}
    return {table: archive.scalar(f"SELECT count(*) FROM {table}") for table in sorted(tables)}


def kept(images: ImageStore) -> set[str]:
    return {path.stem for path in images.root.rglob("*.png")}


def test_nothing_of_a_file_is_left_in_any_table(archive: Archive, settings: Settings, images: ImageStore) -> None:
    notified(archive)
    read_file(archive, images, "/in/keep.pdf", "keep", ["kept words"], "told")
    archive.finish("told")
    before, shown = rows(archive), archive.rows("SELECT * FROM page_text")
    archive.batch("told", prompts=[OCR, DESCRIBE])
    for path in ("/in/a.pdf", "/in/keep.pdf"):
        document_id = archive.see(path, path if path == "/in/a.pdf" else "keep", batch="told")
    read_file(archive, images, "/in/b.pdf", "b", ["secret one", "secret two"], "other")
    bad = archive.ingest(
        archive.see("/in/a.pdf", "/in/a.pdf", "told") or 0, ["x", NewPage(1, error=PageFailed("secret"))]
    )
    archive.read(bad[0], PageFailed("secret", cause="timeout"))
    archive.see("/in/secret.txt", batch="other", rejection="unsupported")
    assert mark_seen(archive.db, *archive.rows("SELECT page_id, answer_id FROM current_answers ORDER BY 1 DESC")[0])
    assert document_id and rows(archive) != before
    pause_batch(archive.db, archive.batches["told"].id)
    archive.finish("other")
    forgotten(archive, settings, "/in/a.pdf", "/in/b.pdf", "/in/secret.txt")
    after = rows(archive)
    assert after == before | {table: after[table] for table in ("page_tasks", "notices")}
    assert archive.rows("SELECT * FROM page_text") == shown
    assert archive.scalar("SELECT count(*) FROM page_tasks t JOIN pages p ON p.id = t.page_id") == after["page_tasks"]
    assert [hit.source_path for hit in find(archive.db, "words").hits] == ["/in/keep.pdf"]
    assert find(archive.db, "secret").hits == [] and kept(images) == {sha("kept words")}


def found_in_file(settings: Settings, *words: str) -> dict[str, bool]:
    """Whether the bytes of the database's files hold these words."""
    data = b"".join(path.read_bytes() for path in settings.home.glob("pagepack.db*"))
    return {word: word.encode() in data for word in words}


@pytest.mark.only("sqlite")
def test_the_files_bytes_hold_no_word_of_it(archive: Archive, settings: Settings, images: ImageStore) -> None:
    archive.db.dispose()  # Debian's SQLite overwrites what is deleted, that of others does not
    sa.event.listen(archive.db.engine, "connect", lambda opened, _: opened.execute("PRAGMA secure_delete = OFF"))
    read_file(archive, images, "/in/keep.pdf", "keep", ["marigold tides"])
    for index in range(30):  # so that the index of words is merged, and pages of the file are freed
        read_file(archive, images, f"/in/{index}.pdf", f"{index}", [f"xanthippe{index} " * 300, f"melusine {index}"])
    archive.finish()

    words = ("marigold", "xanthippe", "melusine")
    assert all(found_in_file(settings, *words).values())
    archive.execute("DELETE FROM page_search WHERE rowid IN (SELECT id FROM answer_versions WHERE text LIKE '%xanth%')")
    assert found_in_file(settings, "xanthippe")["xanthippe"], "a deletion alone leaves it"
    paths = [f"/in/{index}.pdf" for index in range(30)]
    forgotten(archive, settings, *paths)
    assert found_in_file(settings, *words) == {"marigold": True, "xanthippe": False, "melusine": False}
    assert not has_remains(archive.db) and archive.rows("PRAGMA integrity_check") == [("ok",)]
    archive.db.dispose()
    assert found_in_file(settings, *words) == {"marigold": True, "xanthippe": False, "melusine": False}
    assert [hit.source_path for hit in find(archive.db, "marigold").hits] == ["/in/keep.pdf"]


@pytest.mark.only("sqlite")
def test_a_wipe_that_a_reader_prevents_is_made_up_for(
    archive: Archive, settings: Settings, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["xanthippe " * 2_000])
    archive.finish()
    monkeypatch.setattr("pipeline.database.sqlite.BUSY_TIMEOUT_MS", 100)
    impatient = open_database(settings)
    with archive.db.read() as reader:
        assert reader.execute(sa.text("SELECT count(*) FROM sources")).scalar() == 1
        with pytest.raises(Unavailable, match="is read by another process, so remains of what was forgotten stay"):
            forgotten(Archive(impatient), settings, "/in/a.pdf")
    assert archive.rows("SELECT * FROM sources") == [] and has_remains(archive.db)
    assert found_in_file(settings, "xanthippe") == {"xanthippe": True}
    again = call("forget", "/in/a.pdf", "--home", settings.home)
    assert again.returncode == 3 and "wiped what an earlier call left" in again.stderr
    assert "no file was ever seen at /in/a.pdf" in again.stderr
    assert found_in_file(settings, "xanthippe") == {"xanthippe": False} and not has_remains(archive.db)
    impatient.dispose()


def test_content_at_two_paths_goes_with_the_second(archive: Archive, settings: Settings, images: ImageStore) -> None:
    read_file(archive, images, "/in/a.pdf", "same", ["the words"])
    archive.see("/in/copy.pdf", "same", batch="second")
    for batch in ("b", "second"):
        archive.finish(batch)
    made = plan(archive.db, find_known(archive.db, ["/in/a.pdf"]))
    assert made.kept == {"/in/a.pdf": "/in/copy.pdf"} and made.documents == [] and made.num_images == 0
    forgotten(archive, settings, "/in/a.pdf")
    assert archive.rows("SELECT source_path, text FROM page_text") == [("/in/copy.pdf", "the words")]
    assert [hit.source_path for hit in find(archive.db, "words").hits] == ["/in/copy.pdf"] and kept(images)
    forgotten(archive, settings, "/in/copy.pdf")
    assert archive.rows("SELECT * FROM answer_versions") == [] and not kept(images)


def test_content_that_a_batch_saw_at_another_path_stays(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/a.pdf", "same", ["the words"])
    archive.see("/in/b.pdf", "same", batch="old")
    archive.see("/in/b.pdf", "other by now", batch="new")
    for batch in ("b", "old", "new"):
        archive.finish(batch)
    pause_batch(archive.db, archive.batches["new"].id)
    forgotten(archive, settings, "/in/a.pdf")
    assert archive.scalar("SELECT count(*) FROM pages") == 1, "the batch `old` has it at /in/b.pdf"
    forgotten(archive, settings, "/in/b.pdf")
    assert archive.scalar("SELECT count(*) FROM documents") == 0


def test_a_page_that_looks_the_same_keeps_its_image_and_its_answer(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["blank", "own"])
    document_id = archive.see("/in/b.pdf", "b", batch="second") or 0
    archive.ingest(document_id, ["blank"])
    archive.finish()
    archive.batch("typed", text_layer="always")
    archive.see("/in/a.pdf", "a", batch="typed")
    archive.finish("typed")
    assert archive.scalar("SELECT count(*) FROM answer_versions") == 4
    forgotten(archive, settings, "/in/a.pdf")
    # A text that a PDF carried is not in the image that other pages share.
    assert archive.rows("SELECT text FROM answer_versions") == [("blank",)] and kept(images) == {sha("blank")}
    claim = archive.claim(archive.scalar("SELECT id FROM pages"))
    assert claim is not None
    reuse = {task.task_id: archive.scalar("SELECT id FROM answer_versions") for task in claim.tasks}
    reuse_answers(archive.db, claim, reuse)
    assert archive.finish("second") and [hit.source_path for hit in find(archive.db, "blank").hits] == ["/in/b.pdf"]


def test_older_contents_of_a_file_go_with_it(archive: Archive, settings: Settings, images: ImageStore) -> None:
    read_file(archive, images, "/in/a.pdf", "then", ["secret of then"])
    read_file(archive, images, "/in/a.pdf", "now", ["secret of now"])
    archive.finish()
    assert archive.scalar("SELECT count(*) FROM documents") == 2
    forgotten(archive, settings, "/in/a.pdf")
    assert archive.rows("SELECT text FROM answer_versions") == [] == archive.rows("SELECT id FROM documents")
    assert not kept(images)


def test_older_contents_of_other_files_stay_until_a_prune(
    archive: Archive, settings: Settings, images: ImageStore, tmp_path: Path
) -> None:
    a, c = (str(tmp_path / name) for name in ("a.pdf", "c.pdf"))
    read_file(archive, images, a, "a", ["text of a"])
    read_file(archive, images, c, "c", ["text of c"])
    archive.see(c, rejection="empty")
    archive.finish()
    said = call("forget", a, **at(settings))
    prune = "prune" if archive.db.dialect == "sqlite" else "prune FOLDER"
    assert said.returncode == 0 and said.stdout.splitlines()[-2:] == [
        "forgotten: 1 file, 1 document, 1 page, 1 page image",
        "kept, for nobody can tell which file's: 1 older content of files that have changed since; "
        f"`pagepack {prune}` forgets all such",
    ]
    archive.see(c, "c")
    assert archive.finish(), "whole again, and read already"
    assert archive.rows("SELECT source_path, text FROM page_text") == [(c, "text of c")] and kept(images)

    archive.see(c, "other by now")
    (tmp_path / "c.pdf").write_text("other by now")
    pause_batch(archive.db, archive.batches["b"].id)
    dry = call("prune", tmp_path, "--dry-run", **at(settings))
    assert dry.stdout.splitlines() == [
        "would be forgotten: 0 files, 1 document, 1 page, 1 page image",
        "with 1 older content of files that have changed since",
    ]
    told = json.loads(call("prune", tmp_path, "--yes", "--json", **at(settings)).stdout)
    assert told["files"] == 0 and told["older_documents"] == 1 and told["older_documents_kept"] == 0
    assert archive.rows("SELECT * FROM answer_versions") == [] and not kept(images)
    assert archive.rows("SELECT path FROM sources") == [(c,)]
    assert "nothing to prune" in call("prune", tmp_path, "--yes", **at(settings)).stdout


def test_a_folder_is_all_below_it_and_no_neighbour(archive: Archive, settings: Settings, images: ImageStore) -> None:
    stay = ["/in/ab.pdf", "/in/a.pdf", "/in/a0/x.pdf", "/in/a-/x.pdf", "/in/_/x.pdf", "/in/A/x.pdf"]
    for path in ["/in/a/x.pdf", "/in/a/b/y.pdf", "/in/a/é.pdf", "/in/%/x.pdf", "s3://bucket/a/x.pdf", *stay]:
        archive.file(path, [path])
    archive.finish()
    forgotten(archive, settings, "/in/a/", "/in/%", "s3://bucket/a/")
    assert [path for (path,) in archive.rows("SELECT path FROM sources ORDER BY id")] == stay
    with pytest.raises(NothingToDo, match="no file was ever seen at /in/none; nothing was forgotten"):
        forgotten(archive, settings, "/in/ab.pdf", "/in/none")
    assert len(archive.rows("SELECT path FROM sources")) == len(stay)


def test_odd_names_are_found_as_given_and_as_shown(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    for name in (b"caf\xe9.pdf", b"back\\x41slash.pdf", b"tw\\x5cice.pdf"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        assert on_disk(display(path)) == path
        for given in (path, display(path)):
            archive.file(display(path), [name.hex()])
            assert archive.finish()
            forgotten(archive, settings, given)
            assert archive.rows("SELECT * FROM sources") == []


def test_counts_of_a_finished_batch_no_longer_hold_it(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["x", "y"])
    archive.file("/in/b.pdf", ["z"])
    archive.finish()
    forgotten(archive, settings, "/in/a.pdf")
    counts = "SELECT state, files_seen, files_done, pages_total, pages_done FROM batch_summary"
    assert archive.rows(counts) == [("finished", 1, 1, 1, 1)]


def test_what_is_seen_again_is_read_again(archive: Archive, settings: Settings, images: ImageStore) -> None:
    for text in ("first", "second"):
        read_file(archive, images, "/in/a.pdf", "same", ["page"])
        archive.finish()
        assert archive.rows("SELECT source_path, text FROM page_text") == [("/in/a.pdf", "page")], text
        forgotten(archive, settings, "/in/a.pdf")
        assert archive.rows("SELECT * FROM page_text") == []


def test_nothing_is_taken_from_a_running_batch_nor_from_a_workers_hands(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/done.pdf", "d", ["done"])
    waiting = archive.ingest(archive.see("/in/a.pdf") or 0, ["x", "y"])
    before = rows(archive)
    batch = archive.batches["b"]
    refusal = rf"batch b \({batch.public_id}\) is running and holds /in/done.pdf; .*pagepack cancel {batch.public_id}"
    with pytest.raises(UsageError, match=refusal):
        forgotten(archive, settings, "/in/done.pdf")
    claim = archive.claim(waiting[0])
    assert claim and pause_batch(archive.db, batch.id)
    with pytest.raises(UsageError, match=r"a worker has pages of /in/a.pdf in hand; try again"):
        forgotten(archive, settings, "/in")
    made = plan(archive.db, find_known(archive.db, ["/in"]))
    assert rows(archive) == before and kept(images) == {sha("done"), sha("x"), sha("y")}
    archive.execute("UPDATE page_tasks SET lease_until = 1 WHERE state = 'leased'")  # its worker was killed
    forgotten(archive, settings, "/in")
    assert set(rows(archive).values()) == {0} and made.in_use
    said = {task.task_id: answer("late") for task in claim.tasks}
    assert complete_page(archive.db, claim, "read/1", said, LIMITS) == 0, "its late write is fenced off"
    assert archive.rows("SELECT * FROM answer_versions") == []


def test_a_batch_that_starts_between_plan_and_deletion_keeps_its_file(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["words"])
    archive.finish()
    made = plan(archive.db, find_known(archive.db, ["/in/a.pdf"]))
    assert made.in_use is None
    archive.see("/in/copy.pdf", "a", batch="late")
    forget(archive.db, settings, made)
    assert archive.rows("SELECT source_path, text FROM page_text") == [("/in/copy.pdf", "words")]
    made = plan(archive.db, {archive.scalar("SELECT id FROM sources"): "/in/copy.pdf"})
    assert made.in_use and "batch late" in made.in_use
    with pytest.raises(UsageError, match="batch late"):
        forget(archive.db, settings, replace(made, in_use=None))
    assert archive.rows("SELECT source_path, text FROM page_text") == [("/in/copy.pdf", "words")]


@pytest.mark.only("sqlite")
def test_nobody_else_works_in_the_home_meanwhile(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["x"])
    archive.finish()
    with HomeLock(settings.home, "pagepack worker"):
        refused = call("forget", "/in/a.pdf", "--home", settings.home)
        assert refused.returncode == 2 and "is in use by `pagepack worker` with process id" in refused.stderr
        assert "stop that first, or wait until it ends" in refused.stderr
        assert call("forget", "/in/a.pdf", "--home", settings.home, "--dry-run").returncode == 0
    assert call("forget", "/in/a.pdf", "--home", settings.home).returncode == 0


def test_images_that_lie_elsewhere_stop_it(
    archive: Archive, settings: Settings, images: ImageStore, tmp_path: Path
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["secret one", "secret two"])
    read_file(archive, images, "/in/typed.pdf", "typed", [])
    archive.finish()
    before, there = rows(archive), kept(images)
    ImageStore(tmp_path / "others").put(b"", sha("another page"))
    said = f"2 page images would go, of which none lies in {tmp_path}/others; set PAGEPACK_HOME or PAGEPACK_IMAGES_URL"
    with pytest.raises(UsageError, match=said):
        forgotten(archive, settings.model_copy(update={"images_url": f"{tmp_path}/others"}), "/in/a.pdf")
    variables = at(settings) | {"PAGEPACK_IMAGES_URL": f"{tmp_path}/nowhere"}
    refused = call("forget", "/in/a.pdf", **variables)
    assert refused.returncode == 2 and f"none lies in {tmp_path}/nowhere" in refused.stderr
    dry = call("forget", "/in/a.pdf", "--dry-run", **variables)
    assert dry.returncode == 0 and "now it would be refused: 2 page images would go" in dry.stderr
    assert rows(archive) == before and kept(images) == there == {sha("secret one"), sha("secret two")}
    assert call("forget", "/in/typed.pdf", **variables).returncode == 0, "which has none"

    images.delete(sha("secret one"))
    forgotten(archive, settings, "/in/a.pdf")
    assert not kept(images), "one of them lay there"


def test_images_that_are_lost_are_marked_so_and_stop_it_no_more(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["words"])
    archive.finish()
    shutil.rmtree(images.root)
    with pytest.raises(UsageError, match=r"1 page image would go, .*PAGEPACK_KEEP_IMAGES=until-read marks"):
        forgotten(archive, settings, "/in/a.pdf")
    assert sweep_images(archive.db, settings.model_copy(update={"keep_images": "until-read"})) == 1
    forgotten(archive, settings, "/in/a.pdf")
    assert archive.rows("SELECT * FROM sources") == []


@pytest.mark.only("postgresql")
def test_beside_a_server_it_takes_the_home_where_the_images_are(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    read_file(archive, images, "/in/a.pdf", "a", ["words"])
    archive.finish()
    assert settings.database_url
    done = call("forget", "/in/a.pdf", "--home", settings.home, PAGEPACK_DATABASE_URL=settings.database_url)
    assert done.returncode == 0, done.stderr
    assert f"--home {settings.home} is for logs and page images" in done.stderr
    assert not kept(images) and archive.rows("SELECT * FROM sources") == []


def test_a_call_that_died_on_its_way_is_finished_by_the_next(
    archive: Archive, settings: Settings, images: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        read_file(archive, images, f"/in/{name}.pdf", name, [f"text of {name}"])
    archive.finish()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("store.forget.forget_documents", "store.forget.forget_sources", "ingest.forget.has_remains"):
        with monkeypatch.context() as patched:
            patched.setattr(f"pipeline.{step}", dies)
            with pytest.raises(KeyboardInterrupt):
                forgotten(archive, settings, "/in")
    assert archive.rows("SELECT * FROM sources") == [] == archive.rows("SELECT * FROM documents")
    assert has_remains(archive.db) == (archive.db.dialect == "sqlite") and not kept(images)


def test_copies_of_inputs_go_too(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    content = tmp_path / "a.pdf"
    content.write_bytes(b"%PDF- secret")
    hashed, url = sha256(content.read_bytes()).hexdigest(), f"file://{tmp_path}/copies"
    (tmp_path / "copies").mkdir()
    copies = InputCopies(url)
    status = content.stat()
    copies.put(str(content), "pdf", hashed, status.st_size, status.st_mtime_ns)
    seen = SeenFile(str(content), copies.location("pdf", hashed), status.st_size, status.st_mtime_ns, "pdf", hashed)
    batch = archive.batch()
    record_files(archive.db, batch, [seen])
    pause_batch(archive.db, batch.id)
    assert list((tmp_path / "copies").rglob("*.pdf"))
    forgotten(archive, settings.model_copy(update={"inputs_url": url}), str(content))
    assert not list((tmp_path / "copies").rglob("*.pdf")) and content.exists()


def copy_input(archive: Archive, folder: Path, name: str, content: str) -> tuple[Path, str]:
    """A file that was registered with its copy at `folder`/copies, and the copy's URL."""
    file, url = folder / name, f"file://{folder}/copies"
    file.write_text(f"%PDF- {content}")
    hashed, status, copies = sha(file.read_text()), file.stat(), InputCopies(url)
    (folder / "copies").mkdir(exist_ok=True)
    copies.put(str(file), "pdf", hashed, status.st_size, status.st_mtime_ns)
    seen = SeenFile(str(file), copies.location("pdf", hashed), status.st_size, status.st_mtime_ns, "pdf", hashed)
    record_files(archive.db, archive.batch(), [seen])
    archive.ingest(archive.scalar("SELECT id FROM documents WHERE content_hash = :h", h=hashed), [])
    return file, url


def test_copies_of_older_contents_go_too(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    copy_input(archive, tmp_path, "a.pdf", "then")
    file, url = copy_input(archive, tmp_path, "a.pdf", "now")
    assert len(list((tmp_path / "copies").rglob("*.pdf"))) == 2 and archive.finish()
    forgotten(archive, settings.model_copy(update={"inputs_url": url}), str(file))
    assert not list((tmp_path / "copies").rglob("*.pdf"))


def test_what_has_come_up_since_the_plan_keeps_its_image_and_its_copy(
    archive: Archive, settings: Settings, images: ImageStore, tmp_path: Path
) -> None:
    read_file(archive, images, "/in/shows the same.pdf", "b", ["words"])
    file, url = copy_input(archive, tmp_path, "a.pdf", "words")
    read_file(archive, images, "/in/c.pdf", "c", ["words"])
    archive.finish()
    made = plan(archive.db, find_known(archive.db, [tmp_path, "/in"]))
    document = archive.scalar("SELECT document_id FROM sources WHERE path = :path", path=str(file))
    for other, content in (("/late/a.pdf", file.read_text()), ("/late/c.pdf", "c")):
        archive.see(other, content, batch="late")
    forget(archive.db, settings.model_copy(update={"inputs_url": url}), made)
    assert archive.scalar("SELECT count(*) FROM documents WHERE id = :id", id=document) == 1
    assert len(list((tmp_path / "copies").rglob("*.pdf"))) == 1
    assert archive.rows("SELECT source_path, text FROM page_text") == [("/late/c.pdf", "words")]
    assert kept(images) == {sha("words")}, "one that goes shows it, and one that stays"


@pytest.mark.only("postgresql")
def test_the_owners_members_forget_and_nobody_else(
    archive: Archive, settings: Settings, images: ImageStore, postgres: PostgresServer
) -> None:
    create_roles(archive.db)
    read_file(archive, images, "/in/a.pdf", "a", ["words"])
    archive.finish()
    for role in ("owner", "ingest"):
        if not postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = 'a_{role}'"):
            postgres.execute(f"CREATE ROLE a_{role} LOGIN IN ROLE pagepack_{role}")
    of = {role: postgres.url(archive.db.engine.url.database or "", user=f"a_{role}") for role in ("owner", "ingest")}
    home = str(settings.home)
    refused = call("forget", "/in/a.pdf", PAGEPACK_HOME=home, PAGEPACK_DATABASE_URL=of["ingest"])
    assert refused.returncode == 2 and "log in as the tables' owner, or as a member of pagepack_owner" in refused.stderr
    assert kept(images) and archive.rows("SELECT text FROM page_text") == [("words",)]
    done = call("forget", "/in/a.pdf", PAGEPACK_HOME=home, PAGEPACK_DATABASE_URL=of["owner"])
    assert done.returncode == 0 and "until VACUUM, and in logs and backups" in done.stderr, done.stderr
    assert archive.rows("SELECT * FROM answer_versions") == [] and not kept(images)


@pytest.mark.only("postgresql")
def test_a_run_beside_it_goes_on(archive: Archive, settings: Settings, images: ImageStore) -> None:
    """Other files are registered, drawn and read while some are forgotten; nobody waits for ever, nothing is lost."""
    for index in range(40):
        read_file(archive, images, f"/old/{index}.pdf", f"old {index}", [f"old {index}", "the same blank page"])
    archive.finish()
    errors: list[BaseException] = []

    def reads(worker: int) -> None:
        beside = Archive(open_database(settings))
        try:
            for index in range(25):
                path = f"/new/{worker}/{index}.pdf"
                read_file(beside, images, path, path, [path, f"blank of {worker}"], f"new {worker}")
            beside.finish(f"new {worker}")
        except BaseException as error:
            errors.append(error)
        finally:
            beside.db.dispose()

    threads = [threading.Thread(target=reads, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for index in range(40):
        forgotten(archive, settings, f"/old/{index}.pdf")
    for thread in threads:
        thread.join()
    assert errors == []
    assert archive.scalar("SELECT count(*) FROM page_text") == 100
    assert archive.scalar("SELECT count(*) FROM answer_versions") == 52
    assert archive.scalar("SELECT count(*) FROM sources WHERE path LIKE '/old/%'") == 0


def test_the_command_says_what_goes_and_what_went(archive: Archive, settings: Settings, images: ImageStore) -> None:
    for index in range(12):
        read_file(archive, images, f"/in/{index:02}.pdf", f"{index}", [f"text {index}", "blank"])
    archive.see("/else/copy.pdf", "3")
    url = at(settings)
    before = rows(archive), kept(images)
    dry = call("forget", "/in", "--dry-run", **url)
    assert dry.returncode == 0 and (rows(archive), kept(images)) == before
    assert dry.stdout.splitlines() == [
        *(f"  /in/{index:02}.pdf" for index in range(10)),
        "  … and 2 more",
        "would be forgotten: 12 files, 11 documents, 22 pages, 11 page images",
        "kept, for it lies at another path too: the text of 1 file, such as /in/03.pdf (also /else/copy.pdf)",
    ]
    assert "now it would be refused: batch b" in dry.stderr
    archive.finish()
    done = call("forget", "/in", "--json", **url)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["kept"] == {"/in/03.pdf": "/else/copy.pdf"}
    assert [told[name] for name in ("files", "documents", "pages", "page_images")] == [12, 11, 22, 11]
    assert kept(images) == {sha("text 3"), sha("blank")}
    assert archive.rows("SELECT DISTINCT source_path FROM page_text") == [("/else/copy.pdf",)]
    gone = call("forget", "/in", **url)
    assert gone.returncode == 3 and "no file was ever seen at /in; nothing was forgotten" in gone.stderr


def test_the_names_of_files_go_with_the_last_file_of_a_batch(
    archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    asked = (archive.db, settings, [tmp_path / "divorce.pdf"], [OCR])
    by_paths = open_named_batch(*asked, None, "e", "m1", command=["pagepack", "run", "divorce.pdf"])
    named = open_named_batch(*asked, "1913", "e", "m1", command=["pagepack", "run", "divorce.pdf", "--batch", "1913"])
    archive.batches |= {"paths": by_paths, "named": named}
    archive.file(str(tmp_path / "divorce.pdf"), ["text"], batch="paths")
    archive.see(str(tmp_path / "divorce.pdf"), batch="named")
    for batch in ("paths", "named"):
        mark_all_seen(archive.db, archive.batches[batch])
        assert archive.finish(batch)
    assert by_paths.name == "divorce.pdf"
    forgotten(archive, settings, str(tmp_path / "divorce.pdf"))
    kept_words = archive.rows("SELECT name, command FROM batches ORDER BY id")
    assert kept_words == [("forgotten", None), ("1913", None)]
    again = open_named_batch(*asked, None, "e", "m1")
    assert again.id != by_paths.id and again.name == "divorce.pdf"


def test_the_names_of_files_go_with_them_or_not_at_all(
    archive: Archive, settings: Settings, images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "divorce.pdf"
    archive.batches["b"] = open_named_batch(
        archive.db, settings, [path], [OCR], None, "e", "m1", command=["pagepack", "run", "divorce.pdf"]
    )
    read_file(archive, images, str(path), "a", ["words"])
    mark_all_seen(archive.db, archive.batches["b"])
    assert archive.finish()
    write = archive.db.write

    @contextlib.contextmanager
    def dies_once_the_path_is_gone() -> Iterator[sa.Connection]:
        if archive.rows("SELECT 1 FROM sources") == []:
            raise KeyboardInterrupt
        with write() as connection:
            yield connection

    monkeypatch.setattr(archive.db, "write", dies_once_the_path_is_gone)
    with contextlib.suppress(KeyboardInterrupt):
        forgotten(archive, settings, str(path))
    assert archive.rows("SELECT name, command FROM batches") == [("forgotten", None)]


def test_a_batch_that_was_paused_for_it_loses_its_name_too(
    archive: Archive, settings: Settings, images: ImageStore, tmp_path: Path
) -> None:
    for name in ("paused.pdf", "being seen.pdf"):
        archive.batches[name] = open_named_batch(
            archive.db, settings, [tmp_path / name], [OCR], None, "e", "m1", command=["pagepack", "run", name]
        )
        read_file(archive, images, str(tmp_path / name), name, [name], batch=name)
    mark_all_seen(archive.db, archive.batches["paused.pdf"])
    with pytest.raises(UsageError, match="`pagepack pause"):
        forgotten(archive, settings, str(tmp_path / "paused.pdf"))
    for batch in archive.batches.values():
        pause_batch(archive.db, batch.id)
        forgotten(archive, settings, str(tmp_path / batch.name))
    names = archive.rows("SELECT name, command IS NULL FROM batches ORDER BY id")
    assert names == [("forgotten", True), ("being seen.pdf", False)], "which may yet register some"


def test_a_question_goes_with_the_last_file_that_it_was_asked_of(
    archive: Archive, settings: Settings, images: ImageStore
) -> None:
    asked = {"a": ["a.pdf"], "both": ["a.pdf", "b.pdf"], "named": ["a.pdf"]}
    for name, files in asked.items():
        prompt, files = question_prompt(f"Who is {name}?"), [f"/in/{file}" for file in files]
        archive.batches[name] = open_named_batch(
            archive.db, settings, files, [prompt], "b" if name == "named" else None, "e", "m1", is_question=True
        )
        for file in files:
            document_id = archive.see(file, batch=name)
            waiting = archive.waiting(document_id or 0) or archive.ingest(document_id or 0, [file])
            archive.read(waiting[0], f"it is {name}")
        mark_all_seen(archive.db, archive.batches[name])
        assert archive.finish(name)
    forgotten(archive, settings, "/in/a.pdf")
    asked_yet = archive.rows("SELECT text FROM prompt_versions WHERE name LIKE 'ask: %' ORDER BY text")
    assert asked_yet == [("Who is both?",), ("Who is named?",)], "what has a name that was given stays as it is"
    assert call("batches", **at(settings)).returncode == 0
    forgotten(archive, settings, "/in/b.pdf")
    assert archive.rows("SELECT text FROM prompt_versions WHERE name LIKE 'ask: %'") == [("Who is named?",)]
    assert archive.rows("SELECT name, state FROM batches ORDER BY id")[:2] == [("forgotten", "finished")] * 2


# Prune


def on_a_disk(archive: Archive, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
        archive.file(display(str(folder / name)), [name])
    archive.finish()


def paths(archive: Archive, folder: Path) -> list[str]:
    return [path.removeprefix(f"{folder}/") for (path,) in archive.rows("SELECT path FROM sources ORDER BY path")]


def test_prune_forgets_what_is_gone_below_a_folder(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    on_a_disk(archive, folder, "a.pdf", "gone.pdf", "sub/gone too.pdf", "caf\udce9.pdf", "dangling.pdf", "stays/x.pdf")
    archive.file("s3://bucket/a.pdf", ["far away"])
    archive.finish()
    on_a_disk(archive, tmp_path / "other", "gone elsewhere.pdf")
    for gone in ("in/gone.pdf", "in/sub/gone too.pdf", "other/gone elsewhere.pdf", "in/dangling.pdf"):
        (tmp_path / gone).unlink()
    (folder / "sub").rmdir()
    (folder / "dangling.pdf").symlink_to("nowhere")
    url = at(settings)
    command = ("prune", folder)
    dry = call(*command, "--dry-run", **url)
    assert dry.returncode == 0 and "would be forgotten: 3 files, 3 documents, 3 pages" in dry.stdout
    nobody = call(*command, **url)
    assert nobody.returncode == 2 and "--yes answers" in nobody.stderr and len(paths(archive, folder)) == 8
    assert call(*command, "--yes", **url).returncode == 0
    stay = ["a.pdf", "caf\\xe9.pdf", "stays/x.pdf", str(tmp_path / "other/gone elsewhere.pdf"), "s3://bucket/a.pdf"]
    assert set(paths(archive, folder)) == set(stay)
    again = call(*command, "--yes", **url)
    assert again.returncode == 0 and again.stdout == "no file is gone from the disk; nothing to prune\n"


def test_prune_takes_a_missing_or_empty_folder_for_a_disk_that_is_not_there(
    archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    on_a_disk(archive, folder, "a.pdf", "b.pdf")
    for unlinked in ("a.pdf", "b.pdf"):
        (folder / unlinked).unlink()
    refusal = "missing or empty: is a disk not mounted\\? Nothing was pruned; `pagepack forget"
    with pytest.raises(UsageError, match=refusal):
        find_gone(archive.db, [folder])
    folder.rmdir()
    with pytest.raises(UsageError, match=refusal):
        find_gone(archive.db, [folder])
    with pytest.raises(UsageError, match="is no folder on a disk"):
        find_gone(archive.db, ["s3://bucket/a"])
    assert len(find_gone(archive.db, [tmp_path])) == 2


def test_prune_takes_an_empty_folder_below_for_a_disk_that_is_not_there(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    on_a_disk(archive, folder, "a.pdf", "disk/b.pdf", "disk/sub/c.pdf", "gone/d.pdf")
    for name in ("disk/b.pdf", "disk/sub/c.pdf", "gone/d.pdf"):
        (folder / name).unlink()
    (folder / "disk/sub").rmdir()
    (folder / "gone").rmdir()
    (folder / "gone").symlink_to(folder / "gone before")
    refusal = rf"^{folder}/disk is empty: is a disk not mounted\? Nothing was pruned; .*`pagepack forget {folder}/disk`"
    with pytest.raises(UsageError, match=refusal):
        find_gone(archive.db, [folder])
    (folder / "disk").rmdir()
    assert len(find_gone(archive.db, [folder])) == 3


@pytest.mark.parametrize("given", ["link.pdf", "link"])
def test_prune_takes_a_link_that_leads_nowhere_for_a_disk_that_is_not_there(
    archive: Archive, tmp_path: Path, given: str
) -> None:
    folder, disk = tmp_path / "all", tmp_path / "mnt/disk"
    on_a_disk(archive, folder, "a.pdf")
    disk.mkdir(parents=True)
    (disk / "b.pdf").write_text("b")
    (folder / given).symlink_to(disk / "b.pdf" if given == "link.pdf" else disk)
    archive.file(str(folder / given) if given == "link.pdf" else str(folder / given / "b.pdf"), ["b"])
    archive.finish()
    assert find_gone(archive.db, [folder]) == {}
    (disk / "b.pdf").unlink()
    refusal = "is a link to .*, which is not there" if given == "link.pdf" else f"{folder}/link is empty"
    with pytest.raises(UsageError, match=rf"{refusal}: is a disk not mounted\? Nothing was pruned"):
        find_gone(archive.db, [folder])
    if archive.db.dialect == "sqlite":
        with pytest.raises(UsageError, match=r"is missing or empty: is a disk not mounted\?"):
            find_gone(archive.db, [])
    disk.rmdir()
    with pytest.raises(UsageError, match=rf"{given} is a link to .*, which is not there"):
        find_gone(archive.db, [folder])
    (folder / given).unlink()
    assert len(find_gone(archive.db, [folder])) == 1


@pytest.mark.only("sqlite")
def test_prune_asks_on_a_terminal(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    on_a_disk(archive, tmp_path / "in", "a.pdf", "gone.pdf")
    (tmp_path / "in/gone.pdf").unlink()
    for key, left in ((b"n\n", 2), (b"y\n", 1)):
        said = on_a_terminal("prune", tmp_path / "in", "--home", settings.home, typed=[("[y/N]: ", key)])
        assert "in/gone.pdf\nwould be forgotten: 1 file, 1 document, 1 page" in said and "Forget them?" in said
        assert len(archive.rows("SELECT * FROM sources")) == left
        assert ("\nforgotten: 1 file" in said) == (left == 1)


@pytest.mark.only("sqlite")
def test_prune_without_a_folder_looks_at_each_folder_of_a_file(archive: Archive, tmp_path: Path) -> None:
    on_a_disk(archive, tmp_path, "one/a.pdf", "one/b.pdf", "two/c.pdf", "three/d.pdf")
    (tmp_path / "one/a.pdf").unlink()
    assert list(find_gone(archive.db, []).values()) == [f"{tmp_path}/one/a.pdf"]
    for number, gone in enumerate(("two/c.pdf", "three/d.pdf")):
        (tmp_path / gone).unlink()
        (tmp_path / gone).parent.rmdir()
        with pytest.raises(UsageError, match=["two is missing", "three and 1 more folders are missing"][number]):
            find_gone(archive.db, [])
    assert len(find_gone(archive.db, [tmp_path])) == 3


@pytest.mark.only("postgresql")
def test_prune_on_a_server_is_told_where(archive: Archive) -> None:
    with pytest.raises(UsageError, match=r"may hold paths of several machines.*pagepack prune FOLDER"):
        find_gone(archive.db, [])
