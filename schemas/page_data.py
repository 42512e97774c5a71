"""The current answers that were held to a JSON Schema, as JSON: the view `page_data`.

An answer is kept as the text that the model wrote, which fits, or it would be no answer. SQLite's functions take such a
text; PostgreSQL's want it as jsonb, and this view gives it so. `data ->> 'total'` is read alike by both.

Most archives have no such answer. That none of their prompts has a schema is asked first, and once: no planner begins
there by itself, but goes through all answers.
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, FROM_ANSWERS, IS_FIRST_TASK, IS_THERE

_SCHEMA = {"sqlite": "json_extract(v.parameters, '$.schema')", "postgresql": "v.parameters ->> 'schema'"}
_DATA = {  # guarded, for PostgreSQL may compute it before it leaves other rows out
    "sqlite": "a.text",
    "postgresql": "CAST(CASE WHEN v.parameters ->> 'schema' IS NOT NULL THEN a.text END AS jsonb)",
}


def page_data(dialect: str) -> str:
    return f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, v.name AS prompt,
       {_DATA[dialect]} AS data, v.version AS prompt_version, a.engine AS engine, a.model AS model,
       a.confidence AS confidence, b.public_id AS batch_id, a.created_at AS created_at, {FOLDER_AND_FILE_NAME}
{FROM_ANSWERS}
JOIN current_answers c ON c.page_id = p.id AND c.prompt = v.name AND c.answer_id = a.id
WHERE EXISTS (SELECT 1 FROM prompt_versions any_one WHERE {_SCHEMA[dialect].replace("v.", "any_one.")} IS NOT NULL)
  AND {_SCHEMA[dialect]} IS NOT NULL AND a.text <> '' AND {IS_THERE}
  AND {IS_FIRST_TASK}
"""
