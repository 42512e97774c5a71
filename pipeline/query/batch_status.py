"""Batches and how far they are, for people: exact counts, rates, failures by cause.

`status` looks at each page of the batch once, and at the latest attempts; a run that wants to know how far it is asks
`store/progress.py`, which is cheaper.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.database.looking import Look, Looking, as_json, as_moment
from pipeline.errors import UsageError, did_you_mean
from pipeline.query.go_on import go_on_command
from pipeline.query.worth_a_look import worth_a_look
from pipeline.store.task_counts import Progress
from pipeline.store.task_counts import progress as count_progress
from pipeline.store.worked_on_by import WorkedOnBy, worked_on_by
from schemas.view_parts import IS_ASKED_ABOUT
from schemas.views import summary_of_batch

_WINDOW_SECONDS = 60.0
_WINDOW_ATTEMPTS = 60_000  # as many of the latest attempts are looked at: a minute at 1,000 pages/s


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch without its counts; `id` is the key inside, `batch_id` what people see."""

    id: int
    batch_id: str
    name: str
    state: str
    engine: str
    model: str
    started_at: datetime  # UTC, and says so
    finished_at: datetime | None
    all_seen: bool  # false while its files are being registered, and after that was interrupted
    command: list[str] | None  # words of the `pagepack run` or `ask` that goes on with it
    text_layer: str  # what is made of the text that a PDF's page carries
    forgotten_at: datetime | None = None  # when files of it were forgotten last


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a batch goes."""

    progress: Progress
    tasks_per_second: float  # over the last minute
    seconds_left: float | None  # None where nothing was read lately
    worked_on_by: WorkedOnBy
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Files and pages of a batch, as `batch_summary` has them."""

    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int


@dataclass(frozen=True, slots=True)
class Status:
    """A row of `batch_summary` and what makes it move."""

    batch: BatchRow
    files_seen: int
    files_done: int
    files_failed: int
    files_rejected: int
    pages_total: int
    pages_done: int
    pages_failed: int
    progress: Progress
    pages_per_second: float  # over the last minute; a page is read when every prompt is answered
    seconds_left: float | None  # None where nothing was read lately
    pages_per_second_overall: float  # pages done since the batch was first started, pauses included
    failures: dict[str, int]  # cause → rows in `failures`, most frequent first
    engines: dict[str, int]  # engine → pages of which it answered a prompt
    pages_worth_a_look: dict[str, int]  # reason of the view `review` → pages that were read for this batch
    prompts: list[str]  # names of what is asked about each page
    worked_on_by: WorkedOnBy
    interrupted: bool  # its `run` or `ask` is not there any more, and no workers that would go on with it
    command: str | None  # for a shell, to go on with it; None: workers do


def batch_rows(
    db: Looking, *, public_id: str | None = None, before: int | None = None, limit: int | None = None
) -> list[BatchRow]:
    """All batches, the latest first; or the one, or some that are older than that with the id `before`."""
    given = {"public_id": public_id, "before": before, "limit": limit}
    where = "WHERE public_id = :public_id" if public_id is not None else "WHERE id < :before" if before else ""
    most = "LIMIT :limit" if limit is not None else ""
    with db.looking() as look:
        rows = look.rows(
            f"{_BATCHES} {where} ORDER BY id DESC {most}",
            **{name: value for name, value in given.items() if f":{name}" in f"{where} {most}"},
        )
    read: dict[str, Callable[[Any], Any]] = {
        "started_at": as_moment,
        "finished_at": _moment_or_none,
        "forgotten_at": _moment_or_none,
        "all_seen": bool,
        "command": as_json,
    }
    return [
        BatchRow(**{name: read.get(name, _as_it_is)(value) for name, value in row._asdict().items()}) for row in rows
    ]


def _moment_or_none(value: Any) -> datetime | None:
    return None if value is None else as_moment(value)


def _as_it_is(value: Any) -> Any:
    return value


def find_batch(db: Looking, ref: str | None = None) -> BatchRow:
    """By id, by an unambiguous beginning of it, or by name; the latest where `ref` is None.

    Raises:
        UsageError: none or several fit; the message lists what there is.
    """
    batches = batch_rows(db)
    if not batches:
        raise UsageError(f"{db.name} has no batch yet; `pagepack run PATH` makes one")
    if ref is None:
        return batches[0]
    exact = [batch for batch in batches if batch.batch_id == ref.lower()]
    named = [batch for batch in batches if batch.name == ref]
    begun = [batch for batch in batches if ref and batch.batch_id.startswith(ref.lower())]
    fitting = exact or named or begun
    if len(fitting) == 1:
        return fitting[0]
    candidates = ", ".join(f"{batch.batch_id} ({batch.name})" for batch in (fitting or batches)[:5])
    if fitting:
        raise UsageError(f"{len(fitting)} batches answer to {ref!r}; name one by its id: {candidates}")
    near = did_you_mean(ref, {batch.name for batch in batches} | {batch.batch_id for batch in batches})
    raise UsageError(f"no batch has the id or name {ref!r}{near or ';'} the latest are {candidates}")


