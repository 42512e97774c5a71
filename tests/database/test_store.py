"""What the store keeps, and a state machine that drives its calls against a model of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event

from pipeline.database.engine import Database
from pipeline.database.open import open_database
from pipeline.documents.files import display
from pipeline.errors import DocumentRejected, PageFailed, Unavailable
from pipeline.settings import Settings
from pipeline.store import retries
from pipeline.store.batch_states import cancel_batch
from pipeline.store.batches import running_batches
from pipeline.store.claims import PageClaim, claim_document
from pipeline.store.due import take_due_documents, take_due_pages
from pipeline.store.leases import expire, give_back, renew_tasks, return_claim
from pipeline.store.pages import NewPage, add_pages, finish_document, reject_document, render_again, set_page_count
from pipeline.store.sources import SeenFile, record_files
from schemas.columns import utc_now
from schemas.prompts import DESCRIBE, OCR, Prompt
from tests.conftest import LIMITS, NEVER, Archive, answer, claim_page, complete_page, examples, reuse_answers, sha

DATABASES = ("sqlite", "postgresql")


def test_nul_and_lone_surrogates_are_stored_as_replacement_characters(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["a\0b\ud83dc \ud83d\ude00"])
    assert archive.rows("SELECT text FROM page_text") == [("a\ufffdb\ufffdc \U0001f600",)]
    document_id = archive.see("/in/b.pdf") or 0
    error = PageFailed("bad \0 \udcff name")
    (page,) = archive.ingest(
        document_id, [NewPage(0, sha("b"), 16, 16, text_layer="l\0\udc00"), NewPage(1, error=error)]
    )
    archive.read(page, error)
    reasons = archive.rows("SELECT reason FROM failures ORDER BY page_number")
    assert reasons == [("bad \ufffd \ufffd name",)] * 2
    layer = archive.scalar("SELECT text_layer FROM page_images WHERE source_path = '/in/b.pdf' AND page_number = 1")
    assert layer == "l\ufffd\ufffd"


def test_names_prompts_and_details_that_a_server_refuses_are_stored(archive: Archive) -> None:
    odd = "a\0b\udc80"
    prompt = Prompt(f"name {odd}", f"text {odd}", stop=(odd,))
    archive.batch(odd, prompts=[prompt])
    archive.see(f"/in/{odd}.pdf", batch=odd, rejection=f"unsupported {odd}")
    document_id = archive.see(f"/in/{odd} 2.pdf", batch=odd) or 0
    (page,) = archive.ingest(document_id, [NewPage(0, sha("x"), 16, 16, warnings=odd)])
    claim = archive.claim(page, owner=odd)
    assert claim and claim.tasks[0].prompt.stop == (odd,)
    said = answer("x", engine=odd, details={"lines": [odd]})
    assert complete_page(archive.db, claim, odd, {claim.tasks[0].task_id: said}, LIMITS) == 1
    assert archive.finish(odd)
    clean = "a\ufffdb\ufffd"
    assert archive.rows("SELECT source_path, prompt, engine FROM page_text") == [
        (f"/in/{clean} 2.pdf", f"name {clean}", clean)
    ]
    assert archive.rows("SELECT cause FROM failures") == [(f"unsupported {clean}",)]
    assert archive.rows("SELECT warnings FROM page_images") == [(clean,)]


def test_the_same_page_image_in_two_documents_has_one_answer(archive: Archive) -> None:
    pages = []
    for path in ("/in/a.pdf", "/in/b.pdf"):
        pages += archive.ingest(archive.see(path) or 0, ["shared image"])
    archive.read(pages[0], "text")
    claim = archive.claim(pages[1])
    assert claim
    answer_id = archive.scalar("SELECT id FROM answer_versions")
    reuse_answers(archive.db, claim, {claim.tasks[0].task_id: answer_id})
    assert archive.rows("SELECT source_path, text FROM page_text ORDER BY 1") == [
        ("/in/a.pdf", "text"),
        ("/in/b.pdf", "text"),
    ]
    assert archive.scalar("SELECT count(*) FROM answer_versions") == 1 and archive.finish()


def test_two_prompts_of_one_name_are_answered_in_one_transaction(archive: Archive) -> None:
    """Two batches with different texts for `ocr`: the page shows one of the answers, and none is lost."""
    for batch, text in (("b", "Read."), ("c", "Read all.")):
        archive.batch(batch, prompts=[Prompt("ocr", text)])
        document_id = archive.see("/in/a.pdf", batch=batch) or 0
    (page,) = archive.ingest(document_id, ["a"])
    assert archive.read(page, lambda prompt: f"said to {prompt.text}") == 2
    stored = archive.rows("SELECT text FROM answer_versions ORDER BY text")
    assert stored == [("said to Read all.",), ("said to Read.",)]
    assert archive.rows("SELECT text FROM page_text") == [("said to Read all.",)]


def test_the_same_page_read_twice_at_once_keeps_the_first_answer(archive: Archive) -> None:
    pages = []
    for path in ("/in/a.pdf", "/in/b.pdf"):
        pages += archive.ingest(archive.see(path) or 0, ["shared image"])
    claims = [archive.claim(page) for page in pages]
    for claim, text in zip(claims, ("first", "second"), strict=True):
        assert claim and complete_page(archive.db, claim, "w", {claim.tasks[0].task_id: answer(text)}, LIMITS) == 1
    assert archive.rows("SELECT DISTINCT text FROM page_text") == [("first",)]
    assert archive.scalar("SELECT count(*) FROM page_search") == 1


def test_failures_that_may_pass_wait_longer_each_time_then_fail(archive: Archive) -> None:
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    waits = []
    for _ in range(LIMITS.max_attempts - 1):
        archive.read(page, Unavailable("server away"))
        assert archive.claim(page) is None  # it waits for its time
        waits.append(archive.scalar("SELECT next_attempt_at FROM page_tasks"))
        archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
    archive.read(page, Unavailable("server away"))
    assert archive.rows("SELECT cause, reason, attempts FROM failures") == [("unavailable", "server away", 3)]
    assert waits == sorted(waits)


def test_pages_come_in_several_calls_and_ingest_resumes_after_them(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim and claim.first_page == 0
    archive.execute("UPDATE documents SET page_count = 3")
    assert add_pages(archive.db, claim, [NewPage(0, sha("0"), 16, 16)])
    assert len(archive.waiting(document_id)) == 1
    assert give_back(archive.db, "ingest/1", reason="killed", crashed=True, limits=LIMITS) == 1
    again = claim_document(archive.db, document_id, "ingest/2", 60)
    assert again and again.first_page == 1
    assert add_pages(archive.db, again, [NewPage(1, sha("1"), 16, 16), NewPage(2, sha("2"), 16, 16)])
    assert len(archive.waiting(document_id)) == 3


def test_a_lost_image_is_rendered_again_under_the_same_page(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    (page,) = archive.ingest(document_id, ["x"])
    claim = archive.claim(page)
    assert claim
    render_again(archive.db, claim)
    return_claim(archive.db, claim, "image lost")
    assert not archive.finish()
    assert archive.ingest(document_id, ["x"]) == [page]
    archive.read(page, "text")
    assert archive.finish() and archive.rows("SELECT text FROM page_text") == [("text",)]


def test_a_lost_image_that_cannot_be_rendered_any_more_fails_its_page(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    page, read = archive.ingest(document_id, ["x", "y"])
    archive.read(read, "kept")
    claim = archive.claim(page)
    assert claim
    render_again(archive.db, claim)
    return_claim(archive.db, claim, "image lost")
    broken = PageFailed("the file changed", cause="damaged")
    archive.ingest(document_id, [NewPage(0, error=broken), NewPage(1, error=broken)])
    assert archive.finish()
    assert archive.rows("SELECT page_number, cause FROM failures") == [(1, "damaged")]
    assert archive.rows("SELECT page_number, text FROM page_text") == [(2, "kept")]
    counts = archive.rows("SELECT pages_done, pages_failed, files_failed FROM batch_summary")
    assert counts == [(1, 1, 1)]
    assert archive.retry() == (0, 1)  # its image is looked for, and rendered again when it lacks


def test_a_document_that_failed_under_two_paths_is_retried_once(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf", "same") or 0
    archive.see("/in/b.pdf", "same")
    archive.ingest(document_id, [NewPage(0, error=PageFailed("hangs", cause="timeout"))])
    assert archive.retry() == (1, 0)
    assert archive.rows("SELECT * FROM failures") == []


def test_retry_reads_no_prompt_again_that_was_answered(archive: Archive) -> None:
    archive.batch(prompts=[OCR, DESCRIBE])
    (page,) = archive.ingest(archive.see("/in/a.pdf") or 0, ["x"])
    archive.read(page, lambda prompt: "text" if prompt == OCR else PageFailed("no"))
    of_prompts = "SELECT prompt_version, state FROM page_tasks ORDER BY state"
    assert archive.rows(of_prompts) == [(OCR.version, "done"), (DESCRIBE.version, "failed")]
    archive.retry()
    assert archive.rows(of_prompts) == [(OCR.version, "done"), (DESCRIBE.version, "pending")]


def test_retry_by_cause_takes_only_that_cause(archive: Archive) -> None:
    bad, worse = archive.ingest(archive.see("/in/a.pdf") or 0, ["0", "1"])
    archive.read(bad, PageFailed("slow", cause="timeout"))
    archive.read(worse, PageFailed("big", cause="memory"))
    unrendered = archive.see("/in/b.pdf") or 0
    archive.ingest(unrendered, [NewPage(0, error=PageFailed("hangs", cause="timeout"))])
    assert archive.retry("cause = 'timeout'") == (1, 1)
    assert archive.rows("SELECT cause FROM failures") == [("memory",)]
    again = claim_document(archive.db, unrendered, "ingest/1", 60)
    assert again and again.first_page == 0


def test_a_retry_while_a_document_is_drawn_takes_it_from_its_worker(archive: Archive) -> None:
    """It would go on behind the page that waits again, and leave it out."""
    document_id = archive.see("/in/a.pdf") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim
    set_page_count(archive.db, claim, 3)
    slow = NewPage(1, error=PageFailed("page 2 took too long", cause="timeout"))
    add_pages(archive.db, claim, [NewPage(0, sha("0"), 16, 16), slow])
    assert archive.retry() == (1, 0)
    assert not add_pages(archive.db, claim, [NewPage(2, sha("2"), 16, 16)])
    assert not finish_document(archive.db, claim, 3) and not archive.finish()
    again = claim_document(archive.db, document_id, "ingest/1", 60)
    assert again and again.first_page == 1
    add_pages(archive.db, again, [NewPage(index, sha(str(index)), 16, 16) for index in (1, 2)])
    assert finish_document(archive.db, again, 3)
    for (page,) in archive.rows("SELECT id FROM pages ORDER BY page_index"):
        archive.read(page, "text")
    assert archive.finish()
    assert archive.rows("SELECT state, page_count, pages_done FROM files") == [("done", 3, 3)]


def test_a_document_is_ready_with_as_many_rows_as_pages_else_it_waits(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf") or 0
    claim = claim_document(archive.db, document_id, "ingest/1", 60)
    assert claim and add_pages(archive.db, claim, [NewPage(index, sha(str(index)), 16, 16) for index in (0, 2)])
    assert not finish_document(archive.db, claim, 3)
    assert archive.rows("SELECT state, owner, lease_until FROM documents") == [("pending", None, None)]
    assert take_due_documents(archive.db, archive.batches["b"].id, limit=9, lost_after=NEVER) == [document_id]
    again = claim_document(archive.db, document_id, "ingest/2", 60)
    assert again and again.first_page == 1
    assert add_pages(archive.db, again, [NewPage(1, sha("1"), 16, 16)]) and finish_document(archive.db, again, 3)
    assert archive.scalar("SELECT state FROM documents") == "ready"


def statements(db: Database, work: Callable[[], Any]) -> int:
    """How many the database was given meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    work()
    event.remove(db.engine, "before_cursor_execute", note)
    return len(seen)


