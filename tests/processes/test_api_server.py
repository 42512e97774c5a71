"""The HTTP API over a real port: each example of docs/api.md as curl runs it, senders that go, many requests."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from PIL import Image

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.web.serve import WebServer, _listen
from tests.conftest import Archive
from tests.running import ROOT, wait_until

DATABASES = ("sqlite",)
TOKEN = "correct-horse-battery"
DOCS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@dataclass
class Served:
    url: str
    port: int
    scans: Path
    uploads: Path
    batch: str
    document: str


@pytest.fixture
def served(archive: Archive, settings: Settings, tmp_path: Path) -> Iterator[Served]:
    image_hash = open_images(settings).put(encode(Image.new("L", (64, 32), 200)))
    document_id = archive.see("/in/2024/tides.pdf")
    assert document_id is not None
    (page,) = archive.ingest(document_id, [NewPage(0, image_hash, 64, 32)])
    archive.read(page, "tide tables of the bay")
    archive.finish()
    scans = tmp_path / "scans"
    (scans / "1913").mkdir(parents=True)
    (scans / "1913" / "a.pdf").write_bytes(b"%PDF-1.7 a")
    bounded = settings.model_copy(update={"max_upload_bytes": 3_000_000})
    server = WebServer(bounded, "127.0.0.1", 0, TOKEN, True, True, [scans])
    server.start()
    at = urlsplit(server.url)
    document = archive.scalar("SELECT public_id FROM documents")
    yield Served(f"http://{at.netloc}", int(at.port or 0), scans, settings.home / "uploads", "b", document)
    server.stop()


def examples() -> list[str]:
    return re.findall(r"^\$ (curl .*)$", DOCS, flags=re.MULTILINE)


def asked_of(example: str) -> tuple[str, str]:
    """(method, path) of a curl line."""
    found = re.search(r"\$SERVER(/[^?\"]*)", example)
    assert found
    return ("post" if re.search(r" (-F|--json) ", example) else "get"), found[1]


def test_each_route_has_an_example_and_each_example_works(served: Served, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the examples of docs/api.md need curl; apt-get install curl"
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
    for name in ("letter.pdf", "b.pdf"):
        (tmp_path / name).write_bytes(b"%PDF-1.7 " + name.encode())
    given = {"TOKEN": TOKEN, "SERVER": served.url, "BATCH": served.batch, "DOCUMENT": served.document}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **given}
    said: dict[str, str] = {}
    for example in examples():
        command = example.replace("/data/scans", str(served.scans))
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}{done.stdout}"
        said[example] = done.stdout
        if "/text" not in example and "--output" not in example:
            json.loads(done.stdout)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    texts = [text for example, text in said.items() if "/text" in example]
    assert texts == ["tide tables of the bay"] * 2
    added = [json.loads(text) for example, text in said.items() if " -F " in example or '"paths"' in example]
    assert [one["name"] for one in added] == ["letters", "1913"]
    assert [Path(one["source_path"]).name for one in added[0]["files"]] == ["letter.pdf", "tides.pdf"]
    told = json.loads(next(text for example, text in said.items() if "openapi.json" in example))
    routes = {(method, path) for path, methods in told["paths"].items() for method in methods}
    shown = [asked_of(example) for example in examples()]
    missing = {
        (method, path)
        for method, path in routes
        if not any(method == one and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), at) for one, at in shown)
    }
    assert not missing


def head(port: int, *more: str) -> bytes:
    lines = ["POST /api/v1/documents HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Authorization: Bearer {TOKEN}", *more]
    lines += ["Content-Type: multipart/form-data; boundary=x", "", ""]
    return "\r\n".join(lines).encode()


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'


def test_a_sender_that_goes_in_the_middle_leaves_nothing(served: Served, archive: Archive) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as sender:
        sender.sendall(head(served.port, "Content-Length: 1000000") + PART + bytes(300_000))
        wait_until(lambda: any(file.stat().st_size for file in served.uploads.glob(".parts/*")))
    wait_until(lambda: not list(served.uploads.glob(".parts/*")))
    assert [path for path in served.uploads.rglob("*") if path.name != ".parts"] == []
    assert archive.scalar("SELECT count(*) FROM sources") == 1


def test_an_upload_of_ten_gigabytes_is_refused_before_it_is_sent(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as sender:
        sender.sendall(head(served.port, f"Content-Length: {10 * 2**30}"))
        said = b"".join(iter(lambda: sender.recv(10_000), b""))
    assert said.startswith(b"HTTP/1.1 413 ") and b"PAGEPACK_MAX_UPLOAD_BYTES" in said
    with socket.create_connection(("127.0.0.1", served.port)) as sender:  # and one that does not tell its length
        sender.sendall(head(served.port, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(PART), PART))
        with pytest.raises(OSError):
            for _ in range(1_000):
                sender.sendall(b"%x\r\n%s\r\n" % (100_000, bytes(100_000)))
    wait_until(lambda: not list(served.uploads.glob(".parts/*")))


def test_no_part_of_an_answer_waits_for_the_one_before() -> None:
    """A connection that waits for acknowledgements is 40 ms late with each body."""
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_many_requests_in_a_row_take_no_more_memory(served: Served) -> None:
    process = psutil.Process()
    paths = (
        f"/api/v1/documents/{served.document}/pages/1",
        "/api/v1/search?q=tide",
        "/api/v1/search?q=OR",
        "/api/v1/batches/nope",
        f"/api/v1/documents/{served.document}/pages/1/image",
    )
    with httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:

        def ask(count: int) -> int:
            codes: set[Any] = {client.get(paths[number % len(paths)]).status_code for number in range(count)}
            assert codes == {200, 400, 404}
            gc.collect()
            return int(process.memory_info().rss)

        first = ask(25)
        descriptors = process.num_fds()
        last = ask(100)
    assert last - first < 2**20 and process.num_fds() <= descriptors + 2
