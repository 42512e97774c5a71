"""What several views say, in SQL that SQLite and PostgreSQL read alike.

`s` is a source, `d` its document, `p` a page, `t` a task, `a` its answer, `v` the prompt's version, `b` a batch.
"""

from __future__ import annotations

_UP_TO_LAST_SLASH = "rtrim(s.path, replace(s.path, '/', ''))"  # cuts what is no slash from the right

FOLDER_AND_FILE_NAME = f"""CASE WHEN {_UP_TO_LAST_SLASH} = '/' THEN '/'
            ELSE rtrim({_UP_TO_LAST_SLASH}, '/') END AS folder,
       substr(s.path, length({_UP_TO_LAST_SLASH}) + 1) AS file_name"""

IS_THERE = "s.gone_at IS NULL"
"""Whether the file was met, or not missed, when its folder was walked last."""

IS_ASKED_ABOUT = """(b.all_pages OR EXISTS (SELECT 1 FROM batch_pages r WHERE r.batch_id = b.id
   AND p.page_index BETWEEN r.first_index AND r.last_index))"""

IS_UNTAKEN = """NOT EXISTS (SELECT 1 FROM page_tasks t JOIN answer_versions a ON a.id = t.answer_id
                  WHERE t.page_id = p.id AND t.state = 'done' AND a.engine = 'text-layer')"""
"""Of the text that a page carries: no answer was made of it."""

FROM_ANSWERS = """FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN page_tasks t ON t.page_id = p.id AND t.state = 'done'
JOIN answer_versions a ON a.id = t.answer_id
JOIN prompt_versions v ON v.version = a.prompt_version
JOIN batches b ON b.id = t.batch_id"""
"""Each answer of a page with each task that it settled; `IS_FIRST_TASK` leaves one row of them."""

IS_FIRST_TASK = """NOT EXISTS (SELECT 1 FROM page_tasks e WHERE e.page_id = t.page_id AND e.answer_id = t.answer_id
                  AND e.state = 'done'
                  AND (e.finished_at < t.finished_at OR e.finished_at = t.finished_at AND e.id < t.id))"""


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_LINES = {
    "sqlite": "json_each(a.details, '$.lines') l",
    "postgresql": """LATERAL json_array_elements(CASE WHEN json_typeof(a.details -> 'lines') = 'array'
   THEN a.details -> 'lines' END) WITH ORDINALITY l (value, key)""",
}
_PART = {"sqlite": "json_extract(l.value, '$[{}]')", "postgresql": "l.value ->> {}"}
_LEAST = {"sqlite": "min", "postgresql": "least"}
_MOST = {"sqlite": "max", "postgresql": "greatest"}

IS_LINE = {"sqlite": "l.type = 'array'", "postgresql": "json_typeof(l.value) = 'array'"}
"""An engine with boxes leaves `details.lines`: [x0, y0, x1, y1, confidence, text] in pixels of the page's image; then,
where a line does not read to the right, in how many degrees counter-clockwise it does, or null for vertical writing."""


def lines_of(dialect: str) -> str:
    """The rows `l` of an answer's lines: `key` and `value`."""
    return _LINES[dialect]


def text_of_line(dialect: str) -> str:
    return _PART[dialect].format(5)


def number_of_line(dialect: str, index: int) -> str:
    return f"CAST({_PART[dialect].format(index)} AS DOUBLE PRECISION)"


def fraction_of_page(dialect: str, side: str, pixels: str) -> str:
    """Pixels of the image as a share of the page, where its size is known: the image may be padded."""
    of_page = f"coalesce(p.{side}_pt * p.dpi / 72, p.{side}_px)"
    return f"{_MOST[dialect]}(0.0, {_LEAST[dialect]}(1.0, {pixels} / {of_page}))"
