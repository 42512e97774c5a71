"""How long a search takes among a million pages, on SQLite and on PostgreSQL, for rare words and common ones alike.

    python -m benchmarks.bench_search [--pages 1000000] [--databases sqlite postgresql] [--rounds 15] [--keep FOLDER]
        [--url URL]

The archive is made in a temporary folder by the program's own migrations and its own terms, in bulk: pages of 60 to 200
words of a vocabulary of 200,000 with Zipf's frequencies (the commonest word is in nearly every page), and one page of
eight in Chinese, of 20,000 words of one to three characters; ten pages a document, a hundred documents a folder, ten
batches. `--keep` makes SQLite's in a folder that stays, and uses one that is there again; `--url` asks a PostgreSQL
server that has the archive.

A search is `pipeline.query.search.find`: query, ranking, count, text and snippets of the best 20, on one connection
that is open. Each kind of query is asked with `--rounds` different words, each once; so p50 and p95 are those of words
that nobody asked before, with the file in the system's memory. `cpu_ms` is the mean of this process's processor time:
on SQLite all there is, whatever else the machine does. Ends in one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.database.engine import Database
from pipeline.database.looking import Looking
from pipeline.database.open import open_database
from pipeline.database.open_to_look import open_to_look
from pipeline.query.batch_status import find_batch
from pipeline.query.search import find
from pipeline.settings import load_settings
from pipeline.store.answers import index_words
from pipeline.store.batches import open_batch
from pipeline.store.search_terms import search_row
from schemas.prompts import OCR
from tests.postgres import FAST, PostgresServer

PAGES_A_DOCUMENT, DOCUMENTS_A_FOLDER, BATCHES = 10, 100, 10
CHINESE_EVERY = 8
NOW = "2026-01-01 00:00:00.000000"
CHUNK = 5_000  # pages


class Language:
    """Words with Zipf's frequencies, the commonest first."""

    def __init__(self, words: Sequence[str], joined_by: str, seed: int) -> None:
        self.words = np.array(words, dtype=object)
        self._by = joined_by
        weights = 1 / np.arange(1, len(words) + 1)
        self._cumulated = np.cumsum(weights / weights.sum())
        self._random = np.random.default_rng(seed)

    def page(self) -> str:
        count = int(self._random.integers(60, 201))
        drawn = self.words[np.searchsorted(self._cumulated, self._random.random(count))]
        lines = [self._by.join(drawn[start : start + 12]) for start in range(0, count, 12)]
        return "\n".join(lines)


def latin() -> Language:
    """Short words are the common ones, as in any language; each is written in one way only."""
    consonants, vowels = "btkdlmnprsvg", "aeiou"
    syllables = [one + other for one in consonants for other in vowels]
    long = ("".join(parts) for length in itertools.count(1) for parts in itertools.product(syllables, repeat=length))
    return Language(list(itertools.islice(long, 200_000)), " ", 1)


def chinese() -> Language:
    random = np.random.default_rng(2)
    characters = [chr(0x4E00 + int(index)) for index in random.permutation(3_500)]
    weights = 1 / np.arange(1, len(characters) + 1) ** 0.7
    drawn = iter(random.choice(characters, 200_000, p=weights / weights.sum()))
    lengths = itertools.cycle([1, 2, 2, 2, 3])
    words: dict[str, None] = {}
    while len(words) < 20_000:
        words["".join(itertools.islice(drawn, next(lengths)))] = None
    return Language(list(words), "", 3)


def pages(count: int) -> Iterator[str]:
    languages = [latin(), chinese()]
    for index in range(count):
        yield languages[index % CHINESE_EVERY == 0].page()


def path_of(document: int) -> str:
    folder = document // DOCUMENTS_A_FOLDER
    return f"/archive/{folder // 20:03}/{folder:05}/{document:07}.pdf"


DOCUMENT = "id, public_id, content_hash, kind, size_bytes, page_count, batch_id, state, token, attempts, crashes, "\
    "next_attempt_at"  # fmt: skip
SOURCE = "id, path, location, document_id, size_bytes, modified_ns, seen_at"
PAGE = "id, document_id, page_index, image_hash, width_px, height_px, created_at"
ANSWER = "id, image_hash, prompt_version, engine, model, text, finish_reason, prompt_tokens, output_tokens, seconds, "\
    "temperature, confidence, details, created_at"  # fmt: skip


