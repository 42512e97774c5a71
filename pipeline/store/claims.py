"""Claims: a worker takes a waiting document, or the waiting prompts of pages, for the length of a lease.

What a claim may be used for, and what becomes of it when its worker dies, is in `leases`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import bindparam, update

from pipeline.database.engine import Database
from pipeline.database.retry import retried
from pipeline.store import claiming
from pipeline.store.asked_prompts import hints_of, layers_of, prompts_of
from pipeline.store.conditions import is_in
from pipeline.store.cut_answers import shall_go_on, written_so_far
from pipeline.store.wished_model import wishes_for
from schemas.prompts import Prompt, hinted, sampled
from schemas.states import DocumentState
from schemas.tables import Document, PageTask

ANY_MODEL = wishes_for("")  # of tasks whose batch named none


@dataclass(frozen=True, slots=True)
class DocumentClaim:
    """A document to rasterize: `first_page` is the first page index that is not stored yet."""

    document_id: int
    token: int
    kind: str
    content_hash: str
    batch_id: int  # for whom it waited
    locations: dict[str, str]  # to the paths by which people know them
    first_page: int
    public_id: str = ""  # these three for those who watch
    batch_public_id: str = ""
    attempts: int = 0  # that failed before this one
    detail: str = "auto"  # at which its pages are drawn, the first time and every other

    @property
    def held(self) -> dict[str, int]:
        return {"document": self.document_id, "of_claim": self.token}

    @property
    def source_path(self) -> str | None:
        """One of its files, for those who watch; None where all were forgotten meanwhile."""
        return next(iter(self.locations.values()), None)


@dataclass(frozen=True, slots=True)
class TaskClaim:
    """One prompt of a claimed page."""

    task_id: int
    token: int
    prompt: Prompt
    attempts: int = 0  # that failed before this one
    hint: str | None = None  # the text that the page carries, where the prompt takes it
    max_tokens: int | None = None  # of the answer, where one that was cut shall go on
    written: tuple[int, ...] = ()  # tokens of that one; none where its engine left none
    written_confidence: float | None = None

    @property
    def asked(self) -> Prompt:
        """As the engine is asked."""
        prompt = hinted(self.prompt, self.hint)
        return prompt if self.max_tokens is None else sampled(prompt, max_tokens=self.max_tokens)

    def answered_by(self, model: str) -> str:
        """The model as its answer names it, for equal pages may carry unequal text, and a cut answer stays."""
        if self.hint is not None:
            model = f"{model}+hint/{hashlib.sha256(self.hint.encode()).hexdigest()[:16]}"
        return model if self.max_tokens is None else f"{model}+length/{self.max_tokens}"


@dataclass(frozen=True, slots=True)
class PageClaim:
    """A page and those of its prompts that this worker now holds.

    `answered` is task id → id of an answer that the model gave to the same image and prompt before, on whatever page.
    """

    page_id: int
    document_id: int
    page_index: int
    image_hash: str
    tasks: list[TaskClaim]
    document_public_id: str = ""  # these four for those who watch
    batch_public_id: str = ""
    source_path: str | None = None  # one of the document's files
    waited_seconds: float | None = None  # since it was enqueued
    answered: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a log line says it that is for people: `3 of /in/a.pdf (page_id 17)`."""
        return f"{self.page_index + 1} of {self.source_path or self.document_public_id} (page_id {self.page_id})"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What `claim_pages` got, by page id; of `suspects` it took nothing."""

    pages: dict[int, PageClaim]
    suspects: set[int]


def is_held() -> sa.ColumnElement[bool]:
    """Whether the document is still that of the claim whose `held` are the parameters: its lease was neither ended nor
    given to another since."""
    of_claim = (Document.id == bindparam("document"), Document.token == bindparam("of_claim"))
    return sa.and_(*of_claim, is_in(Document, DocumentState.LEASED))


@retried
def claim_document(db: Database, document_id: int, owner: str, lease_seconds: float) -> DocumentClaim | None:
    """Lease a waiting document; None where it does not wait (any more)."""
    with db.write() as connection:
        lease = {"document": document_id, "by": owner, "seconds": lease_seconds}
        row = connection.execute(claiming.lease_document(db.dialect), lease).one_or_none()
        if row is None:
            return None
        files = connection.execute(claiming.files(), {"document": document_id})
        locations = {source.location: source.path for source in files}
        first_page = 0
        if row.page_count is not None:  # else it is new: all of it
            for first_page, index in enumerate(
                [*connection.scalars(claiming.drawn_pages(), {"document": document_id}), -1]
            ):
                if index != first_page:
                    break
        return DocumentClaim(
            document_id,
            row.token,
            row.kind,
            row.content_hash,
            row.batch_id,
            locations,
            first_page,
            row.public_id,
            connection.scalar(claiming.public_id(), {"batch": row.batch_id}) or "",
            row.attempts,
            row.detail,
        )


@retried
def claim_pages(
    db: Database,
    page_ids: Collection[int],
    owner: str,
    models: Sequence[str],
    lease_seconds: float,
    *,
    alone: Collection[int] = (),
    answers_of: str | None = None,
    supports: Callable[[Prompt], bool] = lambda prompt: True,
) -> Claimed:
    """Lease all waiting prompts of these pages that one of `models` shall read.

    A page that was in flight when a worker died is a suspect, and is only taken where it is in `alone`: whoever asks
    reads it then without company. `answers_of` is the model whose answers are looked for. A prompt that any model may
    answer is left to others where this worker does not `support` it, and not enqueued again for as long as a lease.
    """
    with db.write() as connection:
        asked = {"page_ids": list(page_ids), "models": list(models), "answers_of": answers_of}
        rows = connection.execute(claiming.waiting_tasks(db.dialect), asked).all()
        prompts = prompts_of(connection, {row.prompt_version for row in rows})
        left = [row.id for row in rows if row.model in ANY_MODEL and not supports(prompts[row.prompt_version])]
        if left:
            later = update(PageTask).where(PageTask.id.in_(left))
            connection.execute(later.values(enqueued_at=None, next_attempt_at=db.clock() + lease_seconds))
            rows = [row for row in rows if row.id not in left]
        suspects = {row.page_id for row in rows if row.crashes > 0} - set(alone)
        rows = [row for row in rows if row.page_id not in suspects]
        if not rows:
            return Claimed({}, suspects)
        layers = layers_of(connection, {row.page_id for row in rows if prompts[row.prompt_version].takes_hint})
        lease = {"task_ids": [row.id for row in rows], "by": owner, "seconds": lease_seconds}
        connection.execute(claiming.lease_tasks(db.dialect), lease)
        cut = [row.own_answer_id for row in rows if row.max_tokens is not None and row.own_answer_id is not None]
        written = written_so_far(connection, cut) if cut else {}
    hints = hints_of(layers)  # milliseconds each, in which no other writer shall wait
    pages: dict[int, PageClaim] = {}
    for row in rows:
        new = PageClaim(
            row.page_id,
            row.document_id,
            row.page_index,
            row.image_hash,
            [],
            document_public_id=row.public_id,
            batch_public_id=row.batch_public_id,
            source_path=row.source_path,
            waited_seconds=None if row.waited_seconds is None else max(0.0, row.waited_seconds),
        )
        claim = pages.setdefault(row.page_id, new)
        prompt = prompts[row.prompt_version]
        tokens, confidence = written.get(row.own_answer_id, ([], None))
        task = TaskClaim(
            row.id,
            row.token + 1,
            prompt,
            row.attempts,
            hints.get(row.page_id) if prompt.takes_hint else None,
            row.max_tokens,
            tuple(tokens),
            confidence,
        )
        claim.tasks.append(task)
        if row.answer_id is not None and task.hint is None and not shall_go_on(row):
            claim.answered[row.id] = row.answer_id
    return Claimed(pages, suspects)
