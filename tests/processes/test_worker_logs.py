"""What real workers log: each change of state with its page, Celery's own lines too, and no password."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.database.engine import Database
from pipeline.settings import Settings
from tests.running import wait_until, write_pdf
from tests.worker_processes import broker, submit, workers


def test_workers_log_each_change_of_state_with_its_page(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "docs" / "a.pdf", 3, dark=1).parent
    variables = {"PAGEPACK_LOG_FORMAT": "json", "PAGEPACK_LOG_LEVEL": "DEBUG"}
    with (
        broker(settings.home) as url,
        workers(settings, url, "ingest", "read", engine="FailingEngine", **variables) as running,
    ):
        submit(db, url, settings, folder)
        log = running["read"].log
        wait_until(lambda: log.read_text().count('"stored"') == 2 and '"failed"' in log.read_text())
        # Read before they stop: Celery says "Warm shutdown" on standard output, past any logger.
        lines = [json.loads(line) for role in running.values() for line in role.log.read_text().splitlines()]
    said = [line for line in lines if "event" in line]
    with db.read() as connection:
        document_id = connection.exec_driver_sql("SELECT public_id FROM documents").scalar()
        batch = connection.exec_driver_sql("SELECT public_id FROM batches").scalar()
    assert {(line["document_id"], line["batch"]) for line in said} == {(document_id, batch)}
    assert {line.get("source_path") for line in said} == {str(folder / "a.pdf")}
    of_pages = sorted((line["page_number"], line["event"]) for line in said if "page_number" in line)
    assert of_pages == [
        (number, event)
        for number in (1, 2, 3)
        for event in sorted(("rendered", "claimed", "failed" if number == 2 else "stored"))
    ]
    failed = next(line for line in said if line["event"] == "failed")
    assert failed["level"] == "WARNING" and failed["cause"] == "engine" and failed["attempt"] == 1
    assert failed["worker"] == "read-of-a-test/"
    whole = next(line for line in said if line["event"] == "rendered" and "page_number" not in line)
    assert whole["level"] == "INFO" and whole["pages"] == 3 and whole["worker"].startswith("ingest-of-a-test/")
    assert whole["worker"] != "ingest-of-a-test/", "the forked process is not named"


def test_text_lines_name_the_file_too(settings: Settings, db: Database, tmp_path: Path) -> None:
    folder = write_pdf(tmp_path / "two words" / "a.pdf", 2, dark=1).parent
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    with (
        broker(settings.home) as url,
        workers(settings, url, "ingest", "read", engine="FailingEngine") as running,
    ):
        submit(db, url, settings, folder)
        wait_until(lambda: "event=failed" in running["read"].log.read_text())
        ingested, read = (running[role].log.read_text() for role in ("ingest", "read"))
    (failed,) = [line for line in read.splitlines() if "event=failed" in line]
    assert f'event=failed source_path="{folder}/a.pdf" document_id=' in failed and " page_number=2 " in failed
    events = [line.partition(" pagepack.events ")[2] for line in ingested.splitlines() if "event=re" in line]
    assert sorted(line.partition(" document_id=")[0] for line in events) == [
        f'event=rejected source_path="{folder}/broken.pdf"',
        f'event=rendered source_path="{folder}/a.pdf"',
    ]


def test_celerys_own_lines_are_redacted_and_in_json(settings: Settings, tmp_path: Path) -> None:
    """A broker that does not answer: Celery itself complains, with the URL."""
    url = "redis://:s3cret@127.0.0.1:1/0"
    with workers(settings, url, "read", PAGEPACK_LOG_FORMAT="json") as running:
        log = running["read"].log
        wait_until(lambda: '"ERROR"' in log.read_text())
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(line["logger"].startswith("celery") and line["level"] == "ERROR" for line in lines)
    assert "s3cret" not in log.read_text()
