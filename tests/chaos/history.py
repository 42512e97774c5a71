"""What must hold after any fault. Triggers note each change of state while the trial runs; `check` reads them all.

A task's life, token by token (a document's is the same, with ready and rejected for done):

    pending ──claim, token + 1──► leased ──► done │ failed        and back to pending, as often as its worker is lost

so at most one worker holds it at a time, tokens only rise, and what is done stays done. Each claim leaves one attempt
in the table, unless the answer was there already.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

_ENDED = {"done", "failed", "ready", "rejected"}
_CLOCK_SECONDS = 0.05  # between the statement that decided and the trigger that noted


class Rows(Protocol):
    @property
    def dialect(self) -> str: ...
    def rows(self, statement: str, **values: Any) -> list[Any]: ...


class Change(NamedTuple):
    """One row of `chaos_changes`."""

    kind: str
    row_id: int
    old_state: str
    new_state: str
    old_token: int
    new_token: int
    old_owner: str | None
    new_owner: str | None
    lease_until: float | None  # of the lease that ended
    at: float


def install(database: Rows) -> None:
    """The triggers, in a database at head."""
    is_server = database.dialect == "postgresql"
    number = "bigserial" if is_server else "integer"
    database.rows(
        f"CREATE TABLE chaos_changes (number {number} PRIMARY KEY, kind text, row_id bigint, old_state text, "
        "new_state text, old_token bigint, new_token bigint, old_owner text, new_owner text, lease_until float, "
        "at float)"
    )
    clock = "extract(epoch FROM clock_timestamp())" if is_server else "(julianday('now') - 2440587.5) * 86400.0"
    differs = "IS DISTINCT FROM" if is_server else "IS NOT"
    for table in ("page_tasks", "documents"):
        insert = (
            "INSERT INTO chaos_changes (kind, row_id, old_state, new_state, old_token, new_token, old_owner, "
            f"new_owner, lease_until, at) VALUES ('{table}', new.id, old.state, new.state, old.token, new.token, "
            f"old.owner, new.owner, old.lease_until, {clock});"
        )
        when = f"WHEN (old.state <> new.state OR old.token <> new.token OR old.owner {differs} new.owner)"
        on = f"CREATE TRIGGER chaos_{table} AFTER UPDATE ON {table} FOR EACH ROW {when}"
        if is_server:
            database.rows(
                f"CREATE FUNCTION chaos_{table}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {insert} RETURN NULL; END $$"
            )
            database.rows(f"{on} EXECUTE FUNCTION chaos_{table}()")
        else:
            database.rows(f"{on} BEGIN {insert} END")


def what_is_open(database: Rows) -> dict[str, Any]:
    """For waiting, and for saying what did not settle; empty when all is at rest.

    A document that no batch sees any more (its file is gone, or another now) may wait for ever.
    """
    wanted = "EXISTS (SELECT 1 FROM batch_sources s WHERE s.document_id = {})"
    open_rows = {
        "batches": "SELECT name, state, all_seen FROM batches WHERE state NOT IN ('finished', 'cancelled')",
        "documents": "SELECT id, state, owner, attempts, crashes, token FROM documents "
        f"WHERE state IN ('pending', 'leased') AND {wanted.format('documents.id')} ORDER BY id LIMIT 5",
        "tasks": "SELECT t.id, t.state, t.owner, t.attempts, t.crashes, t.token, t.enqueued_at, t.next_attempt_at "
        "FROM page_tasks t JOIN pages p ON p.id = t.page_id "
        f"WHERE t.state IN ('pending', 'leased') AND {wanted.format('p.document_id')} ORDER BY t.id LIMIT 5",
    }
    return {name: rows for name, statement in open_rows.items() if (rows := database.rows(statement))}


def check(
    database: Rows,
    expected: Mapping[str, int],
    failed: Collection[tuple[str, int]],
    reopened: bool = False,
    clock_is_true: bool = True,
) -> list[str]:
    """Everything that is wrong; empty where all holds.

    Args:
        expected: path → pages, of files that can be read.
        failed: (path, page number from 1) of pages that may fail; all others must be read.
        reopened: whether ended rows were asked for again on purpose (a retry, another prompt, a lost image).
        clock_is_true: whether the host's clock tells when a lease ends; the triggers have the true one.
    """
    return [
        *_check_rest(database),
        *_check_answers(database, expected, failed),
        *_check_attempts(database),
        *_check_changes(database, reopened, clock_is_true),
    ]


def repeated_readings(notes: Iterable[str]) -> int:
    """How many times an engine began a page that one had begun before."""
    return sum(count - 1 for count in Counter(notes).values())


def _check_rest(database: Rows) -> list[str]:
    """Every page terminal, no lease, no owner, each batch's sum."""
    wrong = [f"open: {name}: {rows}" for name, rows in what_is_open(database).items()]
    for table in ("page_tasks", "documents"):
        held = f"SELECT id, state, owner FROM {table} WHERE owner IS NOT NULL OR lease_until IS NOT NULL"
        if rows := database.rows(held):
            wrong.append(f"{table} with a lease: {rows[:5]}")
    sums = "SELECT name, files_seen, files_done, files_failed, files_rejected FROM batch_summary"
    wrong += [
        f"batch {name}: {seen} files seen, but {done} done + {failed} failed + {rejected} rejected"
        for name, seen, done, failed, rejected in database.rows(sums)
        if seen != done + failed + rejected
    ]
    return wrong


