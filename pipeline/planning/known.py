"""What the home's database knows already of files, pages, answers and speed; in plain SQL, and nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.database.looking import Looking, as_moment
from pipeline.database.open_to_look import open_to_look
from pipeline.documents.files import HOLDERS, Found
from pipeline.planning.asked import Asked
from pipeline.planning.readers import gpus_of
from pipeline.settings import Settings
from pipeline.store.wished_model import wished_model
from pipeline.urls import IN_PATH
from schemas.prompts import Prompt
from schemas.states import DocumentState

_ATTEMPTS = _ANSWERS = 2_000  # the latest: what the machine and the model do now
_LOOKED_AT = 20_000  # of all engines and models
_LEAST_ATTEMPTS = 20  # fewer say little of how fast pages are read


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """Content that was taken in before."""

    id: int
    state: str
    page_count: int | None  # None where it was not opened yet
    cause: str | None
    kind: str
    size_bytes: int = 0
    modified_ns: int = 0

    def is_settled(self) -> bool:
        """Whether all is known of it that a look would show."""
        return self.page_count is not None or self.state == DocumentState.REJECTED


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Of a document's pages that are asked about, those with nothing left to ask."""

    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page that was drawn before and waits for an answer."""

    width_px: int
    height_px: int
    text: str | None
    verdict: str | None
    is_blank: bool | None


class AnsweredPage(NamedTuple):
    width_px: int
    height_px: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one worker."""

    pages_per_second: float
    pages: int  # that it was measured by
    gpus: int = 0  # of that worker; 0 is a CPU
    tokens: Sequence[tuple[int, int]] = ()  # of prompt and answer, where the engine has them


def look_if_there(settings: Settings) -> Looking | None:
    """The settings' database; none where a home has no file of it yet. Raises as `open_to_look`."""
    is_there = settings.database_url is not None or (settings.home / "pagepack.db").exists()
    return open_to_look(settings) if is_there else None


