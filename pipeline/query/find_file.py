"""A file as people and programs name it: by its path, by the end of its path, or by its document's id."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.database.looking import Look, Looking
from pipeline.errors import UsageError
from schemas.text import storable

_LISTED = 5


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A path and what lies there; `id` is the document's key inside, `document_id` what people see."""

    id: int
    document_id: str
    source_path: str
    page_count: int | None
    state: str  # of the document: pending, leased, ready, rejected or failed


def find_file(db: Looking, name: str, *, by_end: bool = True) -> FoundFile:
    """The file of this path, id, or, with `by_end`, end of a path (`2024/invoice.pdf`).

    A whole path or an id costs a look into an index; the end of a path a walk through all of them.

    Raises:
        UsageError: none or several fit; the message names some.
    """
    name = storable(name)
    with db.looking() as look:
        found = _files(look, f"s.path = :name {_IS_THERE}", name=name)
        found = found or _files(look, "d.public_id = :name ORDER BY s.gone_at IS NOT NULL, s.path LIMIT 1", name=name)
        end = name.strip().lstrip("./")
        if by_end and not found and end:
            of_end = f"(s.path LIKE :end ESCAPE '!' OR s.path = :name) {_IS_THERE} ORDER BY s.path LIMIT {_LISTED + 1}"
            found = _files(look, of_end, end=f"%/{_literally(end)}", name=end)
        unread = None if found else look.value(_UNREAD, name=name)
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(file.source_path for file in found[:_LISTED]) + (", …" if len(found) > _LISTED else "")
        raise UsageError(f"several files end with {name!r}; name one by its whole path: {listed}")
    if unread is not None:
        raise UsageError(f"{name} was not taken in: {unread}")
    raise UsageError(
        f"no file is called {name!r}; give a path as `source_path` of the view files has it, the end of one, or a "
        "document's id"
    )


_IS_THERE = "AND s.gone_at IS NULL"
_UNREAD = """SELECT coalesce(bs.reason, 'it waits') FROM sources s JOIN batch_sources bs ON bs.source_id = s.id
WHERE s.path = :name AND s.document_id IS NULL ORDER BY bs.batch_id DESC LIMIT 1"""


def _files(look: Look, where: str, **values: str) -> list[FoundFile]:
    columns = "d.id, d.public_id AS document_id, s.path AS source_path, d.page_count, d.state"
    rows = look.rows(
        f"SELECT {columns} FROM sources s JOIN documents d ON d.id = s.document_id WHERE {where}", **values
    )
    return [FoundFile(*row) for row in rows]


def _literally(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
