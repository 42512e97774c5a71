"""Pages that hold what a query asks for, so many at most: those that were read last.

Either the index is read, newest answer first, and each answer is held against the filters until there are enough; or,
where few answers pass the filters, these are found first and held against the index. PostgreSQL's planner chooses by
itself; SQLite's knows nothing about how common a word is, so for it the choice is made here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from pipeline.database.looking import Look
from pipeline.errors import UsageError
from pipeline.query.search_broad import matched
from pipeline.query.search_match import to_tsquery
from pipeline.query.search_query import Query
from pipeline.query.search_rank import Counted
from pipeline.query.search_slices import rows_of

_FEW = 5_000  # answers that pass the filters: it takes 15 ms to find so many
_AT_ONCE = 50_000  # of the index
_FILES = 5_000  # of a folder, whose numbers are worth sending


class Row(Protocol):
    """A hit."""

    answer_id: int
    path: str
    public_id: str
    page_index: int
    prompt: str
    terms: str  # as the index holds them; on PostgreSQL those that count
    length: int
    alone: str  # on PostgreSQL: how often each of the characters stands there that count, with blanks between


@dataclass(frozen=True, slots=True)
class Among:
    """Which pages are searched; None does not choose."""

    prompt: str | None = None
    batch: int | None = None  # `batches.id`
    folder: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None

    def conditions(self, look: Look, answer: str) -> tuple[str, dict[str, Any]]:
        """For a WHERE, each with an AND before it, and their values; `answer` is the column of an answer's number."""
        tests: list[str] = []
        values: dict[str, Any] = {}
        for name, test, value in (
            ("prompt", "c.prompt = :prompt", self.prompt),
            ("batch", "bs.batch_id = :batch", self.batch),
            ("since", "a.created_at >= :since", self.since and look.as_stored(self.since)),
            ("until", "a.created_at < :until", self.until and look.as_stored(self.until)),
            ("low", "a.confidence >= :low", self.min_confidence),
            ("high", "a.confidence <= :high", self.max_confidence),
        ):
            if value is not None:
                tests.append(test)
                values[name] = value
        if self.folder is not None:
            test, more = _in_folder(look, self.folder)
            tests.append(test)
            values |= more
        if self.since is not None:
            tests.append(f"{answer} >= :first")
            values["first"] = _first_read(look, self.since - _ASKEW)
        if self.until is not None:
            tests.append(f"{answer} < :beyond")
            values["beyond"] = _first_read(look, self.until + _ASKEW)
        return "".join(f" AND {test}" for test in tests), values

    @property
    def sources(self) -> str:
        """Of a batch, files as it saw them: what lies there now may be another document."""
        if self.batch is None:
            return "sources s ON s.document_id = d.id AND s.gone_at IS NULL"
        return "batch_sources bs ON bs.document_id = d.id {join} sources s ON s.id = bs.source_id"


def _in_folder(look: Look, folder: str) -> tuple[str, dict[str, Any]]:
    """A whole path is looked up; the end of one, `letters/1913`, is looked for in each path. Members of an archive lie
    below its path with a `!`."""
    name = folder.rstrip("/")
    if not folder.strip():
        raise UsageError("the folder to search in is empty; is a shell variable unset?")
    if folder.startswith("/") or "://" in folder:
        # 0 follows / among characters
        below = {"folder": f"{name}/", "after": f"{name}0", "archive": f"{name}!/", "behind": f"{name}!0"}
        return "(s.path > :folder AND s.path < :after OR s.path > :archive AND s.path < :behind)", below
    place = "strpos" if look.dialect == "postgresql" else "instr"
    end = f"/{name.removeprefix('./')}"
    test = " OR ".join(f"{place}(s.path, CAST(:{name} AS text)) > 0" for name in ("folder", "archive"))
    test, values = f"({test})", {"folder": f"{end}/", "archive": f"{end}!/"}
    if look.dialect == "postgresql":  # the planner expects a third of all files
        files = look.values(f"SELECT s.id FROM sources s WHERE {test} LIMIT {_FILES + 1}", **values)
        if len(files) <= _FILES:
            return "s.id = ANY(CAST(:files AS bigint[]))", {"files": files}
    return test, values


def _first_read(look: Look, moment: datetime) -> int:
    """The first answer of this moment or later, by halves, for no index has the time: answers are numbered as they are
    stored, so all before it are older, but for what clocks differ."""
    low, high = 0, int(look.value("SELECT coalesce(max(id), 0) + 1 FROM answer_versions"))
    stored = look.as_stored(moment)
    while low < high:
        middle = (low + high) // 2
        (found,) = look.rows(_FROM_THERE, middle=middle, moment=stored) or (None,)
        if found is None or found.is_later:
            high = middle
        else:
            low = found.id + 1
    return low


_FROM_THERE = (
    "SELECT id, created_at >= :moment AS is_later FROM answer_versions WHERE id >= :middle ORDER BY id LIMIT 1"
)
_ASKEW = timedelta(days=1)  # by which two clocks may differ

_SHOWN = "c.answer_id, s.path, d.public_id, p.page_index, c.prompt"
_OF_ANSWER = (
    "{join} pages p ON p.id = c.page_id {join} documents d ON d.id = p.document_id {join} %s "
    "{join} answer_versions a ON a.id = c.answer_id"
)


