"""What of a batch was not read, some at a time, in a time that goes with the failures and not with the pages.

The view `failures` looks at each page of a batch; here every part starts from an index that holds failures alone. A
document that lies at several paths is listed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.database.looking import Look, Looking, as_moment
from schemas.text import storable
from schemas.view_parts import IS_ASKED_ABOUT


@dataclass(frozen=True, slots=True)
class Failure:
    """A file, or a page, that failed; `key` is its place in the list."""

    key: tuple[int, int]
    source_path: str
    document_id: str | None
    page_number: int | None
    prompt: str | None
    cause: str
    reason: str
    attempts: int
    failed_at: datetime | None
    image_hash: str | None  # of a page that was drawn


def list_failures(
    db: Looking, batch_id: int, cause: str | None = None, after: tuple[int, int] = (0, 0), limit: int = 50
) -> list[Failure]:
    """The next ones after a key; fewer than `limit` at the end."""
    found: list[Failure] = []
    with db.looking() as look:
        for part in range(after[0], len(_PARTS)):
            start = after[1] if part == after[0] else 0
            found += _some(look, part, batch_id, cause, start, limit - len(found))
            if len(found) == limit:
                break
    return found


def all_failures(db: Looking, batch_id: int, cause: str | None = None) -> Iterator[Failure]:
    after = (0, 0)
    while some := list_failures(db, batch_id, cause, after, 1_000):
        yield from some
        after = some[-1].key


def find_failure(db: Looking, batch_id: int, key: tuple[int, int]) -> Failure | None:
    """One of the list; None where it is none any more."""
    found = list_failures(db, batch_id, None, (key[0], key[1] - 1), 1) if 0 <= key[0] < len(_PARTS) else []
    return found[0] if found and found[0].key == key else None


def causes_of(db: Looking, batch_id: int) -> dict[str, int]:
    """Cause → failures, most frequent first."""
    counted = Counter[str]()
    with db.looking() as look:
        for _, _, rows in _PARTS:
            counted.update(dict(look.rows(f"SELECT x.cause, count(*) {rows} GROUP BY x.cause", batch=batch_id)))
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))


_IS_SEEN = "EXISTS (SELECT 1 FROM batch_sources bs WHERE bs.batch_id = :batch AND bs.document_id = {}.id)"
_ASKED = f"EXISTS (SELECT 1 FROM batches b WHERE b.id = :batch AND {IS_ASKED_ABOUT})"
_PATH = """(SELECT min(s.path) FROM batch_sources bs JOIN sources s ON s.id = bs.source_id
   WHERE bs.batch_id = :batch AND bs.document_id = d.id)"""
_NOTHING = "CAST(NULL AS TEXT)"

# (key of a row, its columns from the path on, where they come from); `x` has the cause. `o` is any batch: a page that
# two of them ask about is a task of one.
_PARTS = (
    (
        "x.source_id",
        f"s.path, {_NOTHING}, CAST(NULL AS INTEGER), {_NOTHING}, x.cause, x.reason, 1, x.seen_at, {_NOTHING}",
        "FROM batch_sources x JOIN sources s ON s.id = x.source_id WHERE x.batch_id = :batch AND x.cause IS NOT NULL",
    ),
    (
        "x.id",
        f"{_PATH.replace('d.id', 'x.id')}, x.public_id, CAST(NULL AS INTEGER), {_NOTHING}, x.cause, x.reason, "
        f"x.attempts + x.crashes, x.finished_at, {_NOTHING}",
        "FROM batches o CROSS JOIN documents x WHERE x.batch_id = o.id AND x.state IN ('rejected', 'failed') "
        f"AND {_IS_SEEN.format('x')}",
    ),
    (
        "+x.id",  # else SQLite goes through all pages by their ids, not through those that failed
        f"{_PATH}, d.public_id, x.page_index + 1, {_NOTHING}, x.cause, x.reason, 1, x.created_at, {_NOTHING}",
        "FROM pages x JOIN documents d ON d.id = x.document_id WHERE x.cause IS NOT NULL "
        f"AND {_IS_SEEN.format('d')} AND {_ASKED.replace('p.page_index', 'x.page_index')}",
    ),
    *(
        (
            "x.id",
            f"{_PATH}, d.public_id, p.page_index + 1, v.name, x.cause, x.reason, x.attempts + x.crashes, "
            "x.finished_at, CASE WHEN p.image_freed_at IS NULL THEN p.image_hash END",
            f"FROM {tasks} JOIN pages p ON p.id = x.page_id "
            "JOIN documents d ON d.id = p.document_id JOIN prompt_versions v ON v.version = x.prompt_version "
            "JOIN batches w ON w.id = :batch AND w.model = x.model "
            "JOIN batch_prompts bp ON bp.batch_id = w.id AND bp.prompt_version = x.prompt_version "
            f"WHERE {of_batch} AND x.state = 'failed' AND {_IS_SEEN.replace('{}.id', 'p.document_id')} AND {_ASKED}",
        )
        for tasks, of_batch in (  # its own come in the order of an index; those of others that it shares are few
            ("page_tasks x", "x.batch_id = :batch"),
            ("batches o CROSS JOIN page_tasks x", "x.batch_id = o.id AND o.id <> :batch"),
        )
    ),
)


def _some(look: Look, part: int, batch_id: int, cause: str | None, after: int, limit: int) -> list[Failure]:
    key, columns, rows = _PARTS[part]
    given: dict[str, Any] = {"batch": batch_id, "after": after, "limit": limit}
    where = f"{rows} AND {key} > :after"
    if cause is not None:
        where += " AND x.cause = :cause"
        given["cause"] = storable(cause)
    return [
        Failure(
            key=(part, row[0]),
            source_path=row[1] or "",
            document_id=row[2],
            page_number=row[3],
            prompt=row[4],
            cause=row[5] or "",
            reason=row[6] or "",
            attempts=row[7],
            failed_at=None if row[8] is None else as_moment(row[8]),
            image_hash=row[9],
        )
        for row in look.rows(f"SELECT {key}, {columns} {where} ORDER BY {key} LIMIT :limit", **given)
    ]