def _check_answers(database: Rows, expected: Mapping[str, int], failed: Collection[tuple[str, int]]) -> list[str]:
    """One current answer a key, on the page that it belongs to; nothing missing, nothing failed that should not."""
    wrong = []
    pages = database.rows(
        "SELECT s.path, p.page_index + 1, c.prompt, a.text, p.image_hash FROM sources s "
        "JOIN pages p ON p.document_id = s.document_id JOIN current_answers c ON c.page_id = p.id "
        "JOIN answer_versions a ON a.id = c.answer_id"
    )
    for path, number, prompt, text, image_hash in pages:
        if text.rstrip("\ufffd") != f"{prompt} of {image_hash}":
            wrong.append(f"{path} page {number} shows another page's answer: {text!r}")
    read = {(path, number) for path, number, *_ in pages}
    for path, count in expected.items():
        missing = {(path, number) for number in range(1, count + 1)} - read - set(failed)
        if missing:
            wrong.append(f"not read: {sorted(missing)[:5]}, {len(missing)} in all")
    failures = database.rows("SELECT source_path, page_number, cause, reason FROM failures WHERE kind = 'failed'")
    for path, number, cause, reason in failures:
        if path in expected and (path, number) not in failed:
            wrong.append(f"condemned: {path} page {number}: {cause}: {reason}")
    strays = database.rows(
        "SELECT t.id FROM page_tasks t LEFT JOIN pages p ON p.id = t.page_id "
        "LEFT JOIN answer_versions a ON a.id = t.answer_id "
        "WHERE t.state = 'done' AND (a.id IS NULL OR a.image_hash <> p.image_hash "
        "OR a.prompt_version <> t.prompt_version)"
    )
    if strays:
        wrong.append(f"tasks that are done with another page's answer: {strays[:5]}")
    ((answers, searchable),) = database.rows(
        "SELECT (SELECT count(*) FROM answer_versions), (SELECT count(*) FROM page_search)"
    )
    if answers != searchable:
        wrong.append(f"{answers} answers, {searchable} of them searchable")
    return wrong


def _check_attempts(database: Rows) -> list[str]:
    """Tokens rise, one success at most, nothing after it, and no claim without a trace."""
    wrong = []
    of_task = defaultdict(list)
    for task_id, token, error in database.rows("SELECT task_id, token, error FROM task_attempts ORDER BY id"):
        of_task[task_id].append((token, error))
    for task_id, state, token in database.rows("SELECT id, state, token FROM page_tasks"):
        attempts = of_task[task_id]
        tokens = [token for token, _ in attempts]
        successes = [token for token, error in attempts if error is None]
        if tokens != sorted(set(tokens)):
            wrong.append(f"task {task_id}: its attempts' tokens do not rise: {tokens}")
        if len(successes) > 1 or (successes and successes[-1] != tokens[-1]):
            wrong.append(f"task {task_id}: successes {successes} among attempts {tokens}")
        was_reused = state == "done" and not successes  # settled with an answer that was there: no attempt
        if tokens != list(range(1, token + 1 - was_reused)):
            wrong.append(f"task {task_id} ({state}): {token} claims, but attempts {tokens}")
    return wrong


def _check_changes(database: Rows, reopened: bool, clock_is_true: bool) -> list[str]:
    wrong = []
    expired = {
        (task_id, token)
        for task_id, token in database.rows("SELECT task_id, token FROM task_attempts WHERE error = 'lease expired'")
    }
    rows = database.rows(
        "SELECT kind, row_id, old_state, new_state, old_token, new_token, old_owner, new_owner, lease_until, at "
        "FROM chaos_changes ORDER BY number"
    )
    for change in map(Change._make, rows):
        if not _is_sound(change, reopened):
            wrong.append(f"{change} should not be")
        is_expiry = clock_is_true and change.kind == "page_tasks" and (change.row_id, change.old_token) in expired
        if is_expiry and change.old_state == "leased" and (change.lease_until or 0) > change.at + _CLOCK_SECONDS:
            wrong.append(f"{change}: taken away {(change.lease_until or 0) - change.at:.2f} s before its lease ran out")
    return wrong


def _is_sound(change: Change, reopened: bool) -> bool:
    if change.new_state == "leased":
        is_free = change.old_state == "pending" and change.old_owner is None
        return is_free and change.new_owner is not None and change.new_token == change.old_token + 1
    if change.new_owner is not None or change.new_token != change.old_token:
        return False
    if change.old_state == "leased":
        return change.new_state == "pending" or change.new_state in _ENDED
    is_answered = change.kind == "page_tasks" and change.old_state == "done"
    return reopened and not is_answered
