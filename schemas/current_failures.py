"""What is broken now, whatever batches said before: the view `current_failures`.

A file is judged by what lies at its path now: who replaced a bad file by a good one is done with it. A page that gave
no answer is judged by the latest task of that prompt that ended: read since by any model, it is not broken; read before
and failed since, it is. What no batch asks any more, or has in its paths, is nobody's failure; nor is what a file held
that is gone.
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, IS_ASKED_ABOUT, IS_THERE


def _asking(task: str) -> str:
    """The batches `b` that met the source's document and ask what a task of the page does."""
    return f"""batch_sources bs JOIN batches b ON b.id = bs.batch_id AND b.model = {task}.model
   JOIN batch_prompts bp ON bp.batch_id = b.id AND bp.prompt_version = {task}.prompt_version
   WHERE bs.source_id = s.id AND bs.document_id = p.document_id AND {IS_ASKED_ABOUT}"""


_REFUSING = "batch_sources bs JOIN batches b ON b.id = bs.batch_id WHERE bs.source_id = s.id AND bs.cause IS NOT NULL"
_MEETING = """batch_sources bs JOIN batches b ON b.id = bs.batch_id
   WHERE bs.source_id = s.id AND bs.document_id = s.document_id"""


def _failure(
    number: str, prompt: str, kind: str, of: str, attempts: str, failed_at: str, document: str, batches: str
) -> str:
    return f"""SELECT s.path AS source_path, {FOLDER_AND_FILE_NAME}, {document} AS document_id,
       {number} AS page_number, {prompt} AS prompt, {kind} AS kind, {of}.cause AS cause, {of}.reason AS reason,
       {attempts} AS attempts, {failed_at} AS failed_at,
       (SELECT b.public_id FROM {batches} ORDER BY b.id DESC LIMIT 1) AS batch_id"""


_NO_NUMBER, _NO_PROMPT = "CAST(NULL AS INTEGER)", "CAST(NULL AS TEXT)"

_FILE = (_NO_NUMBER, _NO_PROMPT)

CURRENT_FAILURES = f"""
{_failure(*_FILE, "'rejected'", "s", "1", "s.seen_at", _NO_PROMPT, _REFUSING)}
FROM sources s
WHERE {IS_THERE} AND s.cause IS NOT NULL AND EXISTS (SELECT 1 FROM {_REFUSING})
UNION ALL
{_failure(*_FILE, "d.state", "d", "d.attempts + d.crashes", "d.finished_at", "d.public_id", _MEETING)}
FROM documents d JOIN sources s ON s.document_id = d.id AND s.cause IS NULL
WHERE {IS_THERE} AND d.state IN ('rejected', 'failed') AND EXISTS (SELECT 1 FROM {_MEETING})
UNION ALL
{
    _failure(
        "p.page_index + 1",
        _NO_PROMPT,
        "'failed'",
        "p",
        "1",
        "p.created_at",
        "d.public_id",
        f"{_MEETING} AND {IS_ASKED_ABOUT}",
    )
}
FROM pages p JOIN documents d ON d.id = p.document_id JOIN sources s ON s.document_id = d.id
WHERE {IS_THERE} AND p.cause IS NOT NULL AND EXISTS (SELECT 1 FROM {_MEETING} AND {IS_ASKED_ABOUT})
UNION ALL
{
    _failure(
        "p.page_index + 1",
        "v.name",
        "'failed'",
        "t",
        "t.attempts + t.crashes",
        "t.finished_at",
        "d.public_id",
        _asking("t"),
    )
}
FROM batches o JOIN page_tasks t ON t.batch_id = o.id AND t.state = 'failed'
JOIN prompt_versions v ON v.version = t.prompt_version
JOIN pages p ON p.id = t.page_id JOIN documents d ON d.id = p.document_id JOIN sources s ON s.document_id = d.id
WHERE {IS_THERE} AND EXISTS (SELECT 1 FROM {_asking("t")})
  AND NOT EXISTS (SELECT 1 FROM page_tasks l JOIN prompt_versions w ON w.version = l.prompt_version
                  WHERE l.page_id = t.page_id AND w.name = v.name
                    AND (l.finished_at > t.finished_at OR l.finished_at = t.finished_at AND l.id > t.id)
                    AND (l.state = 'done' OR l.state = 'failed' AND EXISTS (SELECT 1 FROM {_asking("l")})))
"""
