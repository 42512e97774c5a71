"""A real HTTP server on this machine that answers as a model's does, or misbehaves as told: one behaviour a request.

with ModelServer(ok("one"), status(500), ok("two")) as server: …     # the last one serves all that follow
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Exchange"], None]


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    server: ModelServer
    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.content))

    @property
    def prompt(self) -> str:
        """The text of a chat's last message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    def send(
        self, status: int, content: bytes, kind: str = "application/json", length: int | None = None, **headers: str
    ) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        self.handler.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(content)

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send(status, json.dumps(value).encode(), **headers)

    def close(self) -> None:
        self.handler.close_connection = True


@dataclass(eq=False)
class ModelServer:
    """Listens while it is entered; `exchanges` are the requests so far, `most_at_once` of them at a time."""

    behaviours: list[Behaviour] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    most_at_once: int = 0
    leaving: threading.Event = field(default_factory=threading.Event)  # whoever hangs ends with it

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.behaviours = list(behaviours)
        self.exchanges = []
        self.most_at_once = self._at_once = 0
        self.leaving = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            do_GET = do_POST  # noqa: N815
            do_DELETE = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving.set()
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        exchange = Exchange(handler, self, handler.command, handler.path, headers, content)
        with self._lock:
            self.exchanges.append(exchange)
            behaviour = self.behaviours[min(len(self.exchanges), len(self.behaviours)) - 1]
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            behaviour(exchange)
        except (BrokenPipeError, ConnectionResetError):  # the client left, as it may
            exchange.close()
        finally:
            with self._lock:
                self._at_once -= 1


def completion(text: Any, model: str = "small", reason: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion as servers write it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason, **more}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
    }


def ok(text: Any = "read", **how: Any) -> Behaviour:
    return lambda exchange: exchange.send_json(completion(text, **how))


def says(value: Any, status: int = 200, **headers: str) -> Behaviour:
    """Any JSON."""
    return lambda exchange: exchange.send_json(value, status, **headers)


def status(code: int, message: str = "no", **headers: str) -> Behaviour:
    return says({"error": {"message": message, "type": "error"}}, code, **headers)


def raw(content: bytes, kind: str = "application/json", code: int = 200) -> Behaviour:
    return lambda exchange: exchange.send(code, content, kind)


def hang(exchange: Exchange) -> None:
    exchange.server.leaving.wait()
    exchange.close()


def closed(exchange: Exchange) -> None:
    """No word, and the line is cut."""
    exchange.handler.connection.shutdown(2)
    exchange.close()


def half(exchange: Exchange) -> None:
    """The first half of an answer, whose whole length was promised."""
    content = json.dumps(completion("a long text " * 50)).encode()
    exchange.send(200, content[: len(content) // 2], length=len(content))
    exchange.handler.wfile.flush()
    closed(exchange)


def half_stream(exchange: Exchange) -> None:
    """Server-sent events that nobody asked for, cut off within one."""
    exchange.send(200, b'data: {"choices":[{"delta":{"content":"Dear S', "text/event-stream")


def huge(exchange: Exchange) -> None:
    """Far more than any page of text; stops where the client leaves."""
    exchange.handler.send_response(200)
    exchange.handler.send_header("Content-Type", "application/json")
    exchange.handler.send_header("Connection", "close")
    exchange.handler.end_headers()
    exchange.close()
    exchange.handler.wfile.write(b'{"choices": "')
    block = b"x" * 2**20
    for _ in range(256):
        exchange.handler.wfile.write(block)
