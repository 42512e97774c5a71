"""A state machine drives the store as a whole fleet would: files seen, drawn, read, lost, retried, asked for otherwise.

It keeps no copy of the database. What must hold is stated once, in `tests/chaos/history.py`, and looked at in three
ways: after each step what may never be; over the whole run the changes that triggers noted; and at the end, that honest
workers finish whatever state the run was left in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.errors import DocumentRejected, PageFailed, Unavailable
from pipeline.settings import Settings
from pipeline.store.batch_end import finish_batches
from pipeline.store.batch_states import cancel_batch, pause_batch, resume_batch
from pipeline.store.batches import mark_all_seen, open_batch
from pipeline.store.claims import DocumentClaim, PageClaim, claim_document, claim_pages
from pipeline.store.due import forget_enqueued, take_due_documents, take_due_pages
from pipeline.store.leases import expire, give_back, renew_document, renew_tasks, return_claim
from pipeline.store.pages import (
    NewPage,
    add_pages,
    finish_document,
    reject_document,
    render_again,
    retry_document,
    set_page_count,
)
from pipeline.store.sources import SeenFile, record_files
from schemas.columns import utc_now
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.chaos import history
from tests.conftest import LIMITS, NEVER, Archive, answer, complete_page, examples, reuse_answers, sha

DATABASES = ("sqlite", "postgresql")

NAMES = ("b", "c")
PROMPTS = {"ocr": [OCR], "describe": [DESCRIBE], "both": [OCR, DESCRIBE]}
PAGES = {"long": 3, "short": 1, "none": 0}  # content → pages; the first page of all looks the same
OWNERS = ("a/1", "a/2", "b/1")
FINISHED = "SELECT name, batch_id, finished_at FROM batch_summary WHERE state = 'finished'"
VIEWS = (
    ("batch_summary", ""),
    ("files", "ORDER BY source_path"),
    ("failures", "ORDER BY source_path, page_number, cause"),
)
CAUSES = ("crash", "engine", "damaged", "unavailable")
FAILURES = (PageFailed("no"), Unavailable("away"), RuntimeError("a fault of the engine"))

batches, owners = st.sampled_from(NAMES), st.sampled_from(OWNERS)


class Fleet(RuleBasedStateMachine):
    """Claims are kept for ever, so that workers come late with every one of them."""

    new_settings: Callable[[], Settings]
    documents = Bundle("documents")
    pages = Bundle("pages")

    def __init__(self) -> None:
        super().__init__()
        self.db: Database = open_database(type(self).new_settings())
        self.archive = Archive(self.db)
        self.rows = Rows(self.db)
        self.said: dict[str, tuple[Any, list[Any]]] = {}  # of batches that have finished: when, and what then
        self.drawn: dict[tuple[int, int], int] = {}  # (document, token) → where its ingester has come to
        history.install(self.rows)
        for name in NAMES:
            self.ask(name, "ocr", "m1", True, None)

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.db.dispose()

    @initialize(target=documents, where=st.sampled_from(["nowhere", "drawing", "asked again"]))
    def begin(self, where: str) -> DocumentClaim | None:
        """In the midst of it: a page failed while others are drawn, or a file that was read is asked otherwise."""
        if where == "nowhere":
            return None
        self.see("b", "x", "long")
        if where == "drawing":
            claim: DocumentClaim | None = self.claim_document(1, "a/1")
            assert claim is not None and self.draw(claim, 1) and self.draw(claim, 1, broken=True)
            return claim
        self.work()
        finish_batches(self.db)
        self.free()
        self.ask("c", "describe", "m1", True, None)
        self.see("c", "x", "long")
        return None

    @rule(
        name=batches,
        prompts=st.sampled_from(sorted(PROMPTS)),
        model=st.sampled_from(["m1", ""]),
        all_seen=st.booleans(),
        pages=st.sampled_from([None, [(0, 0)], [(1, 5)]]),
    )
    def ask(self, name: str, prompts: str, model: str, all_seen: bool, pages: Any) -> None:
        """A batch, again and otherwise."""
        self.archive.batches[name] = open_batch(
            self.db,
            key=name,
            name=name,
            prompts=PROMPTS[prompts],
            engine="any",
            model=model,
            text_layer="keep",
            pages=pages or (),
            all_seen=all_seen,
        )

    @rule(name=batches, path=st.sampled_from("xyz"), content=st.sampled_from(sorted(PAGES)))
    def see(self, name: str, path: str, content: str) -> None:
        file = SeenFile(f"/in/{path}", f"file:///in/{path}", 10, 1, kind="pdf", content_hash=sha(content))
        record_files(self.db, self.archive.batches[name], [file])

    @rule(name=batches, path=st.sampled_from("xyz"))
    def see_what_cannot_be_read(self, name: str, path: str) -> None:
        missing = DocumentRejected("it is gone", cause="missing")
        record_files(self.db, self.archive.batches[name], [SeenFile(f"/in/{path}", "", 0, 0, rejection=missing)])

    @rule(name=batches)
    def see_all(self, name: str) -> None:
        mark_all_seen(self.db, self.archive.batches[name])

    @rule(target=documents, number=st.integers(1, 3), owner=owners)
    def claim_document(self, number: int, owner: str) -> DocumentClaim | None:
        claim = claim_document(self.db, number, owner, LIMITS.lease_seconds)
        if claim is not None:
            set_page_count(self.db, claim, pages_of(claim))
        return claim

    @rule(claim=documents, count=st.integers(1, 2), broken=st.booleans())
    def add_pages(self, claim: DocumentClaim | None, count: int, broken: bool) -> None:
        """The next ones, wherever another worker has come to: a claim that was lost adds none."""
        if claim is not None:
            self.draw(claim, count, broken)

    @rule(claim=documents, how=st.sampled_from(["whole", "gone", "rejected", "later", "back", "beat"]))
    def end_document(self, claim: DocumentClaim | None, how: str) -> None:
        if claim is None:
            return
        if how == "whole":
            self.draw_all(claim)
        elif how == "gone":
            reject_document(self.db, claim, DocumentRejected("it is not there any more", cause="missing"))
        elif how == "rejected":
            reject_document(self.db, claim, DocumentRejected("it is damaged"))
        elif how == "later":
            retry_document(self.db, claim, Unavailable("the disk is away"), LIMITS)
        elif how == "back":
            return_claim(self.db, claim, "the worker stops")
        else:
            renew_document(self.db, claim, LIMITS.lease_seconds)

    @rule(target=pages, number=st.integers(1, 4), owner=owners, models=st.sampled_from([["m1", ""], ["m2", ""]]))
    def claim_page(self, number: int, owner: str, models: list[str]) -> tuple[PageClaim, str, str] | None:
        claim = lease(self.db, number, owner, models)
        return (claim, owner, models[0]) if claim is not None else None

    @rule(claimed=pages, some=st.booleans(), outcome=st.sampled_from([None, *FAILURES]))
    def complete(self, claimed: tuple[PageClaim, str, str] | None, some: bool, outcome: Exception | None) -> None:
        if claimed is not None:
            claim, owner, model = claimed
            tasks = claim.tasks[:1] if some else claim.tasks
            outcomes = {task.task_id: outcome or said(task.prompt, claim, model) for task in tasks}
            complete_page(self.db, claim, owner, outcomes, LIMITS)

    @rule(claimed=pages, how=st.sampled_from(["reuse", "back", "image lost", "beat"]))
    def end_page(self, claimed: tuple[PageClaim, str, str] | None, how: str) -> None:
        if claimed is None:
            return
        claim, owner, _ = claimed
        if how == "reuse":
            reuse_answers(self.db, claim, claim.answered)
        elif how == "back":
            return_claim(self.db, claim, "the worker stops")
        elif how == "image lost":
            render_again(self.db, claim)
        else:
            renew_tasks(self.db, owner, [task.task_id for task in claim.tasks], LIMITS.lease_seconds)

    @rule(owner=owners)
    def freeze(self, owner: str) -> None:
        """Past its leases, and the sweep comes by."""
        for table in ("documents", "page_tasks"):
            self.archive.execute(f"UPDATE {table} SET lease_until = 1 WHERE owner = :owner", owner=owner)
        expire(self.db, LIMITS)

    @rule(owner=st.sampled_from([*OWNERS, "a/", ""]), crashed=st.booleans())
    def die(self, owner: str, crashed: bool) -> None:
        give_back(self.db, owner, reason="its worker died", crashed=crashed, limits=LIMITS)

    @rule(name=batches, lost_after=st.sampled_from([NEVER, -1.0]))
    def enqueue(self, name: str, lost_after: float) -> None:
        batch = self.archive.batches[name].id
        take_due_documents(self.db, batch, limit=2, lost_after=NEVER)
        take_due_pages(self.db, batch, limit=2, lost_after=lost_after)

    @rule()
    def lose_messages(self) -> None:
        forget_enqueued(self.db)

    @rule()
    def wait(self) -> None:
        """What failed for a while may be tried again."""
        for table in ("documents", "page_tasks"):
            self.archive.execute(f"UPDATE {table} SET next_attempt_at = 0")

    @rule(name=batches, where=st.sampled_from(["1 = 1", *(f"cause = '{cause}'" for cause in CAUSES)]))
    def retry(self, name: str, where: str) -> None:
        self.archive.retry(where, batch=name)

    @rule(name=batches, call=st.sampled_from([pause_batch, resume_batch, cancel_batch]))
    def halt(self, name: str, call: Callable[[Database, int], bool]) -> None:
        call(self.db, self.archive.batches[name].id)

    @rule()
    def free(self) -> None:
        """Retention, of all images that nobody waits for."""
        waits = "EXISTS (SELECT 1 FROM page_tasks t WHERE t.page_id = pages.id AND t.state IN ('pending', 'leased'))"
        freed = f"image_hash IS NOT NULL AND image_freed_at IS NULL AND NOT {waits}"
        self.archive.execute(f"UPDATE pages SET image_freed_at = :now WHERE {freed}", now=utc_now())

    @rule()
    def finish(self) -> None:
        finish_batches(self.db)

    @invariant()
    def a_ready_document_has_a_row_for_each_page(self) -> None:
        stored = "(SELECT count(*) FROM pages WHERE document_id = documents.id)"
        ready = f"SELECT id, page_count, {stored} FROM documents WHERE state = 'ready' AND page_count <> {stored}"
        assert self.archive.rows(ready) == []

    @invariant()
    def finished_batches_reconcile(self) -> None:
        sums = "SELECT name FROM batch_summary WHERE state = 'finished' AND files_seen <> "
        assert self.archive.rows(f"{sums} files_done + files_failed + files_rejected") == []

    @invariant()
    def what_a_finished_batch_says_never_changes(self) -> None:
        """Not before somebody retries it or asks again, which opens it."""
        said = {}
        for name, batch_id, at in self.archive.rows(FINISHED):
            says = [
                self.archive.rows(f"SELECT * FROM {view} WHERE batch_id = :id {order}", id=batch_id)
                for view, order in VIEWS
            ]
            said[name] = (at, says)
            if self.said.get(name, (None, None))[0] == at:
                assert says == self.said[name][1]
        self.said = said

    @invariant()
    def only_leases_have_owners(self) -> None:
        for table in ("documents", "page_tasks"):
            is_wrong = "(state = 'leased') <> (owner IS NOT NULL AND lease_until IS NOT NULL)"
            assert self.archive.rows(f"SELECT id, state, owner FROM {table} WHERE {is_wrong}") == []

    def draw(self, claim: DocumentClaim, count: int, broken: bool = False) -> bool:
        """As `Ingester` does: from its own place on, whatever became of the pages before. False where it was lost."""
        own = (claim.document_id, claim.token)
        start = self.drawn.get(own, claim.first_page)
        end = min(start + count, pages_of(claim))
        if not add_pages(self.db, claim, [new_page(claim, index, broken) for index in range(start, end)]):
            return False
        self.drawn[own] = end
        return True

    def draw_all(self, claim: DocumentClaim) -> None:
        if self.draw(claim, pages_of(claim)):
            finish_document(self.db, claim, pages_of(claim))

    def drain(self) -> None:
        """Honest workers end it all, with what the store tells them alone."""
        give_back(self.db, "", reason="a new start", crashed=False, limits=LIMITS)
        forget_enqueued(self.db)
        for name in NAMES:
            resume_batch(self.db, self.archive.batches[name].id)
            self.see_all(name)
        for _ in range(12):
            self.wait()
            self.work()
            finish_batches(self.db)
            if not history.what_is_open(self.rows):
                break
        wrong = history.check(self.rows, {}, (), reopened=True, clock_is_true=False)
        assert wrong == [], "; ".join(wrong)

    def work(self) -> None:
        """Honest workers do what is enqueued."""
        for name in NAMES:
            for document_id in take_due_documents(self.db, self.archive.batches[name].id, limit=100, lost_after=NEVER):
                claim = claim_document(self.db, document_id, "honest/1", LIMITS.lease_seconds)
                if claim is not None:
                    self.draw_all(claim)
            for page_id in take_due_pages(self.db, self.archive.batches[name].id, limit=100, lost_after=NEVER):
                page = lease(self.db, page_id, "honest/1", ["m1", ""])
                if page is not None:
                    reuse_answers(self.db, page, page.answered)
                    unread = [task for task in page.tasks if task.task_id not in page.answered]
                    rest = {task.task_id: said(task.prompt, page, "m1") for task in unread}
                    complete_page(self.db, page, "honest/1", rest, LIMITS)


class Rows:
    """The database as `history.py` asks it."""

    def __init__(self, db: Database) -> None:
        self.dialect = db.dialect
        self._db = db

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self._db.write() as connection:
            result = connection.execute(sa.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []


def lease(db: Database, page_id: int, owner: str, models: list[str]) -> PageClaim | None:
    """A page with all that waits on it, a suspect too."""
    asked = {"alone": [page_id], "answers_of": models[0]}
    return claim_pages(db, [page_id], owner, models, LIMITS.lease_seconds, **asked).pages.get(page_id)


def pages_of(claim: DocumentClaim) -> int:
    return {sha(content): count for content, count in PAGES.items()}[claim.content_hash]


def new_page(claim: DocumentClaim, index: int, broken: bool = False) -> NewPage:
    if broken:
        return NewPage(index, error=PageFailed("it cannot be drawn", cause="damaged"))
    return NewPage(index, sha("shared" if index == 0 else f"{claim.content_hash} {index}"), 16, 16)


def said(prompt: Prompt, claim: PageClaim, model: str) -> Any:
    return answer(f"{prompt.name} of {claim.image_hash}", model)


@pytest.mark.hypothesis
def test_whatever_happens_honest_workers_finish_it(new_settings: Callable[[], Settings], backend: str) -> None:
    Fleet.new_settings = staticmethod(new_settings)
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            examples(15 if backend == "sqlite" else 8),
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
