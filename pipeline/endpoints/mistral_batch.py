"""Mistral's batch API: many OCR requests as one job, at half the price, answered within a day.

    lines ──upload──► file ──create──► job: QUEUED, RUNNING ──► SUCCESS ──► files of answers and of errors

A job carries a key of ours in its metadata, so that one whose creation was not heard of is found again, and nothing is
paid for twice. https://docs.mistral.ai/capabilities/batch/ and its OpenAPI description.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.endpoints.client import MOST_BYTES as MOST_BYTES_OF_AN_ANSWER
from pipeline.endpoints.client import Client
from pipeline.endpoints.words import bad_answer, error_words, fields_of, one_line
from pipeline.errors import EndpointGone, PageFailed, PagepackError, Unavailable

T = TypeVar("T")

KEY = "pagepack"
"""The field of a job's metadata that holds our key."""

HOURS = 24
MOST_BYTES = 200 * 2**20  # of a file that is uploaded; the server takes 512 MB
_MOST_BYTES_OF_ANSWERS = 1024 * 2**20
_UPLOAD_SECONDS = 3600.0
_JOBS_A_PAGE, _MOST_PAGES = 100, 20

_WAITS = ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED")


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    status: str
    files: tuple[str, ...]  # of answers and of errors, as far as there are any
    errors: str  # in the server's words

    @property
    def is_over(self) -> bool:
        return self.status not in _WAITS


def line_of(custom_id: str, body: Mapping[str, Any]) -> bytes:
    """One request in the file that is uploaded; its model is the job's."""
    request = {name: value for name, value in body.items() if name != "model"}
    return json.dumps({"custom_id": custom_id, "body": request}).encode() + b"\n"


async def upload(client: Client, lines: Sequence[bytes], name: str) -> str:
    """The file's id. Until a job names it, it costs nothing."""
    file = {"file": (f"{name}.jsonl", b"".join(lines), "application/jsonl")}
    reply = await client.send("POST", "/files", files=file, data={"purpose": "batch"}, request_seconds=_UPLOAD_SECONDS)
    answer = reply.json()
    if not isinstance(answer.get("id"), str):
        raise bad_answer(f"no file: it has {fields_of(answer)}")
    return str(answer["id"])


async def create(client: Client, file_id: str, model: str, key: str) -> Job:
    """Sent once, and looked for where no answer came: the server may have made it all the same."""
    wish = {
        "input_files": [file_id],
        "model": model,
        "endpoint": "/v1/ocr",
        "timeout_hours": HOURS,
        "metadata": {KEY: key},
    }
    try:
        return _job((await client.send("POST", "/batch/jobs", json=wish, is_repeatable=False)).json())
    except EndpointGone:
        raise
    except Unavailable as error:
        if (found := await find(client, key)) is not None:
            return found
        raise Unavailable(f"no job was made: {error}", cause="endpoint") from None


async def find(client: Client, key: str) -> Job | None:
    """Ours among the jobs of the account, the latest first."""
    for page in range(_MOST_PAGES):
        wish = {"page": page, "page_size": _JOBS_A_PAGE}
        jobs = (await client.send("GET", "/batch/jobs", params=wish)).json().get("data") or []
        for job in jobs:
            metadata = job.get("metadata") if isinstance(job, dict) else None
            if isinstance(metadata, dict) and metadata.get(KEY) == key:
                return _job(job)
        if len(jobs) < _JOBS_A_PAGE:
            break
    return None


async def look_at(client: Client, job_id: str) -> Job | None:
    """How a job stands; None where the server does not know it any more."""
    try:
        return _job((await client.send("GET", f"/batch/jobs/{job_id}", may_be_missing=True)).json())
    except PageFailed:
        return None


async def answers(
    client: Client, job: Job, wanted: Container[str], understood: Callable[[dict[str, Any]], T]
) -> dict[str, T | PagepackError]:
    """What came of each wanted request, by its id: its answer's body as it is understood, or why there is none.

    Lines are understood as they come: a job's answers may have hundreds of megabytes.
    """
    found: dict[str, T | PagepackError] = {}

    def take(line: bytes) -> None:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(name := entry.get("custom_id"), str) and name in wanted:
                try:
                    found[name] = understood(_body(entry))
                except PagepackError as error:
                    found[name] = error

    for file_id in job.files:
        path = f"/files/{file_id}/content"
        lines = _Lines(take)
        with suppress(PageFailed):  # it is kept no longer: its pages have no answer
            await client.send(
                "GET",
                path,
                most_bytes=_MOST_BYTES_OF_ANSWERS,
                request_seconds=_UPLOAD_SECONDS,
                may_be_missing=True,
                taker=lines,
            )
            lines.end()
    return found


class _Lines:
    """Parts of a file as its lines; one that is longer than any answer is left out."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._line = bytearray()

    def begin(self) -> None:
        self._line.clear()

    def take(self, part: bytes) -> None:
        first, *others = part.split(b"\n")
        self._grow(first)
        for one in others:
            self.end()
            self._grow(one)

    def _grow(self, piece: bytes) -> None:
        if len(self._line) <= MOST_BYTES_OF_AN_ANSWER:
            self._line += piece

    def end(self) -> None:
        if len(self._line) <= MOST_BYTES_OF_AN_ANSWER:
            self._take(bytes(self._line))
        self._line.clear()


def _body(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Raises PageFailed, Unavailable: the server says why there is none."""
    response = entry.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(body, str):  # some servers write it as a text
        with suppress(ValueError, RecursionError):
            body = json.loads(body)
    if status == 200 and isinstance(body, dict):
        return body
    said = error_words(json.dumps(entry.get("error") or body or {}).encode())
    words = f"the endpoint refuses the page ({status or 'no status'}{f': {said}' if said else ''})"
    if status is None or status == 429 or status >= 500:
        raise Unavailable(words, cause="endpoint")
    raise PageFailed(words, cause="refused")


def _job(answer: Mapping[str, Any]) -> Job:
    if not isinstance(answer.get("id"), str) or not isinstance(answer.get("status"), str):
        raise bad_answer(f"no job: it has {fields_of(answer)}")
    files = tuple(str(answer[name]) for name in ("output_file", "error_file") if answer.get(name))
    errors = answer.get("errors") or []
    words = [str(one.get("message") or "") for one in errors if isinstance(one, dict)]
    return Job(answer["id"], answer["status"].upper(), files, one_line("; ".join(filter(None, words))))