class Known:
    """Without a database nothing is known."""

    def __init__(self, db: Looking | None, asked: Asked) -> None:
        self._db = db
        self.asked = asked

    def by_path(self, paths: Sequence[str]) -> dict[str, KnownDocument]:
        """Of the files at these paths, as they were when they were seen."""
        columns = "s.path, d.id, d.state, d.page_count, d.cause, d.kind, s.size_bytes, s.modified_ns"
        rows = self._rows(
            f"SELECT {columns} FROM sources s JOIN documents d ON d.id = s.document_id WHERE s.path IN ", paths
        )
        return {path: KnownDocument(*known) for path, *known in rows}

    def members(self, path: str) -> tuple[list[KnownDocument], list[str]]:
        """Of the archive or mail at this path: what was taken in of it, and the causes of what was not."""
        start = path + IN_PATH
        rows = self._look(
            "SELECT s.cause, d.id, d.state, d.page_count, d.cause, d.kind FROM sources s LEFT JOIN documents d "
            "ON d.id = s.document_id WHERE s.path > :start AND s.path < :end AND s.gone_at IS NULL",
            start=start,
            end=f"{start[:-1]}0",
        )
        taken = [KnownDocument(*document) for cause, *document in rows if cause is None and document[0] is not None]
        return taken, [row[0] for row in rows if row[0] is not None]

    def by_hash(self, content_hash: str) -> KnownDocument | None:
        columns = "id, state, page_count, cause, kind"
        rows = self._rows(f"SELECT {columns} FROM documents WHERE content_hash IN ", [content_hash])
        return KnownDocument(*rows[0]) if rows else None

    def page_counts(self, documents: Collection[int]) -> dict[int, PageCounts]:
        """By document; a page counts as done where each prompt was answered by whoever is asked now."""
        done = self._pages_with(documents, "t.state = 'done'")
        ended = self._pages_with(documents, "t.state IN ('done', 'failed')", "coalesce(t.cause, '') <> 'superseded'")
        undrawn = dict(
            self._rows(
                "SELECT p.document_id, count(*) FROM pages p WHERE p.cause IS NOT NULL AND p.document_id IN ",
                list(documents),
                f"{self._in_ranges()} GROUP BY 1",
            )
        )
        return {
            key: PageCounts(done.get(key, 0), ended.get(key, 0) - done.get(key, 0) + undrawn.get(key, 0))
            for key in documents
        }

    def open_pages(self, documents: Collection[int], most: int) -> list[StoredPage]:
        """Some pages of these that were drawn and have an answer to come."""
        some = f"{self._in_ranges()} AND p.image_hash IS NOT NULL AND {self._ended('<', 'true')} LIMIT {most}"
        rows = self._rows(
            "SELECT p.width_px, p.height_px, l.text, l.verdict, p.is_blank FROM pages p "
            "LEFT JOIN text_layers l ON l.page_id = p.id WHERE p.document_id IN ",
            list(documents),
            some,
            **self._values(),
        )
        return [StoredPage(*page) for page in rows]

    def answered_images(self, image_hashes: Collection[str]) -> set[str]:
        """Those that whoever is asked now has answered, in whatever document."""
        versions = {prompt.version for prompt in self.asked.prompts}
        rows = self._rows(
            "SELECT image_hash, prompt_version FROM answer_versions WHERE image_hash IN ",
            list(image_hashes),
            "AND model = :model" if self.asked.model is not None else "AND engine = :engine",
            **({"model": self.asked.model} if self.asked.model is not None else {"engine": self.asked.engine}),
        )
        found: dict[str, set[str]] = {}
        for image_hash, version in rows:
            found.setdefault(image_hash, set()).add(version)
        return {image_hash for image_hash, answered in found.items() if versions <= answered}

    def answers(self, prompt: Prompt) -> list[AnsweredPage]:
        """The latest to a prompt of this name, but to pages that cannot be drawn any more: they have no size."""
        latest = (
            "SELECT a.id, a.output_tokens FROM answer_versions a "
            "JOIN prompt_versions v ON v.version = a.prompt_version "
            f"WHERE v.name = :name AND a.output_tokens > 0 ORDER BY a.id DESC LIMIT {_ANSWERS}"
        )
        statement = (
            f"SELECT p.width_px, p.height_px, a.output_tokens FROM ({latest}) AS a "
            "JOIN page_tasks t ON t.answer_id = a.id JOIN pages p ON p.id = t.page_id WHERE p.width_px IS NOT NULL "
            "GROUP BY a.id, a.output_tokens, p.width_px, p.height_px"  # one image may be ten thousand pages
        )
        return [AnsweredPage(*row) for row in self._look(statement, name=prompt.name)]

    def speed(self) -> Speed | None:
        """At which one worker has read with this engine, and this model where one is named; None: too few pages were.

        By the time in which any page was in hand, so that no pause between two batches counts.
        """
        asked: dict[str, str] = {"engine": self.asked.engine}
        by_model = ""
        if self.asked.model is not None:
            by_model = "JOIN page_tasks p ON p.id = t.task_id JOIN answer_versions a ON a.id = p.answer_id "
            by_model += "AND a.model = :model "
            asked["model"] = self.asked.model
        statement = (
            "SELECT t.worker, t.started_at, t.ended_at, t.prompt_tokens, t.output_tokens FROM "
            f"(SELECT * FROM task_attempts ORDER BY id DESC LIMIT {_LOOKED_AT}) t {by_model}"
            "WHERE t.error IS NULL AND t.seconds IS NOT NULL AND t.started_at IS NOT NULL AND "
            f"(t.engine = :engine OR :engine = 'any') ORDER BY t.id DESC LIMIT {_ATTEMPTS}"
        )
        by_worker: dict[str, list[tuple[float, float]]] = {}
        tokens: list[tuple[int, int]] = []
        for worker, started, ended, prompt, output in self._look(statement, **asked):
            tokens += [(prompt, output)] if prompt and output is not None else []
            span = as_moment(started).timestamp(), as_moment(ended).timestamp()
            by_worker.setdefault(worker, []).append(span)
        pages = sum(map(len, by_worker.values()))
        if pages < _LEAST_ATTEMPTS:
            return None
        busy = sum(map(covered_seconds, by_worker.values()))
        gpus = gpus_of(next(iter(by_worker))) if self.asked.engine == "pixtral" else 0  # as the latest
        return Speed(pages / busy, pages, gpus, tokens) if busy > 0 else None

    def share_read(self) -> float:
        """Of the pages that are done, those that an engine had to read; all, where none is."""
        statement = (
            "SELECT avg(CASE WHEN a.engine IN ('text-layer', 'blank') THEN 0.0 ELSE 1.0 END) FROM "
            f"(SELECT answer_id FROM page_tasks WHERE state = 'done' ORDER BY id DESC LIMIT {_ANSWERS}) AS latest "
            "JOIN answer_versions a ON a.id = latest.answer_id"
        )
        share = [row[0] for row in self._look(statement)]
        return 1.0 if not share or share[0] is None else float(share[0])

    def bytes_per_page(self) -> float | None:
        """Of a SQLite file, where it holds enough pages to say."""
        if self._db is None or self._db.dialect != "sqlite":
            return None
        with self._db.looking() as look:
            pages = look.value("SELECT count(*) FROM pages")
            size = look.value("PRAGMA page_count") * look.value("PRAGMA page_size")
        return size / pages if pages >= 200 else None

    def pages_per_file(self) -> dict[str, float]:
        """By kind, of the documents that were opened."""
        statement = (
            "SELECT kind, avg(page_count) FROM (SELECT kind, page_count FROM documents WHERE page_count > 0 "
            "ORDER BY id DESC LIMIT 2000) AS latest GROUP BY kind"
        )
        return {kind: float(pages) for kind, pages in self._look(statement)}

    def _pages_with(self, documents: Collection[int], *which: str) -> dict[int, int]:
        rows = self._rows(
            "SELECT p.document_id, count(*) FROM pages p WHERE p.document_id IN ",
            list(documents),
            f"{self._in_ranges()} AND {self._ended('>=', ' AND '.join(which))} GROUP BY 1",
            **self._values(),
        )
        return dict(rows)

    def _ended(self, compared: str, which: str) -> str:
        """Whether a page has so many of the tasks that are asked for; those `which` have ended, if nothing is said."""
        which = "t.state IN ('done', 'failed')" if which == "true" else which
        versions = ", ".join(f":v{number}" for number in range(len(self.asked.prompts)))
        by = "t.model = :wished"
        join = ""
        if self.asked.model is None:
            join = "LEFT JOIN answer_versions a ON a.id = t.answer_id"
            by = "(a.engine IN (:engine, 'blank') OR a.engine IS NULL AND t.state = 'failed')"
        return (
            f"(SELECT count(DISTINCT t.prompt_version) FROM page_tasks t {join} WHERE t.page_id = p.id AND {which} "
            f"AND {by} AND t.prompt_version IN ({versions})) {compared} :num_prompts"
        )

    def _values(self) -> dict[str, Any]:
        asked = self.asked
        values: dict[str, Any] = {f"v{number}": prompt.version for number, prompt in enumerate(asked.prompts)}
        if asked.model is None:
            values["engine"] = asked.engine
        else:
            values["wished"] = wished_model(asked.model, asked.text_layer, asked.blank_pages)
        return values | {"num_prompts": len(asked.prompts)}

    def _in_ranges(self) -> str:
        if not self.asked.pages:
            return ""
        ranges = " OR ".join(f"p.page_index BETWEEN {first:d} AND {last:d}" for first, last in self.asked.pages)
        return f"AND ({ranges})"

    def _rows(self, statement: str, which: Sequence[Any], end: str = "", **values: Any) -> Sequence[Any]:
        """Rows of a statement that goes on with a list of `which`."""
        if self._db is None or not which:
            return []
        names = {f"i{number}": value for number, value in enumerate(which)}
        return self._look(f"{statement}({', '.join(f':{name}' for name in names)}) {end}", **names, **values)

    def _look(self, statement: str, **values: Any) -> Sequence[Any]:
        if self._db is None:
            return []
        with self._db.looking() as look:
            return look.rows(statement, **values)


def settled(document: KnownDocument | None, file: Found, known: Known) -> tuple[list[KnownDocument], list[str]]:
    """The document at this path, and those in it, where all is known that a look would show; and why some were not
    taken."""
    if document is None or (document.size_bytes, document.modified_ns) != (file.size_bytes, file.modified_ns):
        return [], []
    members, causes = known.members(file.display_path) if document.kind in HOLDERS else ([], [])
    documents = [document, *members]
    return (documents, causes) if all(one.is_settled() for one in documents) else ([], [])


def covered_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """How much time these cover together; where they overlap, once.

    >>> covered_seconds([(0.0, 2.0), (1.0, 3.0), (10.0, 11.0)])
    4.0
    """
    seconds, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return seconds
