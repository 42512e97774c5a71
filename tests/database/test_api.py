"""The HTTP API in this process: what it gives, what it takes, and what it refuses."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.web.app import create_app
from pipeline.web.guard import MAX_BODY_BYTES
from pipeline.web.v1 import adding, reading
from pipeline.web.v1.upload_names import upload_name
from tests.conftest import Archive, answer

DATABASES = ("sqlite", "postgresql")
HERE = "http://localhost:8420"


@pytest.fixture
def filled(archive: Archive, settings: Settings) -> Archive:
    """A document of two pages, of which the first has an image; and a file that is not read."""
    image_hash = open_images(settings).put(encode(Image.new("L", (64, 32), 200)))
    document_id = archive.see("/in/2024/tides.pdf")
    assert document_id is not None
    first, second = archive.ingest(document_id, [NewPage(0, image_hash, 64, 32), "two"])
    archive.read(first, answer("High tide at noon", confidence=0.5))
    archive.read(second, "<script>low</script> tide")
    archive.see("/in/notes.doc", rejection="unsupported")
    archive.finish()
    return archive


@pytest.fixture
def client(filled: Archive, settings: Settings) -> TestClient:
    """A server that only reads."""
    return TestClient(create_app(settings), base_url=HERE, raise_server_exceptions=True)


@pytest.fixture
def adder(archive: Archive, settings: Settings, tmp_path: Path) -> TestClient:
    """A server that takes all."""
    (tmp_path / "scans").mkdir()
    app = create_app(settings, allow_upload=True, read_from=[tmp_path / "scans"], allow_retry=True)
    return TestClient(app, base_url=HERE)


def documents(archive: Archive) -> list[tuple[str, str]]:
    return archive.rows("SELECT source_path, state FROM files ORDER BY 1")


def left(settings: Settings) -> list[str]:
    """All files in the uploads."""
    return sorted(
        str(path.relative_to(settings.home)) for path in settings.home.rglob("uploads/**/*") if path.is_file()
    )


def test_a_page_is_found_and_read_as_json_text_and_image(client: TestClient) -> None:
    (hit,) = client.get("/api/v1/search", params={"q": "HIGH tide"}).json()["hits"]
    assert (hit["source_path"], hit["page_number"]) == ("/in/2024/tides.pdf", 1)
    assert hit["snippet"] == {"text": "High tide at noon", "matches": [[0, 4], [5, 9]]}
    for narrowed, count in (
        ({"min_confidence": 0.6}, 0),
        ({"max_confidence": 0.5, "folder": "in/2024", "since": "2020-01-01T00:00:00+02:00"}, 1),
        ({"folder": "\0"}, 0),
        ({"until": "2020-01-01"}, 0),
    ):
        assert client.get("/api/v1/search", params={"q": "HIGH tide", **narrowed}).json()["total"] == count, narrowed
    by_path = client.get("/api/v1/documents", params={"path": "2024/tides.pdf"}).json()
    at = f"/api/v1/documents/{hit['document_id']}"
    assert client.get(at).json() == by_path
    assert by_path["page_count"] == 2 and by_path["document_id"] == hit["document_id"]
    page = client.get(f"{at}/pages/1").json()
    assert (page["text"], page["confidence"], page["state"]) == ("High tide at noon", 0.5, "done")
    text = client.get(f"{at}/pages/2/text")
    assert text.text == "<script>low</script> tide" and text.headers["content-type"] == "text/plain; charset=utf-8"
    assert client.get(f"{at}/text").text == "High tide at noon\n\n<script>low</script> tide"
    assert [one["page_number"] for one in client.get(f"{at}/pages", params={"first": 2}).json()["pages"]] == [2]
    image = client.get(f"{at}/pages/1/image")
    assert image.headers["content-type"] == "image/png" and Image.open(io.BytesIO(image.content)).size == (64, 32)
    gone = client.get(f"{at}/pages/2/image")
    assert gone.status_code == 404 and "retry the page to render it again" in gone.json()["detail"]


@pytest.mark.only("sqlite")
def test_a_long_document_comes_whole_though_it_is_read_piece_by_piece(
    client: TestClient, filled: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PAGES_AT_ONCE", 2)
    filled.file("/in/long.pdf", [f"page {number}" for number in range(5)])
    found = client.get("/api/v1/documents", params={"path": "/in/long.pdf"}).json()
    text = client.get(f"/api/v1/documents/{found['document_id']}/text").text
    assert text == "\n\n".join(f"page {number}" for number in range(5))


def test_batches_failures_views_and_sql(client: TestClient, filled: Archive) -> None:
    (batch,) = client.get("/api/v1/batches").json()["batches"]
    now = client.get(f"/api/v1/batches/{batch['batch_id']}").json()
    assert (now["files_seen"], now["pages_done"], now["failures"]) == (2, 2, {"unsupported": 1})
    assert now["batch_id"] == client.get("/api/v1/batches/b").json()["batch_id"] == batch["batch_id"]
    (failure,) = client.get("/api/v1/batches/b/failures", params={"cause": "unsupported"}).json()["failures"]
    assert failure["source_path"] == "/in/notes.doc" and failure["page_number"] is None
    some = client.get("/api/v1/batches/b/failures", params={"limit": 1}).json()
    more = client.get("/api/v1/batches/b/failures", params={"limit": 1, "after": some["next"]}).json()
    assert some["failures"] == [failure] and more == {"failures": [], "next": None}
    views = client.get("/api/v1/views").json()
    assert views["database"] == filled.db.dialect
    assert {"page_text", "failures"} <= {view["view"] for view in views["views"]}
    asked = {"statement": "SELECT source_path, page_number FROM page_text ORDER BY 2", "max_rows": 1}
    rows = client.post("/api/v1/sql", json=asked).json()
    assert (rows["columns"], rows["rows"]) == (["source_path", "page_number"], [["/in/2024/tides.pdf", 1]])
    assert rows["cut"].startswith("these are the first 1 rows")


BAD = [
    ("/search?q=", 400, "no word"),
    ("/search?q=tide+OR", 400, "no word after OR"),
    ("/search?q=tide&prompt=orc", 400, "did you mean ocr?"),
    ("/search?q=tide&batch=nope", 404, "no batch has the id or name 'nope'"),
    ("/search?q=tide&limit=0", 422, "limit"),
    ("/search?q=tide&since=0001-01-01T00:00:00%2B05:00", 422, "no moment in UTC"),
    ("/search?q=tide&since=9999-12-31T23:59:59-05:00", 422, "no moment in UTC"),
    ("/search", 422, "q"),
    ("/batches/nope", 404, "no batch has the id or name 'nope'"),
    ("/batches/nope/failures", 404, "no batch"),
    ("/documents?path=../../etc/passwd", 404, "no file is called '../../etc/passwd'"),
    ("/documents/nope", 404, "no file is called 'nope'"),
    ("/documents/..%2f..%2fetc%2fpasswd", 404, "There is no"),
    ("/documents/%00/text", 404, "no file is called"),
    ("/documents/{id}/text?prompt=orc", 404, "did you mean ocr?"),
    ("/documents/{id}/pages/3", 404, "/in/2024/tides.pdf has no page 3: it has 2 pages"),
    ("/documents/{id}/pages/0", 422, "number"),
    ("/documents/{id}/pages/99999999999999999999", 422, "number"),
    ("/nowhere", 404, ""),
]


@pytest.mark.only("sqlite")
def test_what_is_not_there_is_said_and_never_a_fault(client: TestClient) -> None:
    of_document = client.get("/api/v1/documents", params={"path": "tides.pdf"}).json()["document_id"]
    for path, status, words in BAD:
        said = client.get("/api/v1" + path.replace("{id}", of_document))
        assert (said.status_code, set(said.json())) == (status, {"error", "detail"}), (path, said.text)
        assert words in said.text or words == "There is no", (path, said.text)


@pytest.mark.only("sqlite")
def test_sql_that_does_more_than_read_or_never_ends_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SQL_SECONDS", 0.2)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {} FROM n"
    bad = {
        "DELETE FROM pages": "not authorized",
        "ATTACH '/tmp/x.db' AS x": "not authorized",
        "PRAGMA journal_mode = DELETE": "not authorized",
        "SELECT 1; SELECT 2": "one statement at a time",
        endless.format("count(*)"): "stopped after 0.2 seconds",
        "SELECT hex(zeroblob(100000000))": "too big",
        "SELECT '\ud800'": "",
        "": "no statement",
    }
    for statement, words in bad.items():
        kind = {"content-type": "application/json"}
        said = client.post("/api/v1/sql", content=json.dumps({"statement": statement}), headers=kind)
        assert said.status_code in (400, 422) and words in said.json()["detail"], (statement, said.text)
    many = client.post("/api/v1/sql", json={"statement": endless.format("x"), "max_rows": 10_000}).json()
    assert len(many["rows"]) == 10_000 and many["cut"].startswith("these are the first 10,000 rows")
    for _ in range(reading._STATEMENTS_AT_ONCE):
        reading._statements.acquire()
    busy = client.post("/api/v1/sql", json={"statement": "SELECT 1"})
    reading._statements.release(reading._STATEMENTS_AT_ONCE)
    assert busy.status_code == 503 and busy.headers["retry-after"] == "5"


@pytest.mark.only("sqlite")
def test_nothing_is_added_unless_the_server_was_started_so(client: TestClient, settings: Settings) -> None:
    sent: list[tuple[str, dict[str, Any], str]] = [
        ("/documents", {"files": {"file": ("a.pdf", b"%PDF-")}}, "--allow-upload"),
        ("/batches", {"json": {"paths": ["/etc"]}}, "--read-from"),
        ("/batches/b/retry", {"json": {}}, "--allow-retry"),
    ]
    for path, given, option in sent:
        said = client.post(f"/api/v1{path}", **given)
        assert said.status_code == 403 and option in said.json()["detail"], said.text
    assert not (settings.home / "uploads").exists()


def test_an_upload_is_a_batch_that_waits_for_workers(adder: TestClient, archive: Archive, settings: Settings) -> None:
    files = [("file", ("letters/2024/a.pdf", b"%PDF-1.7 a")), ("file", ("b.png", b"\x89PNG\r\n\x1a\n"))]
    done = adder.post("/api/v1/documents", files=files, data={"batch": "letters", "prompt": ["ocr", "describe"]})
    assert done.status_code == 202, done.text
    said = done.json()
    assert (said["name"], said["all_seen"]) == ("letters", True) and "pagepack worker" in said["nobody_reads"]
    paths = [file["source_path"] for file in said["files"]]
    assert [path.rsplit("/uploads/")[1][17:] for path in paths] == ["letters/2024/a.pdf", "b.png"]
    assert [Path(path).read_bytes() for path in paths] == [b"%PDF-1.7 a", b"\x89PNG\r\n\x1a\n"]
    assert [state for _, state in documents(archive)] == ["pending", "pending"]
    now = adder.get(f"/api/v1/batches/{said['batch_id']}").json()
    assert (now["files_seen"], now["prompts"], now["state"]) == (2, ["describe", "ocr"], "running")
    again = adder.post("/api/v1/documents", files=files[:1], data={"batch": "letters"}).json()
    assert again["files"][0]["was_known"] and again["batch_id"] == said["batch_id"]
    other = adder.post("/api/v1/documents", files={"file": ("letters/2024/a.pdf", b"%PDF-1.7 other")}).json()
    assert other["files"][0]["source_path"] not in paths and other["batch_id"] != said["batch_id"]
    linked = adder.post("/api/v1/documents", files={"file": ("c.pdf", b"%PDF-1.7 a")}).json()["files"][0]
    assert Path(linked["source_path"]).samefile(paths[0]) and not linked["was_known"]
    assert len(left(settings)) == 4 and not any(".parts/" in path for path in left(settings))


@pytest.mark.only("sqlite")
def test_a_name_never_leads_out_of_the_uploads(adder: TestClient, settings: Settings) -> None:
    for sent, name in {
        "a b.pdf": "a b.pdf",
        "x\\y\\Grüße 年.pdf": "x/y/Grüße 年.pdf",
        "./x//a.pdf": "x/a.pdf",
        "C:x.pdf": "C_x.pdf",
        "a\x1b[31m\u202e.pdf": "a_[31m_.pdf",
        ".hidden.pdf": "_.hidden.pdf",
        "~$a.docx": "_~$a.docx",
        " .. /a.pdf": "_../a.pdf",
    }.items():
        assert upload_name(sent) == name
    for sent in (
        "../a.pdf",
        "a/../../b.pdf",
        "/etc/passwd",
        "\\\\host\\a",
        "..\\a",
        "",
        "/",
        "a/",
        "x/" * 16 + "a",
        "ä" * 101,
    ):
        with pytest.raises(UsageError, match=r"the file name"):
            upload_name(sent)
    said = adder.post("/api/v1/documents", files={"file": ("../../a.pdf", b"%PDF-")})
    assert said.status_code == 400 and "leads outside" in said.json()["detail"] and not left(settings)


@pytest.mark.only("sqlite")
def test_an_upload_that_is_too_large_or_no_form_leaves_nothing(
    adder: TestClient, archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours: Any = adder.app
    additions = ours._app.state.additions
    monkeypatch.setattr(
        ours._app.state, "additions", adding.Additions(additions.uploads, (), additions.registrar, 100_000)
    )
    url, kind = "/api/v1/documents", {"content-type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'

    told = adder.post(url, files={"file": ("a.pdf", bytes(100_001))})
    assert told.status_code == 413 and "PAGEPACK_MAX_UPLOAD_BYTES" in told.json()["detail"]
    big = adder.post("/api/v1/sql", content=bytes(MAX_BODY_BYTES + 1))
    assert big.status_code == 413 and "at most 1,000,000 bytes" in big.json()["detail"]
    for body, headers, words in [
        (b"", {}, "multipart/form-data"),
        (b"{}", {"content-type": "application/json"}, "multipart/form-data"),
        (b"x", {"content-type": "multipart/form-data"}, "multipart/form-data"),
        (b"x", {"content-type": "multipart/form-data; boundary=" + "y" * 300}, "boundary"),
        (b"nonsense", kind, "broken"),
        (b"--x--\r\n", kind, "no file was sent"),
        (head + b"%PDF-", kind, "ends in the middle"),
        (head.replace(b'file"', b'document"', 1) + b"\r\n--x--\r\n", kind, "fields called file"),
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na.pdf\r\n--x--\r\n', kind, "and no file;"),
        (
            b'--x\r\nContent-Disposition: form-data; name="color"\r\n\r\nred\r\n' + head + b"\r\n--x--\r\n",
            kind,
            "'color'",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="batch"\r\n\r\n' + b"a" * 20_000 + b"\r\n--x--\r\n",
            kind,
            "10,000 bytes",
        ),
        (
            b'--x\r\nContent-Disposition: form-data; name="batch"\r\n\r\n'
            + b"a" * 501
            + b"\r\n"
            + head
            + b"\r\n--x--\r\n",
            kind,
            "at most 500",
        ),
        (b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\norc\r\n' + head + b"\r\n--x--\r\n", kind, "orc"),
    ]:
        said = adder.post(url, content=body, headers=headers)
        assert said.status_code == 400 and words in said.json()["detail"], (body[:80], said.text)
    assert left(settings) == []
    assert documents(archive) == []


@pytest.mark.only("sqlite")
def test_an_uploaded_bomb_is_rejected_with_its_reason(archive: Archive, settings: Settings) -> None:
    bounded = settings.model_copy(update={"max_container_bytes": 2_000_000, "max_container_members": 100})
    adder = TestClient(create_app(bounded, allow_upload=True), base_url=HERE)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("bomb.png", b"\x89PNG\r\n\x1a\n" + bytes(50_000_000))
    assert len(packed.getvalue()) < 100_000
    said = adder.post("/api/v1/documents", files={"file": ("bomb.zip", packed.getvalue())}).json()
    failures = adder.get(f"/api/v1/batches/{said['batch_id']}/failures").json()["failures"]
    assert {failure["cause"] for failure in failures} == {"too-large"}
    assert all("PAGEPACK_MAX_CONTAINER_BYTES" in failure["reason"] for failure in failures)
    assert adder.get(f"/api/v1/batches/{said['batch_id']}").json()["files_rejected"] == len(failures)


@pytest.mark.only("sqlite")
def test_paths_are_taken_below_what_may_be_read_and_nowhere_else(
    adder: TestClient, archive: Archive, tmp_path: Path, settings: Settings
) -> None:
    scans, outside = tmp_path / "scans", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.pdf").write_bytes(b"%PDF-1.7 secret")
    (scans / "1913").mkdir()
    (scans / "1913" / "a.pdf").write_bytes(b"%PDF-1.7 a")
    (scans / "link").symlink_to(outside)
    (scans / "1913" / "out.pdf").symlink_to(outside / "secret.pdf")
    for path in (
        *("/etc/passwd", "/nowhere", str(outside), f"{scans}/../outside/secret.pdf", f"{scans}/link/secret.pdf"),
        *(
            f"{scans}/1913/out.pdf",
            f"{scans}-more",
            "1913",
            "",
            "s3://bucket/a",
            "file:///etc/passwd",
            f"{scans}\0",
            "/",
        ),
    ):
        said = adder.post("/api/v1/batches", json={"paths": [str(scans / "1913"), path]})
        assert said.status_code == 403 and "is not below a folder that may be read" in said.json()["detail"], path
    for path, words in ((f"{scans}/none", "nothing is at"), (f"{scans}/*", "nothing is at"), (str(settings.home), "")):
        assert adder.post("/api/v1/batches", json={"paths": [path]}).status_code == (403 if not words else 404)
    (scans / "empty").mkdir()
    nothing = adder.post("/api/v1/batches", json={"paths": [f"{scans}/empty"]})
    assert nothing.status_code == 404 and "no file found" in nothing.json()["detail"]
    for wrong in ({"paths": []}, {"paths": "x"}, {}, {"paths": [f"{scans}"], "prompts": [1]}):
        assert adder.post("/api/v1/batches", json=wrong).status_code == 422
    assert documents(archive) == []
    taken = adder.post("/api/v1/batches", json={"paths": [str(scans)], "batch": "all"})
    assert taken.status_code == 202 and taken.json()["all_seen"]
    states = {Path(path).name: state for path, state in documents(archive)}
    assert states == {"a.pdf": "pending", "out.pdf": "rejected", "link": "rejected"}


def test_failures_wait_again(adder: TestClient, archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf")
    assert document_id is not None
    (page,) = archive.ingest(document_id, ["one"])
    archive.read(page, UsageError("it loops"))
    archive.finish()
    none = adder.post("/api/v1/batches/b/retry", json={"cause": "nope"}).json()
    assert (none["failures"], none["answers"], none["nobody_reads"]) == (0, 0, None)
    again = adder.post("/api/v1/batches/b/retry", json={}).json()
    assert (again["failures"], again["answers"]) == (1, 1) and "pagepack worker" in again["nobody_reads"]
    assert archive.waiting(document_id) == [page]
    assert adder.post("/api/v1/batches/none/retry", json={}).status_code == 404


@pytest.mark.only("sqlite")
def test_a_folder_to_read_from_must_be_one(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--read-from .*none is no folder"):
        create_app(settings, read_from=[tmp_path / "none"])
