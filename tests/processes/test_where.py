"""Where answers go is said, and no --home is overruled in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.postgres import PASSWORD, PostgresServer
from tests.running import call, pagepack, rows, write_pdf

NOWHERE = "postgresql://me:s3cret@127.0.0.1:9/pages"


def test_run_ask_and_submit_say_at_the_start_where_answers_go(tmp_path: Path) -> None:
    home, file = tmp_path / "home", write_pdf(tmp_path / "a.pdf", 1)
    said = f"answers go to {home / 'pagepack.db'}"
    stray = tmp_path / "notes.txt"  # where there is nothing to read, nothing that reads is started
    stray.write_text("no page")
    run = pagepack("run", stray, "--home", home)
    assert said in run.stderr.splitlines() and said not in run.stdout, run.stderr
    asked = pagepack("ask", "Which?", stray, "--home", home)
    assert asked.returncode == 0 and said in asked.stderr.splitlines(), asked.stderr
    submitted = call("submit", file, "--home", home)
    rest = "1 file; `pagepack plan` with the same paths says how many pages, and how long\n"
    assert submitted.stderr == f"{said}\n{rest}" and len(submitted.stdout.split()) == 1


def test_a_server_is_named_without_its_password(tmp_path: Path, postgres: PostgresServer) -> None:
    postgres.execute("CREATE DATABASE of_where TEMPLATE pagepack_template")
    url = postgres.tcp_url("of_where")
    home = tmp_path / "home"
    run = pagepack("run", write_pdf(tmp_path / "a.pdf", 1), "--home", home, PAGEPACK_DATABASE_URL=url)
    assert run.returncode == 0, run.stderr
    lines, server = run.stderr.splitlines(), "PAGEPACK_DATABASE_URL says where answers go"
    assert lines[0] == f"pagepack: --home {home} is for logs and page images; {server}"
    assert f"answers go to {url.replace(f':{PASSWORD}', '')}" in lines and PASSWORD not in run.stderr + run.stdout
    assert (home / "logs").is_dir() and (home / "images").is_dir() and not (home / "pagepack.db").exists()
    status = json.loads(call("status", "--json", PAGEPACK_DATABASE_URL=url).stdout)
    assert status["command"] == f"pagepack run --home {home} {tmp_path / 'a.pdf'}", "its logs and images lie there"
    (hint,) = [line for line in run.stdout.splitlines() if line.startswith("read:")]
    assert hint == 'read:  pagepack sql "SELECT source_path, page_number, text FROM page_text"'


@pytest.mark.parametrize(
    "command",
    ["status", "search x", "sql SELECT", "export --out o", "retry", "pause", "cancel b", "db upgrade", "submit x.pdf"],
)
def test_a_home_is_not_looked_into_beside_a_server(tmp_path: Path, command: str) -> None:
    result = call(*command.split(), "--home", tmp_path, PAGEPACK_DATABASE_URL=NOWHERE)
    assert result.returncode == 2
    said = f"--home {tmp_path} names the database in that folder, and PAGEPACK_DATABASE_URL another one"
    assert result.stderr == f"pagepack: {said}; leave --home out, or unset PAGEPACK_DATABASE_URL\n"


def test_wherever_the_server_is_named_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_text(NOWHERE)
    (tmp_path / "pagepack.toml").write_text(f'database_url = "{NOWHERE}"')
    secret = call("status", "--home", home, PAGEPACK_DATABASE_URL_FILE=str(tmp_path / "secret"))
    named = f"PAGEPACK_DATABASE_URL_FILE ({tmp_path / 'secret'})"
    assert secret.returncode == 2 and f"and {named} another one; leave --home out, or unset {named}" in secret.stderr
    monkeypatch.chdir(tmp_path)
    file = call("status", "--home", home)
    assert file.returncode == 2 and f"leave --home out, or take database_url out of {tmp_path}/p" in file.stderr
    monkeypatch.chdir("/")
    (tmp_path / "pagepack.toml").rename(home / "pagepack.toml")
    own = call("status", "--home", home)
    assert own.returncode == 4 and "did not answer" in own.stderr, "the home's own file is obeyed"
    assert call("config", "--home", home, PAGEPACK_DATABASE_URL=NOWHERE).returncode == 0


def test_a_home_with_a_database_is_not_passed_over_for_a_server(tmp_path: Path) -> None:
    home, file = tmp_path / "home", write_pdf(tmp_path / "a.pdf", 1)
    assert call("submit", file, "--home", home).returncode == 0
    for command in (["run", file], ["ask", "Which?", file], ["worker"], ["forget", file], ["prune"]):
        result = call(*command, "--home", home, PAGEPACK_DATABASE_URL=NOWHERE)
        assert result.returncode == 2
        assert result.stderr == (
            f"pagepack: --home {home} holds a database, and PAGEPACK_DATABASE_URL says that answers go to another one; "
            "unset PAGEPACK_DATABASE_URL, or choose another --home for logs and page images\n"
        )
    assert rows(home, "SELECT count(*) FROM batches") == [(1,)]


def test_a_service_has_both_as_variables(tmp_path: Path) -> None:
    result = call("status", PAGEPACK_HOME=str(tmp_path), PAGEPACK_DATABASE_URL=NOWHERE)
    assert result.returncode == 4 and "did not answer" in result.stderr and "--home" not in result.stderr
