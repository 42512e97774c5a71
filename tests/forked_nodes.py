"""xdist's processes are forked from one that has collected the tests: none of them imports torch and all tests again.

    pytest ──starts──> this process: collects the tests, then waits; the end of its standard input ends it
       └────starts, for each of xdist's──> a small one ──its streams──> this process ──fork──> runs tests

The small one stays until that process ends, and ends it when it is killed.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_START = """
import os, socket, sys
try:
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    socket.send_fds(server, [b"fork"], [0, 1, 2])
except OSError:  # there is none to fork from
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
os.close(0), os.close(1)
server.recv(1)
"""


def fork_from_one(paths: Sequence[str], specs: Sequence[Any]) -> Callable[[], object]:
    """Start the process to fork from, for the tests in `paths`; xdist's `specs` use it. Returns what ends it."""
    folder = Path(tempfile.mkdtemp(prefix="pagepack-nodes-"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        words = [sys.executable, "-P", __file__, str(listener.fileno()), *paths]
        kept_open = [listener.fileno()]
        server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=kept_open)
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-IS", "-c", _START, str(folder / "socket")])

    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)

    return end


def _serve(listener: socket.socket) -> socket.socket | None:
    """Fork for each that connects; returns its connection in the forked process, and here None at the end."""
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            return connection
        connection.close()
    return None


def _become_node(connection: socket.socket) -> None:
    """What xdist started, as `python -c` is: it reads its code from the standard input."""
    _, streams, *_ = socket.recv_fds(connection, 4, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO, which ends this process, when the other end is gone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c"]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(eval(sys.stdin.readline()), main.__dict__)


if __name__ == "__main__":
    import pytest

    descriptor, *paths = sys.argv[1:]
    pytest.main(["--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", *paths])  # what fails is told by who runs
    gc.collect()
    gc.freeze()  # else the first collection in each child would copy the pages of all objects
    gc.disable()  # as conftest.py does while tests are collected
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(descriptor)) as listener:
        connection = _serve(listener)
    if connection is not None:
        _become_node(connection)
    else:
        while True:
            try:
                os.wait()  # so that their processor time is counted as a child's
            except ChildProcessError:
                os._exit(0)  # to take such a heap apart takes a second or two
