"""The type of each column of the public views, and what a row of each view is; `schema_doc` holds both.

A name has one type wherever it stands: `text`, `integer`, `real`, `boolean`, `timestamp`, `json` or, of the index of
words, `terms`. SQLite holds a boolean as 1 or 0, and moments and JSON as text (`2026-03-14 09:26:53.589793`, UTC).
"""

from __future__ import annotations

_NAMES = {
    "integer": """accepted_tokens answer_id answers_held attempt attempts bottom_px character_errors characters
        chunk_number drafted_tokens end_offset evaluation_id files_done files_failed files_rejected files_seen
        height_px items items_judged left_px line_number max_tokens output_tokens page_count page_number pages
        pages_done pages_failed pages_total promotion_id prompt_tokens right_px seed size_bytes start_offset tiles
        top_px try_number width_px word_errors words""",
    "real": """angle bottom_fraction character_error_rate confidence cost dpi height_pt item_score left_fraction
        lowest_confidence precision print_px recall right_fraction score seconds table_score temperature top_fraction
        top_p width_pt word_error_rate worst_tenth_share""",
    "boolean": "is_blank is_chosen is_current",
    "timestamp": """created_at ended_at failed_at finished_at gone_at modified_at rolled_back_at seen_at started_at""",
    "json": "data",
    "terms": "terms",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def column_type(column: str) -> str:
    return _TYPES.get(column, "text")


VIEWS = {
    "page_text": "one row a page, path and prompt: the current answer; only files that are there",
    "page_words": "the same pages with the index of their words, for full-text search in plain SQL",
    "document_text": "one row a document, path and prompt: its current answers as one text",
    "failures": "one row for each file and page that a batch could not read, and why",
    "current_failures": "what is broken now, whatever batches said before: one row a file, or page and prompt",
    "batch_summary": "one row a batch: how far it is",
    "attempts": "one row for each try of a worker at a page and prompt, with or without an answer",
    "answers": "every version of every answer, and text that a page carries itself and that was not taken",
    "tries": "one row for each try of a model at an answer that needed several",
    "prompts": "every version of every prompt that was asked",
    "promotions": "which answers people chose to be current",
    "evaluations": "one row each time that answers were held against a truth",
    "evaluated_documents": "one row for each document of an evaluation and path",
    "evaluated_pages": "one row for each page of an evaluation and path",
    "evaluated_items": "one row for each question of a benchmark",
    "files": "one row for each file that a batch met, as it met it",
    "page_batches": "one row a page, path, prompt and batch that asks for it, whichever batch it was read for",
    "page_images": "one row a page and path: its image, and the text that it carries itself",
    "page_lines": "one row a line of a current answer, with its box, where the engine finds lines",
    "chunks": "one row a piece of a current answer, for retrieval: at most 1,000 characters, with its box",
    "page_data": "one row a page, path and prompt that has a JSON Schema: the current answer as JSON",
    "review": "one row for each current answer that is worth a person's look",
}
