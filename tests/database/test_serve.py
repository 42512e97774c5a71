"""`pagepack serve`: who may ask, and what every answer says to a browser."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipeline.database.engine import Database
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.web import request_site
from pipeline.web.app import create_app
from pipeline.web.guard import MAX_BODY_BYTES
from pipeline.web.serve import WebServer
from tests.conftest import Archive
from tests.running import call

TOKEN = "correct-horse-battery"
HERE = "http://localhost:8420"


@pytest.fixture
def client(archive: Archive, settings: Settings) -> TestClient:
    archive.file("/scans/a.pdf", ["the tide came in"])
    return TestClient(create_app(settings), base_url=HERE)


@pytest.fixture
def asked(archive: Archive, settings: Settings) -> TestClient:
    """A server that asks for a token."""
    return TestClient(create_app(settings, token=TOKEN), base_url="http://archive.example", follow_redirects=False)


def test_the_server_lists_batches_and_says_that_it_is_well(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    assert client.get("/api/health").json()["status"] == "ok"


def test_every_answer_forbids_what_is_not_its_own(client: TestClient) -> None:
    for path in ("/", "/nowhere", "/api/health", "/static/app.css"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy, path
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_without_a_token_only_names_of_this_machine_are_answered_to(client: TestClient) -> None:
    for host in ("127.0.0.1:8420", "[::1]:8420", "localhost"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    for host in ("rebound.example", "127.0.0.1.rebound.example", "", "localhost@rebound.example", "[", "[::1", "[x]"):
        assert client.get("/", headers={"host": host}).status_code == 400, host


def test_a_token_is_asked_of_browsers_and_programs(asked: TestClient) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": f"pagepack={TOKEN}"}, {"authorization": TOKEN}):
        refused = asked.get("/", headers=headers)
        assert refused.status_code == 401 and "token" in refused.text and "batch" not in refused.text.lower()[:200]
    assert asked.get("/api/health").json()["error"] == "A token is needed"
    assert asked.get("/api/health", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert asked.get("/static/app.css").status_code == 200


def test_an_address_with_the_token_lets_a_browser_in_and_the_token_leaves_its_bar(asked: TestClient) -> None:
    assert asked.get("/?token=wrong-wrong-wrong").status_code == 401
    came = asked.get(f"/search?q=a+b&token={TOKEN}")
    assert (came.status_code, came.headers["location"]) == (303, "/search?q=a+b")
    assert TOKEN not in came.headers["set-cookie"] and "HttpOnly" in came.headers["set-cookie"]
    assert asked.get("/").status_code == 200  # the client kept the cookie
    assert asked.get(f"{asked.base_url}//elsewhere.example/?token={TOKEN}").headers["location"] == "/elsewhere.example/"
    over_tls = asked.get(f"https://archive.example/?token={TOKEN}").headers["set-cookie"]
    assert "Secure" in over_tls and "Secure" not in came.headers["set-cookie"]


def test_what_another_site_sends_changes_nothing(client: TestClient) -> None:
    elsewhere = ("http://evil.example", "null", "http://[", "http://localhost:8421")
    for headers in ({"sec-fetch-site": "cross-site"}, *({"origin": origin} for origin in elsewhere)):
        assert client.post("/", headers=headers).status_code == 403, headers
    assert client.post("/", headers={"origin": HERE}).status_code == 405  # it got past the guard


def test_a_body_that_never_ends_is_refused(client: TestClient) -> None:
    assert client.post("/", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413


def test_two_servers_on_one_port_are_one_too_many(archive: Archive, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} of 127\.0\.0\.1 is taken.*choose another --port"):
            WebServer(settings, "127.0.0.1", port, None, False)
    with pytest.raises(UsageError, match="give a --host of this machine"):
        WebServer(settings, "192.0.2.1", 0, None, False)


def test_whoever_others_reach_has_a_token(archive: Archive, settings: Settings) -> None:
    for host, allow_retry, has_token in (("127.0.0.1", False, False), ("0.0.0.0", False, True), ("::1", True, True)):
        server = WebServer(settings, host, 0, None, allow_retry)
        assert bool(re.search(r"\?token=[\w-]{20,}$", server.url)) == has_token, server.url
        assert "//0.0.0.0" not in server.url  # others are to open it
        server._listener.close()
    with pytest.raises(UsageError, match="at least 12"):
        WebServer(settings, "127.0.0.1", 0, "short", False)


def test_a_database_of_another_version_is_refused_at_the_start(db: Database, settings: Settings) -> None:
    Archive(db).execute("UPDATE alembic_version SET version_num = '0003'")
    done = call("serve", "--home", settings.home, "--port", "0")
    assert done.returncode == 2 and "pagepack db upgrade" in done.stderr


def test_a_database_that_is_migrated_meanwhile_is_told_in_its_pages(
    client: TestClient, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/").status_code == 200
    archive.execute("UPDATE alembic_version SET version_num = '9999'")
    monkeypatch.setattr(request_site, "_SAME_SECONDS", 0.0)
    refused = client.get("/")
    assert refused.status_code == 400 and "newer pagepack" in refused.text


def test_a_home_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no database"):
        WebServer(Settings(home=tmp_path), "127.0.0.1", 0, None, False)
