"""How long each page of `pagepack serve` takes to be made, in an archive that is there.

    python -m benchmarks.bench_serve HOME [--rounds 10]
    python -m benchmarks.bench_serve HOME --requests 10000      # the memory of a server over so many

Pages are asked for in this process, without a network, each kind of a different document or word each round; the first
round is the first time that anybody asks. Beside the wall's milliseconds stand those of the processor, with what is
gathered beside the pages, for a machine that does other things, too. A large archive is made by
`python -m benchmarks.bench_search --keep FOLDER`. Ends in one line of JSON: the median and the longest of each kind.

With `--requests` a server of its own is asked over one connection, in turn: each page of the web, pages of documents
with their image and small picture, searches, SQL, JSON of pages, an address that is none. It says the server's memory
(private and shared), threads and open files after the first hundred requests, each thousand and at the end.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from starlette.testclient import TestClient

from pipeline.database.open_to_look import open_to_look
from pipeline.settings import load_settings
from pipeline.web.app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=0, help="the memory of a server over so many")
    given = parser.parse_args()
    if given.requests:
        ask_often(given.home, given.requests)
        return
    settings = load_settings(home=given.home)
    app = create_app(settings)
    client = TestClient(app, base_url="http://localhost", headers={"sec-fetch-site": "none"})
    site = app.site  # type: ignore[attr-defined]
    chosen = random.Random(0)
    with site.db.looking() as look:
        last = look.value("SELECT max(id) FROM documents")
        batches = look.values("SELECT public_id FROM batches ORDER BY id DESC LIMIT 10")
        documents = [
            look.value(
                "SELECT public_id FROM documents WHERE id >= :id ORDER BY id LIMIT 1", id=chosen.randint(1, last)
            )
            for _ in range(given.rounds)
        ]
        texts = look.values(
            "SELECT a.text FROM answer_versions a WHERE a.id % :step = 7 LIMIT :most",
            step=max(look.value("SELECT max(id) FROM answer_versions") // given.rounds, 1),
            most=given.rounds,
        )
    words = [chosen.choice(text.split() or ["page"]) for text in texts] or ["page"]
    took: dict[str, list[float]] = {}
    worked: dict[str, list[float]] = {}
    for at in range(given.rounds):
        document, batch, word = documents[at], batches[at % len(batches)], words[at % len(words)]
        for kind, path in {
            "batches": "/",
            "batch": f"/batches/{batch}",
            "progress": f"/batches/{batch}/progress",
            "failures": f"/batches/{batch}/failures",
            "failures of a cause": f"/batches/{batch}/failures?cause=timeout",
            "document": f"/documents/{document}",
            "page": f"/documents/{document}/pages/1",
            "review": "/review",
            "review of a batch": f"/review?batch={batch}",
            "search": f"/search?q={word}",
            "charts": "/charts",
            "SQL, one row": "/sql?q=SELECT+*+FROM+page_text+LIMIT+1",
        }.items():
            started, busy = time.perf_counter(), time.process_time()
            answered = client.get(path)
            took.setdefault(kind, []).append((time.perf_counter() - started) * 1000)
            worked.setdefault(kind, []).append((time.process_time() - busy) * 1000)
            assert answered.status_code == 200, (path, answered.text)
    for kind, times in took.items():
        print(
            f"{kind:24} first {times[0]:7.0f}  median {statistics.median(times):7.0f}  longest {max(times):7.0f} ms"
            f"  processor {statistics.median(worked[kind]):7.0f} ms"
        )
    print(json.dumps({kind: [round(statistics.median(times)), round(max(times))] for kind, times in took.items()}))


def ask_often(home: Path, requests: int) -> None:
    command = [sys.executable, "-m", "pipeline", "serve", "--home", str(home), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = urlsplit(server.stderr.readline().split()[1])
        codes, found = dict[int, int](), dict[int, dict[str, int]]()
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        for count, path in enumerate(itertools.islice(itertools.cycle(_addresses(home)), requests), 1):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            codes[answer.status] = codes.get(answer.status, 0) + 1
            if count in (100, requests) or count % 1_000 == 0:
                found[count] = _taken(server.pid)
                print(f"{count:7,} requests: {found[count]}", flush=True)
        print(json.dumps({"requests": requests, "codes": codes, "first": found[min(found)], "last": found[max(found)]}))
    finally:
        server.terminate()
        server.wait()


def _addresses(home: Path) -> list[str]:
    with open_to_look(load_settings(home=home)).looking() as look:
        documents = look.values("SELECT public_id FROM documents ORDER BY id LIMIT 50")
        batches = look.values("SELECT public_id FROM batches ORDER BY id LIMIT 5")
    found = ["/", "/search?q=tide", "/review", "/charts", "/sql?q=SELECT+*+FROM+page_text+LIMIT+5", "/nowhere"]
    found += [f"/batches/{batch}{part}" for batch in batches for part in ("", "/progress", "/failures")]
    for one in documents:
        page = f"/documents/{one}/pages/1"
        found += [f"/documents/{one}", page, f"{page}/image", f"{page}/thumbnail", f"/api/v1{page}"]
    return found


def _taken(pid: int) -> dict[str, int]:
    process = Path("/proc") / str(pid)
    lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    memory = int(lines["VmRSS"].split()[0]) // 1024
    return {"MiB": memory, "threads": int(lines["Threads"]), "files": len(os.listdir(process / "fd"))}


if __name__ == "__main__":
    main()
