"""A set of answers by what they share, and some of the pages of the archive: in plain SQL, for who reads and writes.

`t` is a task, `a` its answer, `v` the prompt's version, `p` the page. Of several answers that a page has to a prompt in
one set, the latest counts.
"""

from __future__ import annotations

import fnmatch
import functools
import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.database.looking import Look, Looking
from schemas.view_parts import IS_ASKED_ABOUT, IS_UNTAKEN


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """What `kind` is: engine, model, prompt, version, batch or current; `id` is a batch's key inside."""

    kind: str
    value: str
    id: int | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind

    @property
    def prompt_column(self) -> str:
        """Of the prompt's name, for a condition of `select`."""
        return "t.prompt" if self.kind == "current" else "v.name"

    @property
    def is_own_text(self) -> bool:
        """What pages carry themselves, of which an answer is made only where a batch takes it."""
        return self == OWN_TEXT

    def select(self, parameter: str, *conditions: str) -> tuple[str, dict[str, Any]]:
        """SELECT page_id, prompt, answer_id, where the conditions hold too; and the value of its parameter."""
        if self.kind == "current":
            where = " AND ".join(conditions) or "1 = 1"
            return f"SELECT t.page_id, t.prompt, t.answer_id {_SHOWN} WHERE {where}", {}
        where = " AND ".join([_OF[self.kind].format(parameter, IS_ASKED_ABOUT), *conditions])
        given = {parameter: self.value if self.id is None else self.id}
        return f"SELECT t.page_id, v.name AS prompt, max(a.id) AS answer_id {_DONE} AND {where} GROUP BY 1, 2", given


CURRENT = AnswerSet("current", "")
OWN_TEXT = AnswerSet("engine", "text-layer")

OWN_TEXT_ANSWERS = "ocr"
"""The prompt to which such a text is an answer."""

UNTAKEN = f"FROM pages p JOIN text_layers l ON l.page_id = p.id WHERE {IS_UNTAKEN}"
"""Pages that carry text, in the view `answers` too, which is no stored answer."""

_DONE = """FROM page_tasks t JOIN pages p ON p.id = t.page_id JOIN answer_versions a ON a.id = t.answer_id
JOIN prompt_versions v ON v.version = a.prompt_version WHERE t.state = 'done'"""
_SHOWN = "FROM (SELECT page_id, prompt, answer_id FROM current_answers) t JOIN pages p ON p.id = t.page_id"
_OF = {
    "engine": "a.engine = :{}",
    "model": "a.model = :{}",
    "prompt": "v.name = :{}",
    "version": "a.prompt_version = :{}",
    "batch": """EXISTS (SELECT 1 FROM batches b JOIN batch_prompts bp ON bp.batch_id = b.id WHERE b.id = :{0}
   AND b.model = t.model AND bp.prompt_version = t.prompt_version AND {1})
   AND p.document_id IN (SELECT document_id FROM batch_sources WHERE batch_id = :{0})""",
}


@dataclass(frozen=True, slots=True)
class ChosenPages:
    """Some pages and prompts: what a command's options leave; nothing given leaves all."""

    prompt: str | None = None
    batch: AnswerSet | None = None
    path: str | None = None
    only: frozenset[int] | None = None  # documents, by their keys

    def documents(self, look: Look) -> Sequence[int] | None:
        """Ids of documents at paths that fit, and of the batch; None for all."""
        if self.only is not None:
            return sorted(self.only)
        if self.batch is not None:
            of = f"JOIN batch_sources bs ON bs.source_id = s.id AND bs.batch_id = {self.batch.id}"
            rows = look.rows(f"SELECT s.path, bs.document_id FROM sources s {of} WHERE bs.document_id IS NOT NULL")
        elif self.path is not None:
            rows = look.rows("SELECT path, document_id FROM sources WHERE document_id IS NOT NULL")
        else:
            return None
        return sorted({document for path, document in rows if self.path is None or fits(path, self.path)})


def count_untaken(db: Looking, chosen: ChosenPages) -> int:
    """Pages of a selection that carry text of which no answer was made."""
    if chosen.prompt not in (None, OWN_TEXT_ANSWERS):
        return 0
    with db.looking() as look:
        documents = chosen.documents(look)
        per_document = look.rows(f"SELECT p.document_id, count(*) {UNTAKEN} GROUP BY 1")
    wanted = None if documents is None else set(documents)
    return sum(number for document, number in per_document if wanted is None or document in wanted)


def fits(path: str, pattern: str) -> bool:
    """`*.pdf` is any such file, `letters/` or `letters` all below such a folder or archive, `2019/a*` what lies in one.

    A star stands for any characters, slashes too; a pattern begins at the path's beginning or after a slash. A name
    with brackets fits itself, too.
    """
    return any(match(path) for match in _matches(pattern))


@functools.lru_cache(maxsize=8)
def _matches(pattern: str) -> list[Callable[[str], object]]:
    whole = pattern.removeprefix("./").rstrip("/")
    tries = {f"{start}{name}{end}" for name in (whole, glob.escape(whole)) for start in _STARTS for end in _ENDS}
    return [re.compile(fnmatch.translate(one)).match for one in tries]


_STARTS, _ENDS = ("", "*/"), ("", "/*", "!/*")  # the members of an archive lie below `a.zip!/`