def fail(archive: Archive, path: str, count: int, unread: str = "slow") -> None:
    """A document with a page that could not be drawn, and others that could not be read; and a refused one."""
    undrawn = NewPage(0, error=PageFailed("hangs", cause="timeout"))
    archive.ingest(archive.see(path) or 0, [undrawn, *(f"{path} {index}" for index in range(1, count))])
    failed = "state = 'failed', cause = 'deadline', reason = :why, finished_at = :now"
    archive.execute(f"UPDATE page_tasks SET {failed} WHERE state = 'pending'", why=unread, now=utc_now())
    claim = claim_document(archive.db, archive.see(f"{path} refused") or 0, "ingest/1", 60)
    assert claim and reject_document(archive.db, claim, DocumentRejected("no"))


def test_a_retry_takes_as_many_statements_for_few_failures_as_for_many(archive: Archive) -> None:
    taken = []
    for name, count in (("few", 3), ("many", 300)):
        fail(archive, f"/in/{name}.pdf", count)
        where = f"source_path LIKE '/in/{name}%'"
        taken.append(statements(archive.db, lambda: archive.retry(where)))  # noqa: B023
        assert archive.rows(f"SELECT * FROM failures WHERE {where}") == []
    assert taken[0] == taken[1] < 20


def test_others_write_between_the_transactions_of_a_retry(
    archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker keeps its page alive; one write transaction for all would have held the lock of SQLite for minutes."""
    monkeypatch.setattr(retries, "_FAILURES_A_TRANSACTION", 4)
    held = archive.claim(*archive.ingest(archive.see("/in/held.pdf") or 0, ["held"]))
    assert held
    mine = [task.task_id for task in held.tasks]
    failed = archive.see("/in/a.pdf") or 0
    for page in archive.ingest(failed, [str(index) for index in range(10)]):
        archive.read(page, PageFailed("slow", cause="timeout"))
    other = open_database(settings)
    waiting: list[int] = []

    def write(*_: Any) -> None:
        assert list(renew_tasks(other, "read/1", mine, 60)) == mine
        waiting.append(Archive(other).scalar("SELECT count(*) FROM page_tasks WHERE state = 'pending'"))

    failures = archive.rows("SELECT source_path, page_number FROM failures ORDER BY 2")
    event.listen(archive.db.engine, "checkin", write)  # when a transaction is over
    assert retries.retry_failures(archive.db, archive.batches["b"].id, failures) == (0, 10)
    event.remove(archive.db.engine, "checkin", write)
    assert waiting == [4, 8, 10]
    other.dispose()


def test_a_retry_that_died_on_its_way_is_finished_by_the_next(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_FAILURES_A_TRANSACTION", 4)
    fail(archive, "/in/a.pdf", 10)
    started: list[Any] = []

    def die(connection: Any) -> None:
        started.append(connection)
        if len(started) == 2:
            raise KeyboardInterrupt

    failures = archive.rows("SELECT source_path, page_number FROM failures ORDER BY 1, 2")
    event.listen(archive.db.engine, "begin", die)
    with pytest.raises(KeyboardInterrupt):
        retries.retry_failures(archive.db, archive.batches["b"].id, failures)
    event.remove(archive.db.engine, "begin", die)
    assert archive.scalar("SELECT count(*) FROM failures") == len(failures) - 4
    done = archive.scalar("SELECT count(*) FROM page_tasks WHERE state = 'pending'")
    assert archive.retry() == (1, 9 - done) and archive.rows("SELECT * FROM failures") == []


def test_a_retry_opens_no_finished_batch_that_asks_for_none_of_it(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["text"], batch="old")
    archive.see("/in/a.pdf", batch="old")
    assert archive.finish("old")
    said = archive.rows("SELECT * FROM batch_summary WHERE name = 'old'")
    archive.batch(prompts=[DESCRIBE])
    archive.see("/in/a.pdf")
    archive.read(1, PageFailed("slow", cause="timeout"))
    assert archive.finish() and archive.retry() == (0, 1)
    assert archive.rows("SELECT * FROM batch_summary WHERE name = 'old'") == said
    assert archive.scalar("SELECT state FROM batches WHERE name = 'b'") == "running"


def test_a_file_that_is_seen_after_the_end_opens_the_batch_again(archive: Archive) -> None:
    """Two commands registered the same batch, and the shorter one came to its end first."""
    archive.file("/in/a.pdf", ["x"])
    assert archive.finish()
    late = archive.see("/in/b.pdf") or 0
    assert archive.scalar("SELECT state FROM batches") == "running"
    assert [batch.id for batch, _ in running_batches(archive.db)] == [archive.batches["b"].id]
    archive.read(*archive.ingest(late, ["y"]), "late")
    assert archive.finish()


def test_batches_that_share_a_page_do_not_take_it_from_each_other_when_they_try_to_finish(archive: Archive) -> None:
    document_id = archive.see("/in/a.pdf", batch="b") or 0
    archive.see("/in/a.pdf", batch="c")
    (page,) = archive.ingest(document_id, ["x"])
    (holder,) = (
        archive.batches[name]
        for name in "bc"
        if take_due_pages(archive.db, archive.batches[name].id, limit=9, lost_after=NEVER)
    )
    for _ in range(2):
        assert not archive.finish("b") and not archive.finish("c")
    assert archive.rows("SELECT batch_id, enqueued_at IS NOT NULL FROM page_tasks") == [(holder.id, True)]
    archive.read(page, "text")
    assert archive.finish("b") and archive.finish("c")


def test_a_cancelled_batch_sees_no_more_files(archive: Archive) -> None:
    """Somebody cancelled it while its files were being registered; they would wait for ever."""
    archive.batch()
    assert cancel_batch(archive.db, archive.batches["b"].id)
    assert archive.rows("SELECT * FROM documents") == [] and archive.rows("SELECT * FROM sources") == []
    record_files(archive.db, archive.batches["b"], [SeenFile("/in/a", "file:///in/a", 1, 1, "pdf", sha("a"))])
    assert archive.rows("SELECT * FROM documents") == [] and archive.rows("SELECT * FROM sources") == []


class Store(RuleBasedStateMachine):
    """Workers claim, die, come late and answer in any order; the model knows who holds what.

    `held` is task id → token of the valid lease, `ended` the terminal state, `token` the highest one handed out.
    """

    new_settings: Callable[[], Settings]
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.db: Database = open_database(type(self).new_settings())
        self.archive = Archive(self.db)
        self.held: dict[int, tuple[str, int]] = {}
        self.ended: dict[int, str] = {}
        self.token: dict[int, int] = {}
        self.crashes: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.pages: list[int] = []

    def teardown(self) -> None:
        self.db.dispose()

    @initialize(shared=st.booleans(), two_prompts=st.booleans())
    def fill(self, shared: bool, two_prompts: bool) -> None:
        self.archive.batch(prompts=[OCR, DESCRIBE] if two_prompts else [OCR])
        for path in ("/in/a", "/in/b"):
            texts = ["shared" if shared else path, f"{path} 2"]
            self.pages += self.archive.ingest(self.archive.see(path) or 0, texts)
        self.token = dict.fromkeys([row[0] for row in self.archive.rows("SELECT id FROM page_tasks")], 0)
        self.crashes, self.attempts = dict.fromkeys(self.token, 0), dict.fromkeys(self.token, 0)

    @rule(target=claims, page=st.integers(0, 3), owner=st.sampled_from(["a/1", "a/2", "b/1"]))
    def claim(self, page: int, owner: str) -> PageClaim | None:
        self.archive.execute("UPDATE page_tasks SET next_attempt_at = 0")
        claim = claim_page(self.db, self.pages[page], owner, ["m1"], 60)
        tasks = {
            row[0] for row in self.archive.rows("SELECT id FROM page_tasks WHERE page_id = :p", p=self.pages[page])
        }
        assert {task.task_id for task in (claim.tasks if claim else [])} == tasks - set(self.held) - set(self.ended)
        for task in claim.tasks if claim else []:
            assert task.token == self.token[task.task_id] + 1
            self.token[task.task_id] = task.token
            self.held[task.task_id] = (owner, task.token)
        return claim

    def still_held(self, claim: PageClaim) -> list[int]:
        return [task.task_id for task in claim.tasks if self.held.get(task.task_id, ("", 0))[1] == task.token]

    @rule(claim=claims, kind=st.sampled_from(["answer", "fail", "later"]))
    def complete(self, claim: PageClaim | None, kind: str) -> None:
        """Also with claims that were completed or lost before: messages and workers come late."""
        assume(claim is not None)
        assert claim is not None
        outcome: Any = {"answer": answer("x"), "fail": PageFailed("no"), "later": Unavailable("away")}[kind]
        mine = self.still_held(claim)
        outcomes = {task.task_id: outcome for task in claim.tasks}
        assert complete_page(self.db, claim, "w", outcomes, LIMITS) == len(mine)
        for task in mine:
            del self.held[task]
            self.attempts[task] += 1
            if kind == "answer":
                self.ended[task] = "done"
            elif kind == "fail" or self.attempts[task] >= LIMITS.max_attempts:
                self.ended[task] = "failed"

    @rule(claim=consumes(claims))
    def hand_back(self, claim: PageClaim | None) -> None:
        assume(claim is not None)
        assert claim is not None
        mine = self.still_held(claim)
        return_claim(self.db, claim, "stopping")
        for task in mine:
            del self.held[task]

    def crash(self, lost: list[int]) -> None:
        for task in lost:
            del self.held[task]
            self.crashes[task] += 1
            if self.crashes[task] >= LIMITS.max_crashes:
                self.ended[task] = "failed"

    @rule(owner=st.sampled_from(["a/", "a/1", "b/1"]))
    def die(self, owner: str) -> None:
        lost = [task for task, (who, _) in self.held.items() if who == owner or (owner == "a/" and who[0] == "a")]
        assert give_back(self.db, owner, reason="killed", crashed=True, limits=LIMITS) == len(lost)
        self.crash(lost)

    @rule(which=st.integers(0, 3))
    def run_out(self, which: int) -> None:
        lost = sorted(self.held)[which : which + 2]
        for task in lost:
            self.archive.execute("UPDATE page_tasks SET lease_until = 1 WHERE id = :id", id=task)
        assert expire(self.db, LIMITS) == len(lost)
        self.crash(lost)

    @rule()
    def retry(self) -> None:
        failed = [task for task, state in self.ended.items() if state == "failed"]
        assert self.archive.retry() == (0, len(failed))
        for task in failed:
            del self.ended[task]
            self.crashes[task] = self.attempts[task] = 0

    @rule()
    def finish(self) -> None:
        assert self.archive.finish() == (len(self.ended) == len(self.token))

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = self.archive.rows("SELECT id, state, token, owner FROM page_tasks")
        for task, state, token, owner in rows:
            expected = self.ended.get(task) or ("leased" if task in self.held else "pending")
            assert (state, token) == (expected, self.token[task])
            assert owner == (self.held[task][0] if task in self.held else None)

    @invariant()
    def history_is_sound(self) -> None:
        """Each token ends at most once, and after it only higher ones; a done task has one attempt without an error."""
        last: dict[int, int] = {}
        attempts = self.archive.rows("SELECT task_id, token, error FROM task_attempts ORDER BY id")
        for task, token, error in attempts:
            assert token > last.get(task, 0)
            last[task] = token
            assert error is not None or self.ended[task] == "done"
        good = {task for task, _, error in attempts if error is None}
        assert good == {task for task, state in self.ended.items() if state == "done"}
        shown = self.archive.rows("SELECT page_id, prompt, count(*) FROM current_answers GROUP BY 1, 2")
        assert len(shown) == len(good) and all(count == 1 for _, _, count in shown)
        files = self.archive.rows("SELECT * FROM batch_summary")
        if files and len(self.ended) == len(self.token):
            seen, done, failed, rejected = files[0][3:7]
            assert seen == done + failed + rejected


@pytest.mark.hypothesis
def test_the_store_keeps_its_promises_under_any_order_of_calls(
    new_settings: Callable[[], Settings], backend: str
) -> None:
    Store.new_settings = staticmethod(new_settings)
    run_state_machine_as_test(
        Store,
        settings=settings(examples(25 if backend == "sqlite" else 8), stateful_step_count=20),
    )


def test_a_very_long_path_is_seen_whole_and_stored_short(archive: Archive) -> None:
    """Linux opens paths of 4,095 bytes; a row of a PostgreSQL index holds 2,704 that compress no further."""
    long = "/in/" + "/".join(sha(str(number)) + "ü" for number in range(58))
    shown = [display(f"{long}/{name}") for name in ("a.pdf", "b.pdf")]
    assert len(set(shown)) == 2 and all(len(path.encode()) < 2700 for path in shown) and shown[0].endswith("/a.pdf")
    assert None not in [archive.see(path) for path in shown]
    assert sorted(archive.rows("SELECT path FROM sources")) == sorted((path,) for path in shown)
