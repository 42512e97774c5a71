"""What is said of each change of state: a count for the metrics and a line for the log, in one call.

    documents   claimed → rendered | rejected | retried | failed | given back
    pages       claimed → stored | reused | retried | failed | given back | lost

Called after the transaction that made the change, and only where it did: the database is the truth, and where a
process dies in between, a count is one short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import DEBUG, INFO, WARNING
from typing import Any

from pipeline.errors import PagepackError
from pipeline.store.answers import ReadAnswer, ReusedAnswer
from pipeline.store.claims import DocumentClaim, PageClaim, TaskClaim
from pipeline.store.leases import Limits
from pipeline.store.pages import NewPage
from pipeline.store.results import Outcome, is_final
from pipeline.telemetry.logs import is_logged, log_event
from pipeline.telemetry.metrics import begin_at_zero, count, is_counting
from pipeline.telemetry.stage_timing import waited


def nothing_yet(role: str) -> None:
    """Before a worker's first page. Where a counter is not there, an alert that asks whether it stands still is silent:
    of readers that begin and can read nothing of what waits, nobody would hear."""
    for outcome in ("done", "reused", "failed") if role == "read" else ():
        begin_at_zero("pagepack_pages_total", outcome=outcome)
    begin_at_zero("pagepack_retries_total")
    begin_at_zero("pagepack_leases_lost_total")


def claimed(claim: PageClaim | DocumentClaim) -> None:
    """After a claim."""
    if isinstance(claim, PageClaim):
        waited(claim)
    if is_logged(DEBUG):
        log_event(DEBUG, "claimed", **_of(claim))


def page_settled(claim: PageClaim, outcomes: Mapping[int, Outcome], stored: int, limits: Limits) -> None:
    """After a page's outcomes were stored, with how many were still ours: none where the lease was lost."""
    if stored < len(outcomes):
        _lost(claim, len(outcomes) - stored)
    if stored == 0 or not (is_counting() or is_logged(WARNING)):
        return
    for task in claim.tasks:
        outcome = outcomes.get(task.task_id)
        if isinstance(outcome, ReadAnswer):
            count("pagepack_pages_total", outcome="done")
            count("pagepack_tokens_total", outcome.prompt_tokens, kind="prompt")
            count("pagepack_tokens_total", outcome.output_tokens, kind="output")
            if is_logged(DEBUG):
                said = {"finish_reason": outcome.finish_reason, "seconds": outcome.seconds}
                log_event(DEBUG, "stored", **_of(claim, task), engine=outcome.engine, **said)
        elif isinstance(outcome, ReusedAnswer):
            count("pagepack_pages_total", outcome="reused")
            log_event(DEBUG, "reused", **_of(claim, task))
        elif outcome is not None:
            _failed(outcome, is_final(outcome, task.attempts + 1, limits), "pagepack_pages_total", _of(claim, task))


def given_back(claim: PageClaim | DocumentClaim, reason: str, returned: int) -> None:
    """After `return_claim`, with what it returned."""
    if returned:
        log_event(INFO, "given back", **_of(claim), reason=reason)
    else:
        _lost(claim, len(claim.tasks) if isinstance(claim, PageClaim) else 1)


def pages_rendered(claim: DocumentClaim, pages: Sequence[NewPage]) -> None:
    """After `add_pages`."""
    for page in pages:
        if page.error is not None:
            count("pagepack_pages_total", outcome="unrendered")
            count("pagepack_failures_total", cause=page.error.cause)
            about = _of(claim) | {"page_number": page.page_index + 1}
            log_event(WARNING, "failed", **about, cause=page.error.cause, reason=str(page.error))
        elif is_logged(DEBUG):
            log_event(DEBUG, "rendered", **_of(claim) | {"page_number": page.page_index + 1})


def document_rendered(claim: DocumentClaim, page_count: int) -> None:
    """After `finish_document`."""
    count("pagepack_documents_total", outcome="rendered")
    log_event(INFO, "rendered", **_of(claim), pages=page_count)


def document_rejected(claim: DocumentClaim, error: PagepackError) -> None:
    """After `reject_document`."""
    count("pagepack_documents_total", outcome="rejected")
    count("pagepack_failures_total", cause=error.cause)
    log_event(WARNING, "rejected", **_of(claim), cause=error.cause, reason=str(error))


def document_retried(claim: DocumentClaim, error: Exception, limits: Limits) -> None:
    """After `retry_document`."""
    _failed(error, is_final(error, claim.attempts + 1, limits), "pagepack_documents_total", _of(claim))


def _lost(claim: PageClaim | DocumentClaim, leases: int) -> None:
    """The sweep took it, or another worker has it by now."""
    count("pagepack_leases_lost_total", leases)
    log_event(WARNING, "lost", **_of(claim))


def _failed(error: Exception, final: bool, counter: str, about: dict[str, Any]) -> None:
    cause = error.cause if isinstance(error, PagepackError) else "engine"
    reason = str(error) or type(error).__name__
    if final:
        count(counter, outcome="failed")
        count("pagepack_failures_total", cause=cause)
        log_event(WARNING, "failed", **about, cause=cause, reason=reason)
    else:
        count("pagepack_retries_total")
        log_event(INFO, "retried", **about, cause=cause, reason=reason)


def _of(claim: PageClaim | DocumentClaim, task: TaskClaim | None = None) -> dict[str, Any]:
    """The fields that say which page of which file and document in which attempt."""
    if isinstance(claim, DocumentClaim):
        return {
            "source_path": claim.source_path,
            "document_id": claim.public_id,
            "attempt": claim.token,
            "batch": claim.batch_public_id,
        }
    return {
        "source_path": claim.source_path,
        "document_id": claim.document_public_id,
        "page_number": claim.page_index + 1,
        "page_id": claim.page_id,
        "attempt": (task or claim.tasks[0]).token,
        "prompt": task.prompt.name if task else None,
        "batch": claim.batch_public_id,
    }
