"""Mistral's OCR and batch API on this machine: files, jobs, answers by line; it remembers what it was paid for."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

from tests.model_server import Exchange, ModelServer, closed


class MistralServer(ModelServer):
    """A job is over as soon as it is `finish`ed; `paid` are the custom ids of all jobs that were made, in order.

    `says` gives the Markdown for a custom id, or a status and words in place of an answer, or None: no line at all.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.paid: list[str] = []
        self.is_finished = threading.Event()
        self.loses_next_job = False  # makes it, and cuts the line before it says so
        self.status = "SUCCESS"
        self.says: Any = lambda custom_id: f"text of {custom_id}"

    def _answer(self, exchange: Exchange) -> None:
        path = exchange.path.partition("?")[0].removeprefix("/v1")
        if (exchange.method, path) == ("POST", "/files"):
            content = re.search(rb"\r\n\r\n(\{.*?)\r\n--", exchange.content, re.DOTALL)
            assert content and b'name="purpose"' in exchange.content
            exchange.send_json({"id": self._store(content[1]), "object": "file", "purpose": "batch"})
        elif (exchange.method, path) == ("POST", "/batch/jobs"):
            self._make(exchange)
        elif path == "/batch/jobs":
            exchange.send_json({"data": list(reversed(self.jobs.values())), "object": "list"})
        elif path.startswith("/batch/jobs/") and (job := self.jobs.get(path.rpartition("/")[2])) is not None:
            exchange.send_json(self._look_at(job))
        elif path.endswith("/content") and (content_of := self.files.get(path.split("/")[2])) is not None:
            exchange.send(200, content_of, "application/octet-stream")
        else:
            exchange.send_json({"detail": "not found"}, 404)

    def _store(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def _make(self, exchange: Exchange) -> None:
        body = exchange.body
        assert body["endpoint"] == "/v1/ocr"
        lines = [json.loads(line) for line in self.files[body["input_files"][0]].splitlines()]
        job = {"id": f"job-{len(self.jobs)}", "status": "QUEUED", "metadata": body["metadata"], "model": body["model"]}
        job |= {"lines": lines, "output_file": None, "error_file": None, "errors": []}
        self.jobs[job["id"]] = job
        self.paid += [line["custom_id"] for line in lines]
        if self.loses_next_job:
            self.loses_next_job = False
            closed(exchange)
        else:
            exchange.send_json(_shown(job))

    def _look_at(self, job: dict[str, Any]) -> dict[str, Any]:
        if self.is_finished.is_set() and job["output_file"] is None:
            said = [(line["custom_id"], self.says(line["custom_id"])) for line in job["lines"]]
            good = [_line(custom_id, 200, _page(text)) for custom_id, text in said if isinstance(text, str)]
            bad = [_line(one, what[0], {"message": what[1]}) for one, what in said if isinstance(what, tuple)]
            job |= {"output_file": self._store(b"".join(good)), "error_file": self._store(b"".join(bad))}
            job["status"] = self.status
        elif job["output_file"] is None:
            job["status"] = "RUNNING"
        return _shown(job)


def _shown(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name != "lines"}


def _page(text: str) -> dict[str, Any]:
    return {
        "pages": [{"index": 0, "markdown": text}],
        "model": "mistral-ocr-2505",
        "usage_info": {"pages_processed": 1},
    }


def _line(custom_id: str, status: int, body: dict[str, Any]) -> bytes:
    response = {"status_code": status, "body": body}
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response, "error": None}).encode() + b"\n"
