"""The HTTP server around the application: its port, its end."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlencode

import uvicorn

from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.web.app import create_app
from pipeline.web.guard import is_loopback

_MIN_TOKEN_CHARACTERS = 12
_GRACE_SECONDS = 3  # for answers under way when it ends


class WebServer:
    """Listens from its making on, so that a port that is taken is told before anything else is done."""

    def __init__(
        self,
        settings: Settings,
        host: str,
        port: int,
        token: str | None,
        allow_retry: bool,
        allow_upload: bool = False,
        read_from: Sequence[Path] = (),
        allow_review: bool = False,
    ) -> None:
        """A token is asked for where one is given; one is made where others reach the server or may change rows.

        Raises:
            UsageError: no database yet, or one of another version; the port is taken; no such address; a short token.
        """
        if token is None and (allow_retry or allow_review or allow_upload or read_from or not is_loopback(host)):
            token = secrets.token_urlsafe(18)
        if token is not None and len(token) < _MIN_TOKEN_CHARACTERS:
            raise UsageError(f"the token has {len(token)} characters; give at least {_MIN_TOKEN_CHARACTERS}")
        allowed = {"allow_retry": allow_retry, "allow_review": allow_review, "allow_upload": allow_upload}
        app = create_app(settings, token=token, **allowed, read_from=read_from)
        self._listener = _listen(host, port)
        name = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::"):  # every address of this machine, and one that no browser elsewhere can open
            name = socket.gethostname()
        self.url = f"http://{name}:{self._listener.getsockname()[1]}/"
        if token is not None:
            self.url += f"?{urlencode({'token': token})}"
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            http="h11",
            ws="none",
        )
        self._server = uvicorn.Server(config)

    def execute(self, say: Callable[[str], None]) -> None:
        """Answer until Ctrl-C or SIGTERM, which are its usual end."""
        say(self.url)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in handlers:  # uvicorn raises again what it was stopped by
            signal.signal(number, lambda *_: None)
        try:
            self._server.run(sockets=[self._listener])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._listener.close()

    def end_with_input(self) -> None:
        """End when the standard input does: with whoever holds its other end, however that one ends."""

        def wait() -> None:
            while os.read(0, 4096):
                pass
            self._server.should_exit = True

        threading.Thread(target=wait, name="input", daemon=True).start()

    def start(self) -> None:
        """Answer in a thread, beside what this process does, until `stop`."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="web", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=_GRACE_SECONDS + 1)
        self._listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=128)
        # An answer's head and body are two packets: else the second waits 40 ms until the first is acknowledged.
        # asyncio sees to it only for sockets that were made with the protocol's number.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {host} is taken, perhaps by another `pagepack serve`; choose another --port"
            ) from error
        way_out = "choose a --port above 1023" if error.errno == errno.EACCES else "give a --host of this machine"
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror or error}; {way_out}") from error