def hits(look: Look, query: Query, among: Among, most: int, *, enough: int, counted: Counted) -> tuple[list[Any], bool]:
    """At most so many rows of `Row`, and whether there are more; the newest answers first, on PostgreSQL in any order.

    Where many must be looked at, `enough` are; see `search_slices.py`. `counted` is what pages are ranked by;
    SQLite gives all there is.

    Raises:
        UsageError: a beginning of too many words within OR, NOT or NEAR.
    """
    if look.dialect == "postgresql":
        return _on_postgresql(look, query, among, most, enough, counted)
    found = _on_sqlite(look, query, among, most + 1)
    return found[:most], len(found) > most


def _on_sqlite(look: Look, query: Query, among: Among, most: int) -> list[Any]:
    tests, values = among.conditions(look, "f.rowid")
    match, beginnings = matched(look, query)
    for number, beginning in enumerate(beginnings):
        tests += f" AND instr(' ' || f.terms, :beginning{number}) > 0"
        values[f"beginning{number}"] = f" {beginning}"
    ids = _few(look, among)
    if ids is None:
        start = "page_search f CROSS JOIN current_answers c ON c.answer_id = f.rowid"
        if match is not None:
            tests, values["match"] = f" AND f.page_search MATCH :match{tests}", match
    else:
        start = (
            "json_each(:ids) i CROSS JOIN page_search f ON f.rowid = i.value "
            "CROSS JOIN current_answers c ON c.answer_id = i.value"
        )
        found = ids if match is None else _matching(look, match, ids, len(ids) if beginnings else most)
        values["ids"] = json.dumps(list(found))
    statement = (
        f"SELECT {_SHOWN}, f.terms, length(CAST(a.text AS BLOB)) AS length FROM {start} {_OF_ANSWER % among.sources} "
        f"WHERE true{tests} ORDER BY f.rowid DESC LIMIT :limit"
    ).replace("{join}", "CROSS JOIN")
    return list(look.rows(statement, **values, limit=most))


def _few(look: Look, among: Among) -> set[int] | None:
    """Answers that pass the filters, where files are among these; None where they are many, or all."""
    if among.batch is None and among.folder is None:
        return None
    tests, values = among.conditions(look, "c.answer_id")
    answers = " CROSS JOIN answer_versions a ON a.id = c.answer_id" if " a." in tests else ""
    files = (
        "sources s CROSS JOIN documents d ON d.id = s.document_id"
        if among.batch is None
        else "batch_sources bs CROSS JOIN sources s ON s.id = bs.source_id "
        "CROSS JOIN documents d ON d.id = bs.document_id"
    )
    statement = (
        f"SELECT c.answer_id FROM {files} CROSS JOIN pages p ON p.document_id = d.id "
        f"CROSS JOIN current_answers c ON c.page_id = p.id{answers} WHERE true{tests} LIMIT {_FEW + 1}"
    )
    found = look.values(statement, **values)
    return None if len(found) > _FEW else set(found)


def _matching(look: Look, match: str, ids: set[int], most: int) -> list[int]:
    """Those of some answers that the index finds, the newest first."""
    statement = (
        "SELECT rowid FROM page_search WHERE page_search MATCH :match AND rowid BETWEEN :first AND :last "
        "ORDER BY rowid DESC LIMIT :most"
    )
    found: list[int] = []
    last = max(ids, default=0)
    while ids and len(found) < most:
        here = look.values(statement, match=match, first=min(ids), last=last, most=_AT_ONCE)
        found += [answer for answer in here if answer in ids]
        if len(here) < _AT_ONCE:
            break
        last = here[-1] - 1
    return found[:most]


def _on_postgresql(
    look: Look, query: Query, among: Among, most: int, enough: int, counted: Counted
) -> tuple[list[Any], bool]:
    tests, values = among.conditions(look, "f.rowid")
    values["match"] = to_tsquery(query)
    look.rows(_PLAN_EACH)
    terms = "f.terms"
    if counted.terms is not None:
        terms, values["counted"] = _COUNTED, list(counted.terms)
    values |= {f"alone{number}": f"'{character}':*" for number, character in enumerate(counted.characters)}
    alone = ", ".join(_ALONE.format(number) for number, _ in enumerate(counted.characters)) or "NULL"
    statement = (
        f"SELECT {_SHOWN}, CAST({terms} AS text) AS terms, octet_length(a.text) AS length, "
        f"concat_ws(' ', {alone}) AS alone "
        f"FROM page_search f JOIN current_answers c ON c.answer_id = f.rowid {_OF_ANSWER % among.sources} "
        f"WHERE f.terms @@ CAST(:match AS tsquery){tests}"
    ).replace("{join}", "JOIN")
    return rows_of(look, statement, values, most, enough)


# To spell all words of a thousand pages, send and read them takes longer than to find these pages. The index knows no
# weights but D, so another one marks those that are counted.
_COUNTED = "setweight(ts_filter(setweight(f.terms, 'A', CAST(:counted AS text[])), '{a}'), 'D')"

# How often a character stands on a page is how many pairs begin with it, which `ts_rank_cd` adds up: each place of a
# lone word counts as much as its weight. The character itself is there once more, aside.
_ALONE = "greatest(ts_rank_cd('{{1,1,1,1}}', f.terms, CAST(:alone{} AS tsquery)) - 1, 0)"

# A statement that a connection repeats is planned once for any words: as if they were rare. To compile it takes longer
# than to run it, and so does to start processes that share a scan of a few hundred pages.
_PLAN_EACH = """SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true),
    set_config('max_parallel_workers_per_gather', '0', true)"""
