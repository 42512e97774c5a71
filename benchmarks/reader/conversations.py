"""A few conversations in MM-MT-Bench's form, and a judge for them: the whole way without a download.

    python -m benchmarks.reader.conversations draw FOLDER
    python -m benchmarks.reader.conversations judge &        prints its address
    pagepack eval mm-mt-bench FOLDER --model benchmarks/reader/checkpoint --judge-url URL --judge-model fair

The pictures are pages as the small reader knows them; it is asked for their text, and then what the page is like. The
judge compares an answer with its reference: equal texts are a 10.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rapidfuzz import fuzz

from benchmarks.reader.evaluate import draw_samples
from schemas.prompts import DESCRIBE, OCR

SEED = 5


def picture(pixels: NDArray[Any]) -> dict[str, Any]:
    """As the published file holds it."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": "page.png"}


def conversation(category: str, image: dict[str, Any], *said: str) -> dict[str, Any]:
    """A row; `said` are questions and reference answers in turn, the first question with the picture."""
    first, *others = said
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": first}]},
        *({"role": ("assistant", "user")[number % 2], "content": text} for number, text in enumerate(others)),
    ]
    return {"image": image, "conversation": json.dumps({"messages": messages}), "category": category}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "eval-00000-of-00001.parquet")
    return folder


def draw(folder: Path, count: int) -> Path:
    """Every other conversation has a second turn."""
    rows = []
    for number, page in enumerate(draw_samples(count, (192, 64), SEED)):
        said = [OCR.text, page.layout.text, DESCRIBE.text, page.layout.description]
        rows.append(conversation(page.kind, picture(page.pixels), *said[: 4 if number % 2 == 0 else 2]))
    return write(folder, rows)


def judgement(body: dict[str, Any]) -> str:
    """What the judge says to the body of a request of `eval mm-mt-bench`."""
    text = "".join(part.get("text", "") for part in body["messages"][-1]["content"])
    reference = re.findall(r"## Reference answer \d+\n\n(.*?)\n\n(?=#)", text, re.DOTALL)[-1]
    answer = text.rpartition("# The assistant's answer to question ")[2].partition("\n\n")[2].strip()
    alike = fuzz.ratio(reference, answer) / 100
    return f"{alike:.0%} of the answer is that of the reference. Rating: [[{1 + round(9 * alike)}]]"


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": judgement(body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        said = json.dumps({"object": "chat.completion", "model": "fair", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw")
    drawing.add_argument("folder", type=Path)
    drawing.add_argument("--count", type=int, default=6)
    judging = verbs.add_parser("judge")
    judging.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.verb == "draw":
        print(draw(arguments.folder, arguments.count))
        return 0
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), _Judge) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