def asked_prompts(db: Looking, batch_id: int) -> list[str]:
    """Names of the prompts that a batch asks, in their order."""
    asked = "SELECT v.name FROM prompt_versions v JOIN batch_prompts b ON b.prompt_version = v.version"
    with db.looking() as look:
        return look.values(f"{asked} WHERE b.batch_id = :batch ORDER BY v.name", batch=batch_id)


def check_prompt(db: Looking, name: str) -> None:
    """Raises UsageError where no page was ever asked this; the message names the prompts that there are."""
    with db.looking() as look:
        known = look.values("SELECT DISTINCT name FROM prompt_versions ORDER BY name")
    if name not in known:
        near = did_you_mean(name, known) or ";"
        raise UsageError(f"no page was asked the prompt {name!r}{near} known are {', '.join(known) or 'none yet'}")


def paths_not_taken_in(db: Looking, batch: BatchRow) -> set[str]:
    """Files without a document, which a repeated run looks at again: of a kind that is not read, gone, links…"""
    seen = "SELECT s.path FROM sources s JOIN batch_sources bs ON bs.source_id = s.id"
    with db.looking() as look:
        return set(look.values(f"{seen} WHERE bs.batch_id = :batch AND bs.document_id IS NULL", batch=batch.id))


def who_works(db: Looking, batch: BatchRow) -> WorkedOnBy:
    """Who works on a batch now."""
    return worked_on_by(db, batch.id, is_question=batch.command is not None and batch.command[1] == "ask")


def is_interrupted(batch: BatchRow, who: WorkedOnBy) -> bool:
    """Whether its `run` or `ask` is not there any more, nor workers that would go on with it."""
    return batch.state == "running" and batch.command is not None and who == WorkedOnBy.NOBODY


def pace(db: Looking, batch: BatchRow) -> Pace:
    """Costs a walk over an index of the batch's tasks, and a look at the latest attempts."""
    now = count_progress(db, batch.id)
    who = who_works(db, batch)
    interrupted = is_interrupted(batch, who)
    with db.looking() as look:
        rate = 0.0 if interrupted else _recent_rate(look, batch.id)
        return Pace(now, rate, _seconds_left(look, batch.id, now, rate), who, interrupted)


def counts(db: Looking, batch: BatchRow) -> Counts:
    """Costs a look at each page of the batch."""
    with db.looking() as look:
        (row,) = look.rows(summary_of_batch(), id=batch.id)
    return Counts(*(getattr(row, name) for name in Counts.__slots__))


def status(db: Looking, batch: BatchRow) -> Status:
    """The batch's exact counts; costs a look at each of its pages."""
    now, counted, prompts = pace(db, batch), counts(db, batch), asked_prompts(db, batch.id)
    with db.looking() as look:
        end = batch.finished_at or datetime.fromtimestamp(look.now(), UTC)
        seconds = max((end - batch.started_at).total_seconds(), 1.0)
        return Status(
            batch=batch,
            files_seen=counted.files_seen,
            files_done=counted.files_done,
            files_failed=counted.files_failed,
            files_rejected=counted.files_rejected,
            pages_total=counted.pages_total,
            pages_done=counted.pages_done,
            pages_failed=counted.pages_failed,
            progress=now.progress,
            pages_per_second=now.tasks_per_second / max(len(prompts), 1),
            seconds_left=now.seconds_left,
            pages_per_second_overall=counted.pages_done / seconds,
            failures=dict(look.rows(_FAILURES, batch=batch.batch_id)),
            engines=dict(look.rows(_ENGINES, batch=batch.id)),
            pages_worth_a_look=worth_a_look(look, batch.batch_id),
            prompts=prompts,
            worked_on_by=now.worked_on_by,
            interrupted=now.interrupted,
            command=go_on_command(db, batch.command) if batch.command is not None else None,
        )


