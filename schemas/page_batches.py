"""Which batches ask for the answer of a page: the view `page_batches`, for a batch that finds the answer reads nothing.

`page_text` has one row a page and prompt, and names the batch that the page was read for; here are all that asked.
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, IS_ASKED_ABOUT, IS_THERE

PAGE_BATCHES = f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, v.name AS prompt,
       b.public_id AS batch_id, b.name AS batch_name,
       CASE WHEN p.cause IS NOT NULL THEN 'failed' WHEN t.state IN ('done', 'failed') THEN t.state
            ELSE 'waiting' END AS state,
       coalesce(c.answer_id = t.answer_id, 1 = 0) AS is_current, {FOLDER_AND_FILE_NAME}, v.version AS prompt_version
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN batch_sources bs ON bs.source_id = s.id AND bs.document_id = d.id
JOIN batches b ON b.id = bs.batch_id
JOIN batch_prompts bp ON bp.batch_id = b.id
JOIN prompt_versions v ON v.version = bp.prompt_version
LEFT JOIN page_tasks t ON t.page_id = p.id AND t.prompt_version = bp.prompt_version AND t.model = b.model
LEFT JOIN current_answers c ON c.page_id = p.id AND c.prompt = v.name
WHERE {IS_THERE} AND {IS_ASKED_ABOUT}
"""
