"""Workers that a run forks before it begins: what they take over from it, and that none outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.running import environment, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a run starts fresh processes only")


def of_a_parent(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A process that forks ahead, for pytest's own has threads."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env=environment("InstantEngine"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


DESCRIBES = """
import os, sys
from pathlib import Path
from pipeline.supervisor.forked import fork_ahead
print("written once", end="")
with fork_ahead(1) as spare:
    worker = spare.pop()
    worker.begin("describe", os.environ | {sys.argv[2]: sys.argv[3]}, Path(sys.argv[1]))
    print(f", exit code {worker.wait()}")
"""


def test_a_forked_worker_is_what_its_order_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine = "PAGEPACK_INTERNAL_ENGINE", "tests.stand_ins:OcrOnlyEngine"
    said, errors = of_a_parent(DESCRIBES, log, *engine).communicate(timeout=200)
    assert said == "written once, exit code 0\n", errors
    assert json.loads(log.read_text())["engine"] == "ocr-only"


def test_a_forked_worker_ends_with_its_own_exit_code_and_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said, errors = of_a_parent(DESCRIBES, log, "PAGEPACK_LEASE_SECONDS", "soon").communicate(timeout=200)
    assert said == "written once, exit code 2\n", errors
    assert log.read_text().startswith("pagepack: PAGEPACK_LEASE_SECONDS")
    said, errors = of_a_parent(DESCRIBES, log, "PAGEPACK_INTERNAL_ENGINE", "no_such:Engine").communicate(timeout=200)
    assert said == "written once, exit code 70\n", errors
    assert "ModuleNotFoundError: No module named 'no_such'" in log.read_text()


ASKS = """
import os
from pipeline.supervisor.forked import fork_ahead
with fork_ahead(2) as spare:
    for engine in ("tests.stand_ins:OcrOnlyEngine", "no_such:Engine"):
        code, said = spare.pop().ask("describe", os.environ | {"PAGEPACK_INTERNAL_ENGINE": engine})
        print(code, said.strip().splitlines()[-1])
"""


def test_a_forked_worker_may_be_asked_and_its_words_are_the_runs_to_tell() -> None:
    said, errors = of_a_parent(ASKS).communicate(timeout=200)
    assert errors == ""
    answer, failure = said.splitlines()
    assert answer.startswith("0 {") and json.loads(answer[2:])["engine"] == "ocr-only"
    assert failure.startswith("70 ") and "No module named 'no_such'" in failure


IMPORTS = """
import sys
from pathlib import Path
from pipeline.blobs.storage import import_for
from pipeline.supervisor.forked import fork_ahead
import_for([Path("folder"), None, "file:///folder"])
print("fsspec" in sys.modules, "s3fs" in sys.modules)
import_for(["no-such-scheme://bucket", "S3://bucket/folder"])
with fork_ahead(1) as spare:
    print("s3fs" in sys.modules, len(spare))
"""


def test_what_opens_a_url_is_imported_before_workers_are_forked_and_starts_no_thread() -> None:
    said, errors = of_a_parent(IMPORTS).communicate(timeout=200)
    assert said.splitlines() == ["False False", "True 1"], errors


WAITS = """
import signal, sys
from pipeline.supervisor.forked import fork_ahead
held = open(sys.argv[1], "w")
with fork_ahead(2) as spare:
    print(*(process.pid for process in spare), flush=True)
    if sys.argv[2] == "fails":
        sys.exit("nothing to do")
    signal.pause()
"""


def test_waiting_workers_hold_nothing_of_the_run_and_end_when_it_is_killed(tmp_path: Path) -> None:
    parent = of_a_parent(WAITS, tmp_path / "held", "stays")
    assert parent.stdout is not None
    waiting = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(waiting) == 2
    for process in waiting:
        assert process.num_fds() == 3 and process.open_files() == []
        assert process.status() != psutil.STATUS_ZOMBIE
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in waiting))


def test_workers_that_were_not_needed_end_with_the_run(tmp_path: Path) -> None:
    parent = of_a_parent(WAITS, tmp_path / "held", "fails")
    said, _ = parent.communicate(timeout=200)
    assert parent.returncode == 1
    assert not any(psutil.pid_exists(int(pid)) for pid in said.split())


INTERRUPTED = """
import os, signal, sys
from pipeline.supervisor import forked
leave_the_group = os.setsid
def setsid():
    os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, between the fork and here
    leave_the_group()
forked.os.setsid = setsid
with forked.fork_ahead(1) as spare:
    worker = spare.pop()
    worker.begin("describe", os.environ, None)
    sys.exit(worker.wait())
"""


def test_a_ctrl_c_that_comes_while_it_is_forked_is_the_runs_own() -> None:
    parent = of_a_parent(INTERRUPTED)
    _, errors = parent.communicate(timeout=200)
    assert parent.returncode == 0 and "KeyboardInterrupt" not in errors, errors
