"""How well answers fit a truth, for people: the views `evaluations`, `evaluated_documents`, `_pages` and `_items`.

Rates of many pages are sums over sums, so that a long page weighs as much as it has characters; recall and precision
are means over pages. A page counts once in `evaluations`, at however many paths it lies.
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME


def _rate(errors: str, of: str) -> str:
    return f"CASE WHEN {of} > 0 THEN CAST({errors} AS DOUBLE PRECISION) / {of} END"


_OF_MANY = ", ".join(
    f"sum(e.{of}) AS {of}, sum(e.{errors}) AS {errors}, {_rate(f'sum(e.{errors})', f'sum(e.{of})')} AS {rate}"
    for of, errors, rate in (
        ("characters", "character_errors", "character_error_rate"),
        ("words", "word_errors", "word_error_rate"),
    )
)
_MEANS = ", ".join(f"avg(e.{name}) AS {name}" for name in ("recall", "precision", "table_score"))
_NAMES = (
    *("characters", "character_errors", "character_error_rate", "words", "word_errors", "word_error_rate"),
    *("recall", "precision", "table_score"),
)

EVALUATIONS = f"""
SELECT r.id AS evaluation_id, r.kind AS kind, r.name AS name, r.answers AS answers, r.prompt AS prompt,
       coalesce(p.pages, 0) AS pages, {", ".join(f"p.{name} AS {name}" for name in _NAMES)},
       coalesce(i.items, 0) AS items, coalesce(i.items_judged, 0) AS items_judged, i.item_score AS item_score,
       r.worst_tenth_share AS worst_tenth_share, r.created_at AS created_at
FROM evaluation_runs r
LEFT JOIN (SELECT e.evaluation_id AS evaluation_id, count(*) AS pages, {_OF_MANY}, {_MEANS}
           FROM evaluation_pages e GROUP BY e.evaluation_id) p ON p.evaluation_id = r.id
LEFT JOIN (SELECT e.evaluation_id AS evaluation_id, count(*) AS items, count(e.score) AS items_judged,
                  avg(e.score) AS item_score
           FROM evaluation_items e GROUP BY e.evaluation_id) i ON i.evaluation_id = r.id
"""

_OF_PAGE = f"""e.characters AS characters, e.character_errors AS character_errors,
       {_rate("e.character_errors", "e.characters")} AS character_error_rate,
       e.words AS words, e.word_errors AS word_errors, {_rate("e.word_errors", "e.words")} AS word_error_rate,
       e.recall AS recall, e.precision AS precision, e.table_score AS table_score"""

EVALUATED_DOCUMENTS = f"""
SELECT o.evaluation_id AS evaluation_id, s.path AS source_path, {FOLDER_AND_FILE_NAME}, d.public_id AS document_id,
       o.pages AS pages, {", ".join(f"o.{name} AS {name}" for name in _NAMES)}
FROM (SELECT e.evaluation_id AS evaluation_id, p.document_id AS document_id, count(*) AS pages, {_OF_MANY}, {_MEANS}
      FROM evaluation_pages e JOIN pages p ON p.id = e.page_id GROUP BY e.evaluation_id, p.document_id) o
JOIN documents d ON d.id = o.document_id
JOIN sources s ON s.document_id = d.id
"""

EVALUATED_PAGES = f"""
SELECT e.evaluation_id AS evaluation_id, s.path AS source_path, {FOLDER_AND_FILE_NAME}, d.public_id AS document_id,
       p.page_index + 1 AS page_number, e.truth AS truth, {_OF_PAGE},
       a.engine AS engine, a.model AS model, a.confidence AS confidence, a.review_reason AS review_reason
FROM evaluation_pages e
JOIN answer_versions a ON a.id = e.answer_id
JOIN pages p ON p.id = e.page_id
JOIN documents d ON d.id = p.document_id
JOIN sources s ON s.document_id = d.id
"""

EVALUATED_ITEMS = """
SELECT e.evaluation_id AS evaluation_id,
       (SELECT min(s.path) FROM sources s WHERE s.document_id = p.document_id) AS source_path,
       p.page_index + 1 AS page_number, e.item AS item, e.category AS category, e.score AS score, e.detail AS detail
FROM evaluation_items e
LEFT JOIN pages p ON p.id = e.page_id
"""


def _measured(mean: str) -> dict[str, str]:
    return {
        "characters": "of the truth, without what is a matter of writing (docs/evaluation.md)",
        "character_errors": "to change, insert or delete until the answer is the truth, in order; at most a page's",
        "character_error_rate": "character_errors / characters, 0 to 1; null where there are none",
        "words": "of the truth",
        "word_errors": "as `character_errors`, of words; without case and punctuation",
        "word_error_rate": "word_errors / words, 0 to 1; null where there are none",
        "recall": f"share of the truth's words that were read, in whatever order{mean}",
        "precision": f"share of the words read that are in the truth{mean}",
        "table_score": f"TEDS of the page's tables, 0 to 1{mean}; null where none is judged",
    }


_FILE = {
    "source_path": "path of the file",
    "folder": "of the file",
    "file_name": "of the file",
    "document_id": "one content, one id",
}

EVALUATION_COLUMNS: dict[str, dict[str, str]] = {
    "evaluations": {
        "evaluation_id": "from 1",
        "kind": "pages, olmocr-bench, omnidocbench or mm-mt-bench",
        "name": "of the files or the dataset",
        "answers": "what was judged: engine:…, model:…, prompt:…, version:… or batch:…",
        "prompt": "name of the prompt; null where there is none",
        "pages": "with an answer and a truth",
        **_measured(", mean over pages"),
        "items": "questions of a benchmark",
        "items_judged": "those with a score",
        "item_score": "mean of their scores: 0 to 1, of mm-mt-bench 1 to 10",
        "worst_tenth_share": "of all wrong characters, those on the tenth of the pages that the engine doubts most",
        "created_at": "UTC",
    },
    "evaluated_documents": {
        "evaluation_id": "of `evaluations`",
        **_FILE,
        "pages": "with an answer and a truth",
        **_measured(", mean over pages"),
    },
    "evaluated_pages": {
        "evaluation_id": "of `evaluations`",
        **_FILE,
        "page_number": "from 1",
        "truth": "what the answer was held against: text-layer, truth-file or omnidocbench",
        **_measured(""),
        "engine": "that gave the answer",
        "model": "fingerprint of what read the page",
        "confidence": "of the answer, or null",
        "review_reason": "why the engine itself calls the page worth a look, or null",
    },
    "evaluated_items": {
        "evaluation_id": "of `evaluations`",
        "source_path": "path of the file, of several the first; null of a turn of a conversation",
        "page_number": "from 1; null of a turn",
        "item": "id of the question: a test of olmocr-bench, a table of omnidocbench, a turn of mm-mt-bench",
        "category": "of the question, as the benchmark has it",
        "score": "0 to 1, of mm-mt-bench 1 to 10; null: not judged",
        "detail": "why; of a turn what the judge said",
    },
}