def rows_of(count: int) -> Iterator[tuple[str, str, list[tuple[Any, ...]]]]:
    """Table, columns and a chunk of rows of everything but the batches."""
    numbers = range(count // PAGES_A_DOCUMENT)
    for first in range(0, len(numbers), CHUNK):
        here = numbers[first : first + CHUNK]
        rest = ("pdf", 100_000, PAGES_A_DOCUMENT)
        ready = [(d + 1, f"{d:036}", f"{d:064}", *rest, d % BATCHES + 1, "ready", 0, 0, 0, 0.0) for d in here]
        yield "documents", DOCUMENT, ready
        files = [(d + 1, path_of(d), f"file://{path_of(d)}", d + 1, 100_000, 0, NOW) for d in here]
        yield "sources", SOURCE, files
        seen = [(d % BATCHES + 1, d + 1, d + 1, NOW) for d in here]
        yield "batch_sources", "batch_id, source_id, document_id, seen_at", seen
    texts = pages(count)
    for first in range(0, count, CHUNK):
        said = list(enumerate(itertools.islice(texts, CHUNK), first))
        rows = [(p + 1, p // PAGES_A_DOCUMENT + 1, p % PAGES_A_DOCUMENT, f"{p:064}", 1000, 1400, NOW) for p, _ in said]
        yield "pages", PAGE, rows
        rest = ("stop", 0, 200, 0.1, 0.0)
        key = (OCR.version, "bench", "bench/1")
        yield "answer_versions", ANSWER, [
            (p + 1, f"{p:064}", *key, text, *rest, (p % 100) / 100, "{}", NOW) for p, text in said
        ]  # fmt: skip
        yield "current_answers", "page_id, prompt, answer_id", [(p + 1, "ocr", p + 1) for p, _ in said]
        yield "page_search", "rowid, terms", [(p + 1, text) for p, text in said]


def make_sqlite(home: Path, count: int) -> dict[str, float]:
    home.mkdir(parents=True, exist_ok=True)
    settings = load_settings(home=home)
    db = open_database(settings, create=True)
    begin_batches(db)
    connection = sqlite3.connect(home / "pagepack.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA foreign_keys = OFF")
    index_seconds, started = 0.0, time.monotonic()
    connection.execute("BEGIN")
    for number, (table, columns, rows) in enumerate(rows_of(count)):
        if table == "page_search":
            begun = time.monotonic()
            found = [(page, *search_row(text)) for page, text in rows]
            connection.executemany("INSERT INTO page_search (rowid, terms, aside) VALUES (?, ?, ?)", found)
            index_seconds += time.monotonic() - begun
        else:
            holes = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({holes})", rows)
        if number % 16 == 15:
            begun = time.monotonic()
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            index_seconds += time.monotonic() - begun
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index = connection.execute("SELECT sum(pgsize) FROM dbstat WHERE name LIKE 'page_search_%'").fetchone()[0]
    connection.close()
    size = (home / "pagepack.db").stat().st_size
    return {
        "build_seconds": round(time.monotonic() - started),
        "index_seconds": round(index_seconds),
        "gigabytes": round(size / 1e9, 2),
        "index_gigabytes": round(index / 1e9, 2),
    }


def make_postgresql(url: str, count: int) -> dict[str, float]:
    import psycopg

    db = open_database(load_settings(database_url=url), create=True)
    begin_batches(db)
    started = time.monotonic()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DROP INDEX ix_page_search_terms")
        for table, columns, rows in rows_of(count):
            if table == "page_search":
                with db.write() as words:
                    index_words(words, rows)
                continue
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
        begun = time.monotonic()
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute("CREATE INDEX ix_page_search_terms ON page_search USING gin (terms)")
        connection.execute("VACUUM ANALYZE")
        index_seconds = time.monotonic() - begun
        sizes = connection.execute(
            "SELECT pg_database_size(current_database()), pg_total_relation_size('page_search')"
        ).fetchone()
    assert sizes is not None
    return {
        "build_seconds": round(time.monotonic() - started),
        "index_seconds": round(index_seconds),
        "gigabytes": round(sizes[0] / 1e9, 2),
        "index_gigabytes": round(sizes[1] / 1e9, 2),
    }


def begin_batches(db: Database) -> None:
    for number in range(BATCHES):
        name = f"batch-{number}"
        open_batch(db, key=name, name=name, prompts=[OCR], engine="bench", model="", text_layer="keep")


def asked(rounds: int) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Each kind of query, so many times with different words: what to search for, and where."""
    words, signs = latin().words, chinese().words
    common, rare = words[:rounds], words[20_000 : 20_000 + rounds]
    middle = words[200 : 200 + rounds]
    folders = [path_of(1_000 * number)[:18] for number in range(rounds)]
    return {
        "rare word": [(word, {}) for word in rare],
        "word on a tenth of the pages": [(word, {}) for word in middle],
        "common word": [(word, {}) for word in common],
        "two common words": [(f"{one} {other}", {}) for one, other in itertools.pairwise(words[: rounds + 1])],
        "common OR rare": [(f"{one} OR {other}", {}) for one, other in zip(common, rare, strict=True)],
        "phrase of common words": [(f'"{one} {other}"', {}) for one, other in itertools.pairwise(words[: rounds + 1])],
        "phrase of middling words": [(f'"{one} {other}"', {}) for one, other in zip(middle, words[50:], strict=False)],
        "prefix of three letters": [(f"{word[:3]}*", {}) for word in middle],
        "prefix of one letter": [(f"{word[:1]}*", {}) for word in common],
        "Chinese word": [(word, {}) for word in [word for word in signs if len(word) == 2][50 : 50 + rounds]],
        "Chinese phrase": [(signs[number] + signs[number + 60], {}) for number in range(rounds)],
        "Chinese character": [(word, {}) for word in [word for word in signs if len(word) == 1][:rounds]],
        "common word in a folder": [(word, {"folder": where}) for word, where in zip(common, folders, strict=True)],
        "common word in a batch": [(word, {"batch": f"batch-{n % BATCHES}"}) for n, word in enumerate(common)],
    }


def measure(db: Looking, rounds: int) -> dict[str, dict[str, float]]:
    batches = {f"batch-{number}": find_batch(db, f"batch-{number}") for number in range(BATCHES)}
    find(db, latin().words[999])  # a connection, and what Python compiles once
    found = {}
    for kind, queries in asked(rounds).items():
        seconds, hits, begun_cpu = [], [], time.process_time()
        for words, where in queries:
            chosen: dict[str, Any] = where | {"batch": batches[where["batch"]]} if "batch" in where else {**where}
            begun = time.perf_counter()
            hits.append(find(db, words, **chosen).total)
            seconds.append(time.perf_counter() - begun)
        seconds.sort()
        found[kind] = {
            "p50_ms": round(statistics.median(seconds) * 1000, 1),
            "p95_ms": round(seconds[int(0.95 * (len(seconds) - 1))] * 1000, 1),
            "cpu_ms": round((time.process_time() - begun_cpu) / len(queries) * 1000, 1),
            "hits": int(statistics.median(hits)),
        }
        print(f"    {kind:30} {found[kind]}", flush=True)
    return found


def bench_sqlite(home: Path, count: int, rounds: int) -> dict[str, Any]:
    built = {} if (home / "pagepack.db").exists() else make_sqlite(home, count)
    print(f"sqlite {built}", flush=True)
    return {"built": built, "kinds": measure(open_to_look(load_settings(home=home)), rounds)}


def bench_postgresql(count: int, rounds: int, url: str | None) -> dict[str, Any]:
    if url is not None:
        return {"built": {}, "kinds": measure(open_to_look(load_settings(database_url=url)), rounds)}
    with PostgresServer(shared_buffers="1GB", max_wal_size="8GB", **FAST) as server:
        url = server.url()
        built = make_postgresql(url, count)
        print(f"postgresql {built}", flush=True)
        return {"built": built, "kinds": measure(open_to_look(load_settings(database_url=url)), rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1_000_000)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", type=Path, help="SQLite's folder, which stays, and is used where it is there")
    parser.add_argument("--url", help="PostgreSQL's, where the archive is already")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="pagepack-bench-") as work:
        if "sqlite" in given.databases:
            found["sqlite"] = bench_sqlite(given.keep or Path(work), given.pages, given.rounds)
    if "postgresql" in given.databases:
        found["postgresql"] = bench_postgresql(given.pages, given.rounds, given.url)
    worst = max(kind["p95_ms"] for one in found.values() for kind in one["kinds"].values())
    print(json.dumps({"worst_p95_ms": worst, "pages": given.pages, "load": os.getloadavg()[0], **found}))


if __name__ == "__main__":
    main()
