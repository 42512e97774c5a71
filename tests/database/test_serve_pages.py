"""What `pagepack serve` shows of an archive: every page of it, on both databases, with hostile names and texts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.errors import PageFailed
from pipeline.ingest.forget import find_known, forget
from pipeline.query.failure_list import causes_of, find_failure, list_failures
from pipeline.settings import Settings
from pipeline.store.answers import ReadAnswer
from pipeline.store.forget_plan import plan
from pipeline.store.pages import NewPage
from pipeline.web import gathered
from pipeline.web.app import create_app
from schemas.prompts import CATALOGUE, OCR, Prompt
from tests.conftest import Archive, answer

DATABASES = ("sqlite", "postgresql")
TOKEN = "correct-horse-battery"
HOSTILE = """/scans/<script>alert(1)</script>/"onload="alert(2)' javascript:alert(3).pdf"""
TEXT = "<script>alert(4)</script> tide <img src=x onerror=alert(5)>\n\n<table><tr><td>A &amp; B</td></tr></table>"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages wait for what is gathered beside them, on however busy a machine."""
    monkeypatch.setattr(gathered, "PATIENCE", 1_000)


@pytest.fixture
def client(archive: Archive, settings: Settings) -> TestClient:
    return TestClient(create_app(settings), base_url="http://localhost", headers={"sec-fetch-site": "none"})


@pytest.fixture
def hostile(archive: Archive, settings: Settings) -> str:
    """A document of four pages: one with text, lines and an image; one that failed; one not drawn; one that waits."""
    document = archive.see(HOSTILE)
    assert document is not None
    image_hash = open_images(settings).put(encode(Image.new("L", (160, 320), 255)))
    drawn = [NewPage(0, image_hash, 160, 320), NewPage(1, "b" * 64, 16, 32)]
    broken = NewPage(2, error=PageFailed("<b>it is broken</b>", cause="damaged"))
    first, second, _ = archive.ingest(document, [*drawn, broken, NewPage(3, "c" * 64, 16, 32)])
    lines = [[10, 20, 100, 40, 0.99, "tide"], [10, 50, 100, 70, 0.42, "A & B"], ["no", "line"]]
    archive.read(
        first,
        lambda _: answer(
            TEXT, details={"lines": lines}, confidence=0.7, review_reason="low-confidence", review_score=0.6
        ),
    )
    archive.read(second, PageFailed("<i>the engine fell over</i>", cause="engine"))
    return str(archive.scalar("SELECT public_id FROM documents"))


def no_script_of_a_document(html: str) -> None:
    assert re.findall(r"<script[^>]*>", html) == ['<script src="/static/app.js?0.1.0" defer>']
    for sign in ("<img src=x", "<b>it", "<i>the", 'onload="', 'href="javascript', "<td>A &amp;amp;"):
        assert sign not in html, sign


def test_every_page_shows_and_no_text_of_a_document_is_more_than_text(
    client: TestClient, archive: Archive, settings: Settings, hostile: str
) -> None:
    batch = archive.scalar("SELECT public_id FROM batches")
    shown = {}
    for path in (
        "/",
        f"/batches/{batch}",
        f"/batches/{batch}/progress",
        f"/batches/{batch}/failures",
        f"/documents/{hostile}",
        *(f"/documents/{hostile}/pages/{number}" for number in (1, 2, 3, 4)),
        "/review",
        "/search?q=tide",
        "/search?q=%3Cscript%3E",
        "/charts",
        "/sql?q=SELECT+*+FROM+page_text",
        "/sql?q=%3Cscript%3E",
        "/nowhere/%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        answered = client.get(path)
        assert answered.status_code == {"/sql?q=%3Cscript%3E": 400}.get(path, 404 if "nowhere" in path else 200), path
        shown[path] = answered.text
        if not path.endswith("/progress"):
            no_script_of_a_document(answered.text)
    page = shown[f"/documents/{hostile}/pages/1"]
    assert 'href="#box-0" data-line="0">tide</a>' in page
    assert 'doubted" href="#box-1" data-line="1">A &amp; B</a><span class="sure">' in page and "42%" in page
    assert '<rect id="box-1" data-line="1" x="10" y="50" width="90" height="20" class="doubted"/>' in page
    assert "&lt;i&gt;the engine fell over" in shown[f"/documents/{hostile}/pages/2"]
    assert "&lt;b&gt;it is broken" in shown[f"/documents/{hostile}/pages/3"]
    assert "waits to be read" in shown[f"/documents/{hostile}/pages/4"]
    assert "low-confidence" in shown["/review"] and "<mark>tide</mark>" in shown["/search?q=tide"]
    failures = shown[f"/batches/{batch}/failures"]
    home = f"--home {settings.home} " if settings.database_url is None else ""
    assert f"<code>pagepack retry {home}{batch}</code>" in failures
    assert "No page has this address." in shown["/nowhere/%3Cscript%3Ealert(1)%3C/script%3E"]
    assert "engine <span" in failures and "damaged <span" in failures and "Retry" not in failures


@pytest.mark.only("sqlite")
def test_an_image_is_small_kept_and_missed_in_its_place(
    client: TestClient, archive: Archive, hostile: str, settings: Settings
) -> None:
    where = f"/documents/{hostile}/pages/1"
    whole, small = client.get(f"{where}/image"), client.get(f"{where}/thumbnail")
    assert Image.open(io.BytesIO(whole.content)).size == (160, 320)
    assert Image.open(io.BytesIO(small.content)).size == (160, 320) and small.headers["content-type"] == "image/webp"
    again = client.get(f"{where}/image", headers={"if-none-match": whole.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert client.get(f"/documents/{hostile}/pages/2/image").status_code == 404  # lost
    assert client.get(f"/documents/{hostile}/pages/3/image").status_code == 404  # never drawn
    open_images(settings).delete(archive.scalar("SELECT image_hash FROM pages WHERE page_index = 0"))
    archive.execute("UPDATE pages SET image_freed_at = '2026-01-02 03:04:05.000000' WHERE page_index = 0")
    page = client.get(where).text
    assert "The image was removed on" in page and "2026-01-02 03:04" in page and "<img" not in page
    assert client.get(f"{where}/image").status_code == 404
    assert "image removed" in client.get(f"/documents/{hostile}").text


def test_failures_wait_again_where_that_is_allowed(archive: Archive, settings: Settings, hostile: str) -> None:
    batch = archive.scalar("SELECT public_id FROM batches")
    client = TestClient(create_app(settings, token=TOKEN, allow_retry=True), base_url="http://localhost")
    failures = client.get(f"/batches/{batch}/failures", headers={"authorization": f"Bearer {TOKEN}"})
    client.headers["authorization"] = f"Bearer {TOKEN}"
    key = re.search(r'name="form_key" value="(\w+)"', failures.text)
    assert key is not None
    where = f"/batches/{batch}/failures/retry"
    assert client.post(where, data={"form_key": "wrong", "cause": "engine"}).status_code == 403
    assert client.post(where, data={"cause": "engine"}).status_code == 422
    off = TestClient(create_app(settings, token=TOKEN), base_url="http://localhost", headers=client.headers)
    assert off.post(where, data={"form_key": key[1], "cause": "engine"}).status_code == 403
    assert archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'failed'") == 1
    done = client.post(where, data={"form_key": key[1], "cause": "engine"})
    assert done.status_code == 200 and "1 waits again" in done.text
    assert archive.rows("SELECT cause FROM failures") == [("damaged",)]
    one = re.search(
        r'name="failure" value="(\d-\d+)"', done.history[0].text + client.get(f"/batches/{batch}/failures").text
    )
    assert one is not None
    client.post(where, data={"form_key": key[1], "failure": one[1]})
    assert archive.rows("SELECT cause FROM failures") == []
    assert "Nothing waits again" in client.post(where, data={"form_key": key[1], "failure": one[1]}).text


@pytest.mark.only("sqlite")
def test_versions_are_shown_and_compared(client: TestClient, archive: Archive) -> None:
    for model, text in (("m1", "the tide came in"), ("m2", "the tide went in")):
        archive.batch(model, model=model)
        document = archive.see("/a.pdf", batch=model)
        assert document is not None
        (page,) = archive.ingest(document, ["a"]) if model == "m1" else archive.waiting(document)
        archive.read(page, text, model)
    (old, new) = (row[0] for row in archive.rows("SELECT id FROM answer_versions ORDER BY id"))
    where = f"/documents/{archive.scalar('SELECT public_id FROM documents')}/pages/1"
    assert "the tide went in" in client.get(where).text
    assert "not the current version" in client.get(f"{where}?answer={old}").text
    changes = client.get(f"{where}?answer={new}&against={old}").text
    assert re.search(r"<del>.*came</del>\s*<ins>.*went</ins>", changes)
    assert client.get(f"{where}?answer=999").status_code == 404


@pytest.mark.only("sqlite")
def test_the_review_list_is_walked_from_page_to_page(client: TestClient, archive: Archive) -> None:
    def doubted(score: float) -> Callable[[Prompt], ReadAnswer]:
        return lambda _: answer("x", review_reason="low-confidence", review_score=score)

    for name, score in (("a", 0.2), ("b", 0.9), ("c", 0.5)):
        document = archive.see(f"/{name}.pdf")
        assert document is not None
        (page,) = archive.ingest(document, [name])
        archive.read(page, doubted(score))
    listed = client.get("/review?reason=low-confidence").text
    assert re.findall(r'class="name">(\w)\.pdf', listed) == ["b", "c", "a"]
    seen = []
    link = re.search(r'class="entry" href="([^"]+)"', listed)
    while link is not None:
        page = client.get(link[1].replace("&amp;", "&")).text
        seen.append(re.search(r"<strong>(\d of \d) worth", page)[1])  # type: ignore[index]
        link = re.search(r'data-key="j" href="([^"]+)"', page)
    assert seen == ["1 of 3", "2 of 3", "3 of 3"]
    assert "No page is worth a look" in client.get("/review?reason=empty").text


def test_pages_are_marked_as_seen_and_the_next_day_begins_with_what_is_left(
    archive: Archive, settings: Settings
) -> None:
    def doubted(_: Prompt) -> ReadAnswer:
        return answer("x", review_reason="low-confidence", review_score=0.5)

    for name in "abc":
        archive.read(archive.ingest(archive.see(f"/in/{name}.pdf") or 0, [name])[0], doubted)
    headers = {"authorization": f"Bearer {TOKEN}"}
    off = TestClient(create_app(settings, token=TOKEN), base_url="http://localhost", headers=headers)
    app = create_app(settings, token=TOKEN, allow_review=True)
    client = TestClient(app, base_url="http://localhost", headers=headers)

    def left(who: TestClient, **where: str) -> str:
        return "".join(re.findall(r'class="name">(\w)\.pdf', who.get("/review", params=where).text))

    def form(page: str) -> tuple[str, dict[str, str]]:
        action, fields = re.search(r'action="([^"]+/seen)" class="inline">(.*?)</form>', page, re.S).groups()  # type: ignore[union-attr]
        return action, dict(re.findall(r'name="(\w+)" value="([^"]*)"', fields))

    listed = client.get("/review?reason=low-confidence").text
    first = re.search(r'class="entry" href="([^"]+)"', listed)[1].replace("&amp;", "&")  # type: ignore[index]
    page = client.get(first)
    action, fields = form(page.text)
    assert left(client) == "abc" and 'data-key="s"' not in off.get(first).text
    assert off.post(action, data=fields).status_code == 403
    assert client.post(action, data=fields | {"form_key": "x"}).status_code == 403 and left(client) == "abc"
    following = client.post(action, data=fields)
    assert "1 of 2 worth a look" in following.text and "b.pdf" in following.text
    assert following.url.query == b"prompt=ocr&queue=.low-confidence"
    client.post(action, data=fields)  # once more, as after a reload
    assert left(client) == "bc" == left(off) and left(client, seen="yes") == "a"
    assert archive.rows("SELECT file_name FROM review WHERE seen_at IS NOT NULL") == [("a.pdf",)]
    again = client.get(first).text
    assert "Seen; 2 left" in again and 'data-key="j"' in again
    assert form(again)[1]["unseen"] == "yes" and 'data-key="s"' in client.post(action, data=form(again)[1]).text
    assert left(client) == "abc" and left(client, seen="yes") == ""
    client.post(action, data=fields)
    archive.batch("anew", model="m2")  # read anew, a page is to be seen again
    document = archive.see("/in/a.pdf", batch="anew") or 0
    archive.read(archive.waiting(document)[0], lambda _: answer("y", "m2", review_reason="length"), "m2")
    assert left(TestClient(create_app(settings), base_url="http://localhost")) == "abc"
    stale = client.post(action, data=fields)  # with the answer that it does not show any more
    assert stale.status_code == 200 and archive.rows("SELECT * FROM review WHERE seen_at IS NOT NULL") == []


def test_counts_of_a_batch_are_fresh_after_files_of_it_are_forgotten(archive: Archive, settings: Settings) -> None:
    """They are kept for an hour, else: a batch that is finished does not change."""
    for name in "abc":
        archive.file(f"/in/{name}.pdf", [name])
    open_images(settings).put(b"", archive.scalar("SELECT max(image_hash) FROM pages WHERE document_id = 2"))
    archive.finish()
    client = TestClient(create_app(settings), base_url="http://localhost")
    assert '<td class="number">3</td>' in client.get("/").text
    forget(archive.db, settings, plan(archive.db, find_known(archive.db, ["/in/b.pdf"])))
    listed = client.get("/").text
    pages_and_files = listed.count('<td class="number">2</td>')
    assert '<td class="number">3</td>' not in listed and pages_and_files == 2


@pytest.mark.only("sqlite")
def test_statements_are_held_to_reading_and_to_bounds(client: TestClient, archive: Archive) -> None:
    archive.file("/a.pdf", ["the tide came in"])
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    shown = client.get("/sql", params={"q": endless})
    assert shown.status_code == 200 and "these are the first 500 rows" in shown.text
    for statement in ("DELETE FROM pages", "ATTACH 'x' AS y", "PRAGMA journal_mode", "SELECT", "SELECT 1; SELECT 2"):
        assert client.get("/sql", params={"q": statement}).status_code == 400, statement
    assert archive.scalar("SELECT count(*) FROM pages") == 1
    other_site = client.get("/sql", params={"q": "SELECT 7 * 6"}, headers={"sec-fetch-site": "cross-site"})
    assert "SELECT 7 * 6" in other_site.text and "<td" not in other_site.text
    del client.headers["sec-fetch-site"]  # as over HTTP from another host
    for sent_from, runs in (
        ({"referer": "http://localhost/sql"}, True),
        ({"referer": "http://other/sql"}, False),
        ({}, False),
    ):
        shown = client.get("/sql", params={"q": "SELECT 7 * 6"}, headers=sent_from)
        assert "SELECT 7 * 6" in shown.text and ("<td" in shown.text) is runs, sent_from


@pytest.mark.only("sqlite")
def test_a_query_that_is_half_of_one_is_told(client: TestClient, archive: Archive) -> None:
    archive.file("/a.pdf", ["the tide came in"])
    half = client.get("/search?q=tide+OR")
    assert half.status_code == 400 and "no word after OR" in half.text and 'value="tide OR"' in half.text
    assert client.get("/search?q=tide&prompt=nobody").status_code == 400
    assert client.get("/search?q=tide&batch=nobody").status_code == 404


@pytest.mark.only("sqlite")
def test_a_search_is_narrowed_by_its_form(client: TestClient, archive: Archive) -> None:
    archive.file("/letters/1913/a.pdf", ["the tide came in"])
    archive.file("/bills/b.pdf", ["the tide went out"])
    archive.execute("UPDATE answer_versions SET confidence = 0.5, created_at = '2026-01-31 18:00:00' WHERE id = 1")
    for narrowed, files in {
        "": "ab",
        "folder=letters%2F1913": "a",
        "folder=nowhere%00": "",
        "since=2026-01-31&until=2026-01-31": "a",
        "until=2026-01-30": "",
        "min_confidence=40&max_confidence=60": "a",
        "folder=&since=&until=&min_confidence=&max_confidence=": "ab",
    }.items():
        shown = client.get(f"/search?q=tide&{narrowed}").text
        assert "".join(sorted(re.findall(r'class="name">(\w)\.pdf', shown))) == files, narrowed
    for wrong in ("since=soon", "until=9999-12-31", "min_confidence=many", "max_confidence=101", "min_confidence=nan"):
        assert client.get(f"/search?q=tide&{wrong}").status_code == 400, wrong


@pytest.mark.only("sqlite")
def test_many_failures_come_some_at_a_time(client: TestClient, archive: Archive) -> None:
    archive.batch()
    for number in range(40):
        archive.see(f"/{number:02}.txt", rejection="unsupported")
    where = f"/batches/{archive.batches['b'].public_id}/failures?cause=unsupported"
    seen: list[str] = []
    while where:
        page = client.get(where.replace("&amp;", "&")).text
        seen += re.findall(r'class="name">(\d\d)\.txt', page)
        more = re.search(r'rel="next" href="([^"]+)"', page)
        where = more[1] if more else ""
    assert sorted(seen) == [f"{number:02}" for number in range(40)]


def test_a_failure_that_two_batches_share_is_listed_in_both_and_no_other(archive: Archive) -> None:
    for name in ("b", "c"):
        archive.batch(name)
    document = archive.see("/a.pdf")
    assert document is not None
    (page,) = archive.ingest(document, ["a"])
    archive.see("/a.pdf", batch="c")
    archive.read(page, PageFailed("fell over", cause="engine"))
    archive.see("/d.txt", batch="d", rejection="unsupported")
    for name, causes in {"b": ["engine"], "c": ["engine"], "d": ["unsupported"]}.items():
        found = list_failures(archive.db, archive.batches[name].id)
        assert [one.cause for one in found] == causes == list(causes_of(archive.db, archive.batches[name].id)), name
        assert find_failure(archive.db, archive.batches[name].id, found[0].key) == found[0]


def test_prompts_stand_beside_each_other(client: TestClient, archive: Archive) -> None:
    archive.batch(prompts=(OCR, CATALOGUE["describe"]))
    document = archive.see("/a.pdf")
    assert document is not None
    (page,) = archive.ingest(document, ["a"])
    archive.read(page, lambda prompt: answer(f"this is {prompt.name}"))
    where = f"/documents/{archive.scalar('SELECT public_id FROM documents')}/pages/1"
    assert "this is ocr" in client.get(where).text
    assert "this is describe" in client.get(f"{where}?prompt=describe").text


def test_an_odd_address_is_told_and_is_no_fault(archive: Archive, settings: Settings) -> None:
    archive.file("/a.pdf", ["the tide came in"])
    client = TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False)
    document = archive.scalar("SELECT public_id FROM documents")
    batch = archive.batches["b"].public_id
    for odd in ("-1", "9" * 30, str(2**63), "%00%ff%ED%A0%80", "0-" + "9" * 20):
        for path in (
            f"/?before={odd}",
            f"/batches/{odd}",
            f"/batches/{batch}/failures?after={odd}&cause={odd}",
            f"/documents/{odd}",
            f"/documents/{document}?start={odd}",
            f"/documents/{document}/pages/{odd}",
            f"/documents/{document}/pages/{odd}/image",
            f"/documents/{document}/pages/1?answer={odd}",
            f"/documents/{document}/pages/1?prompt={odd}&against={odd}&queue={odd}.{odd}",
            f"/documents/{document}/pages/1/go?to={odd}",
            f"/review?batch={odd}",
            f"/review?start={odd}",
            f"/search?q={odd}&prompt={odd}",
            f"/search?q=tide&batch={odd}",
            f"/sql?q={odd}",
        ):
            answered = client.get(path)
            assert answered.status_code < 500, (path[:100], answered.status_code)
