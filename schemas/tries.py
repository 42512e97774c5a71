"""What came of each try at an answer that needed several: the words of `answer_tries.verdict`, and the view `tries`."""

from __future__ import annotations

from enum import StrEnum

from schemas.view_parts import FOLDER_AND_FILE_NAME, FROM_ANSWERS, IS_FIRST_TASK


class TryVerdict(StrEnum):
    GOOD = "good"
    DOUBTED = "doubted"
    SHORT = "short"
    EMPTY = "empty"
    REPETITION = "repetition"
    LENGTH = "length"
    DEADLINE = "deadline"
    FAILED = "failed"


SENTENCES = {
    TryVerdict.GOOD: "it ended by itself, and the model was sure of it",
    TryVerdict.DOUBTED: "it ended by itself, and the model was not sure of it",
    TryVerdict.SHORT: "it ended by itself with less than half of the text that another try had before its loop",
    TryVerdict.EMPTY: "it ended without a word",
    TryVerdict.REPETITION: "it fell into a loop, and was cut to one copy",
    TryVerdict.LENGTH: "it was cut off at its longest length",
    TryVerdict.DEADLINE: "time was over",
    TryVerdict.FAILED: "it could not be made; `error` says why",
}

_DETAIL = " ".join(f"WHEN '{verdict}' THEN '{text}'" for verdict, text in SENTENCES.items())

TRIES = f"""
SELECT s.path AS source_path, {FOLDER_AND_FILE_NAME}, d.public_id AS document_id, p.page_index + 1 AS page_number,
       v.name AS prompt, a.prompt_version AS prompt_version, a.engine AS engine, a.model AS model,
       r.number AS try_number, r.verdict AS verdict, CASE r.verdict {_DETAIL} END AS detail,
       r.is_chosen AS is_chosen, r.text AS text, r.finish_reason AS finish_reason, r.temperature AS temperature,
       r.angle AS angle, r.tiles AS tiles, r.prompt_tokens AS prompt_tokens, r.output_tokens AS output_tokens,
       r.seconds AS seconds, r.confidence AS confidence, r.error AS error, b.public_id AS batch_id
{FROM_ANSWERS}
JOIN answer_tries r ON r.answer_id = a.id
WHERE {IS_FIRST_TASK}
"""
"""Every try at every answer that needed several; `verdict` and the sentence that explains it."""
