"""How the command ends: as any program of Python, but for what is in memory, which the system takes back by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.running import environment, pagepack, write_pdf

_PROGRAM = """
import atexit, sys, threading
from pipeline.__main__ import main

class Held:
    def __del__(self):
        print("taken apart", file=sys.stderr)

def work():
    threading.main_thread().join()
    print("a thread ended", file=sys.stderr)

held = Held()
atexit.register(print, "at exit", file=sys.stderr)
threading.Thread(target=work).start()
sys.argv = ["pagepack", *sys.argv[1:]]
main()
"""


def test_threads_and_callbacks_end_and_no_heap_is_taken_apart() -> None:
    for words, code in ((["--version"], 0), (["no-such-command"], 2)):
        command = [sys.executable, "-P", "-c", _PROGRAM, *words]
        ended = subprocess.run(command, env=environment("InstantEngine"), capture_output=True, text=True, timeout=600)
        assert ended.returncode == code, ended.stderr
        assert ended.stderr.splitlines()[-2:] == ["a thread ended", "at exit"]
        assert ("version" in ended.stdout) == (code == 0)


def test_nothing_is_left_beside_the_database(tmp_path: Path) -> None:
    """What a command wrote and did not fold into the file is lost to who copies that."""
    home = tmp_path / "home"
    write_pdf(tmp_path / "in/a.pdf", 2)
    (tmp_path / "in/broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    for words, code in (
        (("run", tmp_path / "in"), 1),
        (("retry",), 0),
        (("pause",), 0),
        (("resume",), 0),
        (("submit", tmp_path / "in/a.pdf", "--prompt", "describe"), 0),
    ):
        done = pagepack(*words, "--home", home)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert [file.name for file in home.glob("pagepack.db*")] == ["pagepack.db"], words
