"""`pagepack run` on shared storage: real processes, a real S3 server, no path in common but URLs."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.blobs.page_images import open_images
from pipeline.database.engine import Database
from pipeline.errors import StorageGone
from pipeline.ingest.ingester import Ingester
from pipeline.ingest.register import register
from pipeline.settings import Settings
from pipeline.store.batches import open_batch
from schemas.prompts import OCR
from tests.conftest import Archive
from tests.running import call, done_pages, pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf
from tests.s3 import Bucket, bucket, s3_endpoint

pytestmark = pytest.mark.xdist_group("storage")  # one test process pays for what they share
SMALL = {"PAGEPACK_MAX_SIDE_PX": "128", "PAGEPACK_INGEST_PROCESSES": "1"}  # each one makes a client of its own

__all__ = ["bucket", "s3_endpoint"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def docs(bucket: Bucket, tmp_path: Path) -> str:
    bucket.put("docs/a b.pdf", write_pdf(tmp_path / "a.pdf", 3).read_bytes())
    bucket.put("docs/sub/c.pdf", write_pdf(tmp_path / "c.pdf", 2).read_bytes())
    return f"{bucket.url}/docs"


def test_a_prefix_is_submitted_here_and_read_by_a_worker(bucket: Bucket, docs: str, home: Path) -> None:
    variables = bucket.variables | {"PAGEPACK_IMAGES_URL": f"{bucket.url}/images"}
    submitted = call("submit", docs, "--home", home, **variables)
    assert submitted.returncode == 0, submitted.stderr
    worker = start("worker", "--home", home, engine="InstantEngine", **SMALL, **variables)
    try:
        wait_until(lambda: rows(home, "SELECT state, pages_done FROM batch_summary") == [("finished", 5)])
    finally:
        worker.terminate()
        worker.communicate()


def test_a_prefix_becomes_rows_with_images_in_the_bucket(bucket: Bucket, docs: str, home: Path) -> None:
    bucket.put("docs/notes.txt", b"no page")
    bucket.put("docs/cut.pdf", b"%PDF-1.7\nnothing follows")
    bucket.put("docs/.hidden.pdf", b"%PDF-")
    variables = bucket.variables | SMALL | {"PAGEPACK_IMAGES_URL": f"{bucket.url}/images"}
    result = pagepack("run", docs, "--home", home, **variables)
    assert result.returncode == 1, result.stderr
    assert "4 files seen: 2 done, 0 failed, 2 rejected" in result.stdout
    assert rows(home, "SELECT source_path, count(*) FROM page_text GROUP BY 1 ORDER BY 1") == [
        (f"{docs}/a b.pdf", 3),
        (f"{docs}/sub/c.pdf", 2),
    ]
    reasons = rows(home, "SELECT source_path, cause, reason FROM failures ORDER BY 1")
    assert [(path, cause) for path, cause, _ in reasons] == [
        (f"{docs}/cut.pdf", "damaged"),
        (f"{docs}/notes.txt", "unsupported"),
    ]
    assert all(path in reason for path, _, reason in reasons), reasons
    assert len([key for key in bucket.keys("images/") if key.endswith(".png")]) == 5
    assert not (home / "images").exists()
    reconciles(home)

    # A repeated run fetches no object again.
    before = rows(home, "SELECT size_bytes, modified_ns, location FROM sources")
    rows(home, "UPDATE documents SET content_hash = 'not looked at again' WHERE id = 1")
    again = pagepack("run", f"{docs}/*.pdf", docs, "--home", home, "--prompt", "describe", **variables)
    assert again.returncode == 1, again.stderr
    assert rows(home, "SELECT count(*) FROM attempts") == [(10,)]
    assert rows(home, "SELECT size_bytes, modified_ns, location FROM sources") == before
    assert rows(home, "SELECT count(*) FROM documents") == [(3,)]  # the damaged one too


def test_file_urls_are_local_paths(settings: Settings, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "my docs").mkdir()
    write_pdf(tmp_path / "my docs" / "a.pdf", 2)
    submitted = call("submit", f"file://{tmp_path}/my%20docs", "--home", settings.home)
    assert submitted.returncode == 0, submitted.stderr
    assert archive.rows("SELECT path FROM sources") == [(f"{tmp_path}/my docs/a.pdf",)]
    stored = settings.model_copy(update={"images_url": f"file://{tmp_path}/images"})
    Ingester(archive.db, stored, "ingest/1", lambda: False).ingest(1)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 2


def test_storage_that_cannot_be_used_stops_the_run_before_its_work(bucket: Bucket, tmp_path: Path, home: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", 1)
    absent = "s3://key:secret@no-such-bucket/x"
    wrong = call("run", path, "--home", home, **bucket.variables, PAGEPACK_IMAGES_URL=absent)
    assert (
        wrong.returncode == 2 and "s3://key:***@no-such-bucket/x (PAGEPACK_IMAGES_URL) does not exist" in wrong.stderr
    )
    assert "secret" not in wrong.stderr and not (home / "pagepack.db").exists()
    silent = bucket.variables | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    gone = pagepack("run", bucket.url, "--home", home, **silent)
    assert gone.returncode == 4 and "127.0.0.1:9" in gone.stderr and "Traceback" not in gone.stderr
    missing = call("run", f"{bucket.url}/nothing", "--home", home, **bucket.variables)
    assert missing.returncode == 2 and "no such file or folder" in missing.stderr
    empty = call("run", bucket.url, "--home", home, **bucket.variables)
    assert empty.returncode == 3 and "no file found" in empty.stderr


def test_killed_in_the_middle_it_goes_on_from_the_bucket(bucket: Bucket, tmp_path: Path, home: Path) -> None:
    bucket.put("docs/a.pdf", write_pdf(tmp_path / "a.pdf", 12).read_bytes())
    gate, storage = tmp_path / "gate", {"PAGEPACK_IMAGES_URL": f"{bucket.url}/images", "TMPDIR": str(tmp_path / "tmp")}
    variables = bucket.variables | SMALL | storage | {"PAGEPACK_INTERNAL_GATE": str(gate)}
    (tmp_path / "tmp").mkdir()
    first = start("run", f"{bucket.url}/docs", "--home", home, engine="HeldEngine", **variables)
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) == 6)  # and holds more of them
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: processes_of(home) == [])
    gate.touch()
    second = pagepack("run", f"{bucket.url}/docs", "--home", home, engine="HeldEngine", **variables)
    assert second.returncode == 0, second.stderr
    assert len(rows(home, "SELECT * FROM page_text")) == 12
    reconciles(home)
    left = {path.name for path in home.iterdir()}
    assert left <= {"pagepack.db", "pagepack.db-wal", "pagepack.db-shm", "lock", "logs", "run"}, left


def seen(db: Database, folder: Path | str, settings: Settings) -> int:
    batch = open_batch(db, key="b", name="b", prompts=[OCR], engine="rapidocr", model="m1", text_layer="keep")
    list(register(db, batch, [folder], settings, forget_gone=True, is_stopping=lambda: False))
    return batch.id


@pytest.mark.parametrize("where", ["s3", "file"])
def test_copied_inputs_need_no_path_in_common(
    bucket: Bucket, archive: Archive, settings: Settings, tmp_path: Path, where: str
) -> None:
    folder, copies = tmp_path / "docs", bucket.url + "/in" if where == "s3" else f"file://{tmp_path}/shared"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 2)
    shutil.copy(folder / "a.pdf", folder / "same.pdf")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.7\nnothing follows")
    submitting = settings.model_copy(update={"inputs_url": copies})
    seen(archive.db, folder, submitting)
    locations = {location for (location,) in archive.rows("SELECT location FROM sources")}
    assert len(locations) == 2 and all(location.startswith(copies) for location in locations)
    if where == "s3":
        assert len(bucket.keys("in/")) == 2
    shutil.rmtree(folder)
    ingester = Ingester(archive.db, settings, "ingest/1", lambda: False)
    for (document_id,) in archive.rows("SELECT id FROM documents ORDER BY id"):
        ingester.ingest(document_id)
    assert archive.rows("SELECT count(*) FROM page_tasks WHERE state = 'pending'") == [(2,)]
    assert archive.rows("SELECT source_path, cause FROM failures") == [(f"{folder}/cut.pdf", "damaged")]
    assert f"{folder}/cut.pdf" in archive.scalar("SELECT reason FROM failures")
    assert not [
        path for path in settings.home.iterdir() if path.name not in ("images",) and "pagepack.db" not in path.name
    ]


def test_a_lost_copy_is_made_again_by_the_next_run(
    bucket: Bucket, archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    path = write_pdf(tmp_path / "a.pdf", 1)
    submitting = settings.model_copy(update={"inputs_url": bucket.url})
    seen(archive.db, path, submitting)
    [key] = bucket.keys()
    bucket.fs.rm_file(f"{bucket.name}/{key}")
    ingester = Ingester(archive.db, settings, "ingest/1", lambda: False)
    ingester.ingest(1)
    assert archive.rows("SELECT cause, reason FROM failures") == [("missing", f"{path} is gone")]
    seen(archive.db, path, submitting)
    assert bucket.keys() == [key] and archive.rows("SELECT state FROM documents") == [("pending",)]


def test_a_path_of_another_machine_names_the_way_out(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", 1)
    seen(archive.db, path, settings)
    path.unlink()
    Ingester(archive.db, settings, "ingest/1", lambda: False).ingest(1)
    [(cause, reason)] = archive.rows("SELECT cause, reason FROM failures")
    assert cause == "missing" and "PAGEPACK_INPUTS_URL" in reason and str(path) in reason


def test_a_file_over_the_limit_or_changed_is_not_drawn(
    bucket: Bucket, archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    data = write_pdf(tmp_path / "a.pdf", 1).read_bytes()
    for name in ("long.pdf", "other.pdf"):
        bucket.put(name, data + name.encode())
    seen(archive.db, bucket.url, settings)
    bucket.put("other.pdf", data)
    small = settings.model_copy(update={"max_file_bytes": len(data)})
    ingester = Ingester(archive.db, small, "ingest/1", lambda: False)
    for document_id in (1, 2):
        ingester.ingest(document_id)
    assert archive.rows("SELECT source_path, cause FROM failures ORDER BY 1") == [
        (f"{bucket.url}/long.pdf", "too-large"),
        (f"{bucket.url}/other.pdf", "changed"),
    ]


def test_storage_that_goes_away_fails_no_document(
    bucket: Bucket, archive: Archive, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(archive.db, write_pdf(tmp_path / "a.pdf", 2), settings)
    away = settings.model_copy(update={"images_url": f"{bucket.url}/images"})
    with bucket.opened_anew(), monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StorageGone, match="does not answer"):
            Ingester(archive.db, away, "ingest/1", lambda: False).ingest(1)
    assert archive.rows("SELECT state, attempts, crashes FROM documents") == [("pending", 0, 0)]
    Ingester(archive.db, away, "ingest/1", lambda: False).ingest(1)
    for (image_hash,) in archive.rows("SELECT image_hash FROM pages"):
        open_images(away).pixels(image_hash)
