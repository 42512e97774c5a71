"""Requests as OpenAPI allows them, and as it does not: schemathesis finds no fault, and no answer that it was not told.

A few for each route, the same each time; `make fuzz` asks hundreds.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.blobs.page_images import open_images
from pipeline.blobs.png import encode
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from pipeline.web.app import create_app
from tests.conftest import Archive, examples

DATABASES = ("sqlite",)
HERE = {"host": "localhost"}


def asked(operation: Any, real: dict[str, Any], query: dict[str, str], body: dict[str, Any] | None) -> Counter[int]:
    """The codes of some requests that were thought up, half of them about what is there, and of a plain one."""
    from schemathesis import GenerationMode
    from schemathesis.checks import CheckFunction, not_a_server_error
    from schemathesis.specs.openapi import checks

    wanted: list[CheckFunction] = [
        not_a_server_error,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.status_code_conformance,
    ]
    codes = Counter[int]()
    own = {one.name: real[one.name] for one in operation.path_parameters}
    modes = [GenerationMode.POSITIVE]
    if operation.query or operation.path_parameters or operation.body:
        modes.append(GenerationMode.NEGATIVE)

    @examples(4)
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(data.draw(st.sampled_from(modes))))
        if own and data.draw(st.booleans()):
            case.path_parameters = (case.path_parameters or {}) | own
        response = case.call(headers=HERE)
        codes[response.status_code] += 1
        case.validate_response(response, checks=wanted)

    ask()
    if operation.method == "get" or body is not None:
        given_body = {"body": body, "media_type": "application/json"} if body is not None else {}
        case = operation.Case(path_parameters=own, query=query, **given_body)
        response = case.call(headers=HERE)
        codes[response.status_code] += 1
        case.validate_response(response, checks=wanted)
    return codes


@pytest.mark.hypothesis
def test_no_request_finds_a_fault(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    import schemathesis  # a second, which collecting the tests need not take

    image_hash = open_images(settings).put(encode(Image.new("L", (64, 32), 200)))
    document_id = archive.see("/in/2024/tides.pdf")
    assert document_id is not None
    (page,) = archive.ingest(document_id, [NewPage(0, image_hash, 64, 32)])
    archive.read(page, "tide tables of the bay")
    archive.see("/in/notes.doc", rejection="unsupported")
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.pdf").write_bytes(b"%PDF-1.7 a")
    app = create_app(settings, allow_upload=True, read_from=[scans], allow_retry=True)
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HERE)
    real = {"batch": "b", "number": 1, "document_id": archive.scalar("SELECT public_id FROM documents")}
    queries = {"GET /api/v1/search": {"q": "tide"}, "GET /api/v1/documents": {"path": "tides.pdf"}}
    bodies: dict[str, dict[str, Any]] = {
        "POST /api/v1/sql": {"statement": "SELECT * FROM page_text"},
        "POST /api/v1/batches": {"paths": [str(scans)]},
        "POST /api/v1/batches/{batch}/retry": {"cause": "unsupported"},
    }
    answered: dict[str, Counter[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        label = operation.label
        answered[label] = asked(operation, real, queries.get(label, {}), bodies.get(label))
    assert len(answered) > 15
    fruitless = [label for label, codes in answered.items() if min(codes) >= 300]
    assert not fruitless, answered
