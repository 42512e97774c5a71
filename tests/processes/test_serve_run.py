"""`pagepack serve` as a process, and beside a run."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx2

from tests.running import start, wait_until, write_pdf


def address_in(process: subprocess.Popen[str]) -> str:
    """The first one that it prints."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return found[0]
    raise AssertionError("it printed no address")


def test_a_run_is_looked_at_meanwhile_and_takes_its_page_away(tmp_path: Path) -> None:
    write_pdf(tmp_path / "in" / "a.pdf", 8)
    gate = tmp_path / "gate"  # the run goes on until it was looked at
    held = {"engine": "HeldEngine", "PAGEPACK_INTERNAL_GATE": str(gate)}
    run = start("run", tmp_path / "in", "--home", tmp_path / "home", "--serve", **held)
    address = address_in(run)

    def shows_it() -> bool:  # the page is there before the run has opened its batch
        page = httpx2.get(address, timeout=60)
        assert page.status_code == 200
        return ">in</a>" in page.text and "running" in page.text

    wait_until(shows_it)
    run.send_signal(signal.SIGINT)
    gate.touch()
    assert run.wait(timeout=600) == 130
    try:
        httpx2.get(address, timeout=5)
        raise AssertionError("the server outlived its run")
    except httpx2.TransportError:
        pass


def test_a_server_ends_at_ctrl_c_with_code_0(tmp_path: Path, migrated: Path) -> None:
    shutil.copy(migrated, tmp_path / "pagepack.db")
    server = start("serve", "--home", tmp_path, "--port", "0", engine="InstantEngine", forked=True)
    assert httpx2.get(f"{address_in(server)}api/health", timeout=60).json()["status"] == "ok"
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=600) == 0
