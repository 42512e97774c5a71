"""The small reader behind an OpenAI-compatible address: `python -m benchmarks.reader.serve`, then in another terminal

    pagepack run FOLDER --engine endpoint --endpoint-url http://127.0.0.1:8000/v1 --endpoint-model pagepack-reader

The packed engine answers, and packs what comes at once. For tests, and to try the engine `endpoint` without a download;
it knows `/v1/chat/completions` with one image, and `/v1/models`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.prompts import Prompt
from workers.engines import Engine
from workers.engines.pixtral import PixtralEngine

NAME = "pagepack-reader"


def answer(engine: Engine, body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion for the body of a request. Raises ValueError: it is none with one image and one text."""
    parts = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    if len(urls) != 1 or not urls[0].startswith("data:image/"):
        raise ValueError(f"{len(urls)} images, or none as a data URL; this server takes one")
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(urls[0].partition(",")[2]))).convert("RGB"))
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    prompt = Prompt("asked", text, body.get("max_tokens", 256), body.get("temperature", 0.0))
    (future,) = engine.submit(hashlib.sha256(pixels.tobytes()).hexdigest(), pixels, [prompt])
    read = future.result()
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "model": body.get("model", NAME),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": read.text},
                "finish_reason": read.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": read.prompt_tokens,
            "completion_tokens": read.output_tokens,
            "total_tokens": read.prompt_tokens + read.output_tokens,
        },
    }


def serve(engine: Engine, port: int) -> ThreadingHTTPServer:
    """A server on this machine alone; `serve_forever` runs it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                self._send(200, answer(engine, json.loads(content)))
            except (ValueError, KeyError, TypeError, OSError) as error:
                self._send(400, {"error": {"message": f"{type(error).__name__}: {error}"}})

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    server = serve(PixtralEngine(args.model), args.port)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1 answers as {NAME}")
    server.serve_forever()


if __name__ == "__main__":
    main()
