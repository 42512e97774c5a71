"""`/metrics`, `/healthz` and `/readyz` of a worker's supervisor, on a small HTTP server of its own.

    /metrics   what its processes counted, added up, and what waits in the whole installation
    /healthz   200 while the supervisor's loop ticks: else it is to be killed and started again
    /readyz    200 once every engine is loaded and database and broker answer: else it takes no pages now

The last two answer in one line of JSON; with 503 it names what is wrong. No password guards them, so they are served on
the loopback address unless another is asked for.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from pipeline.daemons import start_daemon
from pipeline.errors import UsageError, redacted
from pipeline.telemetry.metrics import forget_the_dead

log = logging.getLogger("pagepack.host")

Problems = Callable[[], Mapping[str, str]]
"""Says what is wrong, by the name of a part; empty where all is well."""


class Pulse:
    """The loop's tick, and for how long there was none."""

    def __init__(self, silence_seconds: float = 60.0) -> None:
        self._silence_seconds = silence_seconds
        self.tick()

    def tick(self) -> None:
        self._ticked_at = time.monotonic()

    def problems(self) -> dict[str, str]:
        silent = time.monotonic() - self._ticked_at
        return {"loop": f"no tick for {silent:.0f} s"} if silent > self._silence_seconds else {}


@contextmanager
def serve(
    host: str, port: int, *, is_alive: Problems, readiness: Problems, folder: Path, extra_metrics: Sequence[Any] = ()
) -> Iterator[int]:
    """Serve while the block runs; gives the port, which the system chooses for 0.

    `folder` is what `metrics.collecting()` gave; `extra_metrics` are collectors of prometheus_client, like `Backlog`.

    Raises:
        UsageError: the address cannot be had.
    """

    class Handler(_Handler):
        pages = {  # noqa: RUF012
            "/metrics": lambda accept: _metrics(folder, extra_metrics, accept),
            "/healthz": lambda accept: _health(is_alive()),
            "/readyz": lambda accept: _health(readiness()),
        }

    try:
        server = _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot serve metrics at {host}:{port}: {reason}; choose another PAGEPACK_METRICS_PORT or _HOST"
        ) from error
    is_over = threading.Event()
    start_daemon("metrics", server.serve_forever, is_over=is_over.is_set)
    try:
        yield server.server_port
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle, mostly; in the log, where all else is."""
        log.warning("a request to /metrics, /healthz or /readyz was not answered", exc_info=True)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks the name service who we are, which may take long
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; a client that is silent for ten seconds is dropped."""

    pages: Mapping[str, Callable[[str], tuple[int, str, bytes]]]
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        page = self.pages.get(self.path.partition("?")[0])
        if page is None:
            status, kind, body = 404, "text/plain", f"{' '.join(self.pages)}\n".encode()
        else:
            try:
                status, kind, body = page(self.headers.get("Accept", ""))
            except Exception as error:  # a broken file of figures shall not look like a dead worker
                status, kind, body = 500, "text/plain", redacted(f"{type(error).__name__}: {error}\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no change of state."""


def _metrics(folder: Path, extra_metrics: Sequence[Any], accept: str) -> tuple[int, str, bytes]:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector

    class Written(MultiProcessCollector):
        """Without the files that a process has just made, or was killed over: they are empty."""

        def collect(self) -> Any:
            files = []
            for file in folder.glob("*.db"):
                with suppress(FileNotFoundError):  # another request forgot it
                    files += [str(file)] if file.stat().st_size else []
            return self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]

    forget_the_dead(folder)
    registry = CollectorRegistry()
    Written(registry, path=str(folder))  # type: ignore[no-untyped-call]
    for collector in extra_metrics:
        registry.register(collector)
    encode, kind = choose_encoder(accept)
    return 200, kind, encode(registry)


def _health(problems: Mapping[str, str]) -> tuple[int, str, bytes]:
    wrong = {name: redacted(reason) for name, reason in problems.items()}
    body = json.dumps({"ok": not wrong, "wrong": wrong} if wrong else {"ok": True}, ensure_ascii=False) + "\n"
    return 503 if wrong else 200, "application/json", body.encode()
