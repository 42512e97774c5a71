"""Your own program beside pagepack: it asks for documents by message, and is told when each is done.

    export PAGEPACK_BROKER_URL=redis://… PAGEPACK_DATABASE_URL=postgresql://…      # as pagepack's workers have them
    celery --app docs.consumer worker --queues mine --pool solo                    # is told, and reads the text
    python -m docs.consumer scans/a.pdf scans/b.pdf                                # asks

It needs celery, redis and a database driver, and nothing of pagepack's. docs/consumers.md explains it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("mine", broker=os.environ["PAGEPACK_BROKER_URL"])
app.conf.task_ignore_result = True
app.conf.task_acks_late = True  # a kill in the middle: told again, by Redis after an hour
RETRIED = {
    "autoretry_for": (Exception,),
    "retry_backoff": True,
    "max_retries": None,
    "dont_autoretry_for": (ValueError,),
}

DONE = "mine.document_done"
TEXT = "SELECT source_path, text FROM document_text WHERE document_id = {} AND prompt = 'ocr' ORDER BY source_path"
STATE = "SELECT DISTINCT state FROM files WHERE batch_id = {} AND document_id = {}"


def ask_for(paths: Sequence[str], batch: str) -> None:
    """A message a document. pagepack's ingest workers open the paths: they must see them under these names."""
    for path in paths:
        message = {"version": 1, "location": str(Path(path).absolute()), "batch": batch, "notify": f"{DONE}@mine"}
        app.send_task("pagepack.submit_document", kwargs=message, queue="pagepack.ingest")


@app.task(name=DONE, **RETRIED)
def document_done(version: int, document_id: str, batch_id: str) -> None:
    """Told at least once, so that doing it twice must be doing it once: here an upsert keyed by the document."""
    if version != 1:
        raise ValueError(f"a message of version {version}; this program knows version 1")
    found = query(TEXT, document_id)
    text = found[0][1] if found else ""  # a document at several paths has a row for each, with one text
    state = query(STATE, batch_id, document_id)[0][0]  # done, failed or rejected
    with sqlite3.connect(os.environ.get("MINE", "mine.db"), timeout=30) as mine:
        mine.execute("CREATE TABLE IF NOT EXISTS letters (document_id TEXT PRIMARY KEY, words INTEGER, state TEXT)")
        mine.execute(
            "INSERT INTO letters VALUES (?, ?, ?) "
            "ON CONFLICT (document_id) DO UPDATE SET words = excluded.words, state = excluded.state",
            (document_id, len(text.split()), state),
        )


def query(statement: str, *values: str) -> list[tuple[Any, ...]]:
    """Plain SQL on pagepack's views, in PostgreSQL, or in the file of a home folder."""
    url = os.environ.get("PAGEPACK_DATABASE_URL")
    if url is not None:
        import psycopg

        with psycopg.connect(url) as connection:
            return connection.execute(statement.format(*["%s"] * len(values)).encode(), values).fetchall()
    file = Path(os.environ.get("PAGEPACK_HOME", "pagepack-data")).absolute() / "pagepack.db"
    pagepack = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        return pagepack.execute(statement.format(*["?"] * len(values)), values).fetchall()
    finally:
        pagepack.close()


if __name__ == "__main__":
    ask_for(sys.argv[1:], batch="letters")
