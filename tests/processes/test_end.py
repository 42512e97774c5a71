"""How the command ends: as any program of Python, but for what is in memory, which the system takes back by itself."""

from __future__ import annotations

import subprocess
import sys

from tests.running import environment

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