def pages_done_within(db: Looking, batch_id: int, seconds: float) -> int:
    """Pages of which the last seconds brought an answer; those that were answered before are not among them."""
    done = "SELECT count(DISTINCT page_id) FROM page_tasks WHERE batch_id = :batch AND state = 'done'"
    with db.looking() as look:
        since = datetime.fromtimestamp(look.now() - seconds, UTC)
        return int(look.value(f"{done} AND finished_at >= :since", batch=batch_id, since=look.as_stored(since)))


def answers_held(db: Looking, batch_id: int) -> int:
    """Answers to what a batch asks that pages do not show, for people promoted others there."""
    with db.looking() as look:
        return int(look.value(_HELD, batch=batch_id))


def answered_by_others(db: Looking, batch_id: int) -> dict[str, int]:
    """Pages of a batch by the model that answered at an endpoint, where it is another than was asked for."""
    with db.looking() as look:
        stored = dict(look.rows(_BY_OTHERS, batch=batch_id))
    named = Counter[str]()
    for model, count in stored.items():
        if found := _SERVED.search(model):
            named[found[1]] += count
    return dict(named.most_common())


_SERVED = re.compile(r"/[0-9a-f]{8}=(.+?)(?:\+length/\d+)?$")  # behind the version of what was asked
_BY_OTHERS = """SELECT a.model, count(*) FROM page_tasks t JOIN answer_versions a ON a.id = t.answer_id
WHERE t.batch_id = :batch AND t.state = 'done' AND a.engine = 'endpoint' AND a.model LIKE '%=%' GROUP BY a.model"""
_HELD = """SELECT count(*) FROM current_answers c JOIN pages p ON p.id = c.page_id
WHERE c.promotion_id IS NOT NULL AND c.latest_answer_id <> c.answer_id
  AND p.document_id IN (SELECT document_id FROM batch_sources WHERE batch_id = :batch)
  AND c.prompt IN (SELECT v.name FROM prompt_versions v JOIN batch_prompts b ON b.prompt_version = v.version
                   WHERE b.batch_id = :batch)"""
_BATCHES = """SELECT id, public_id AS batch_id, name, state, engine, model, started_at, finished_at, all_seen, command,
  text_layer, forgotten_at FROM batches"""
_FAILURES = "SELECT cause, count(*) FROM failures WHERE batch_id = :batch GROUP BY cause ORDER BY 2 DESC, 1"
# Of the pages that its files have now: not of what a file held before it changed, and also of what was read before.
_ENGINES = f"""SELECT a.engine, count(DISTINCT p.id) FROM batches b
JOIN (SELECT DISTINCT document_id FROM batch_sources WHERE batch_id = :batch) o ON b.id = :batch
JOIN pages p ON p.document_id = o.document_id AND {IS_ASKED_ABOUT}
JOIN batch_prompts bp ON bp.batch_id = b.id
JOIN page_tasks t ON t.page_id = p.id AND t.prompt_version = bp.prompt_version AND t.model = b.model
JOIN answer_versions a ON a.id = t.answer_id
WHERE t.state = 'done' GROUP BY a.engine ORDER BY a.engine"""
_DOCUMENTS = "SELECT state, count(*) FROM documents WHERE batch_id = :batch GROUP BY state"
_ATTEMPTS = f"""SELECT count(*) AS number, min(x.ended_at) AS oldest
FROM task_attempts x JOIN page_tasks t ON t.id = x.task_id
WHERE x.id > (SELECT max(id) - {_WINDOW_ATTEMPTS} FROM task_attempts) AND x.ended_at >= :since AND x.error IS NULL
  AND t.batch_id = :batch"""


def _seconds_left(look: Look, batch_id: int, now: Progress, rate: float) -> float | None:
    """Documents not opened yet count as average ones."""
    documents = dict(look.rows(_DOCUMENTS, batch=batch_id))
    waiting = documents.get("pending", 0) + documents.get("leased", 0)
    opened = max(documents.get("ready", 0), 1)
    expected = now.tasks_pending + now.tasks_leased + waiting * max(now.tasks_total / opened, 1.0)
    return 0.0 if expected == 0 else expected / rate if rate > 0 else None


def _recent_rate(look: Look, batch_id: int) -> float:
    """Answers a second since the oldest attempt of the last minute, so that a run resumed just now is not diluted."""
    now = look.now()
    since = datetime.fromtimestamp(now - _WINDOW_SECONDS, UTC)
    ((number, oldest),) = look.rows(_ATTEMPTS, batch=batch_id, since=look.as_stored(since))
    return number / max(now - as_moment(oldest).timestamp(), 1.0) if number else 0.0
