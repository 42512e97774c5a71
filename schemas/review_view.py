"""Pages that were read and yet deserve a person's eye: the view `review`, one row for each current answer in doubt.

An engine says of its own answer what it doubts (`answer_versions.review_reason`). What any answer shows, and what is
known of the page, is looked at here, the gravest first; a page has one row for a prompt. Where the renderer's warnings
tell of more that was lost than the reason does, the score is theirs, and they stand in the detail too.
"""

from __future__ import annotations

from schemas.review import CUT_SCORES, ENGINE_SCORE, LEGIBLE_PX, NOTHING_LOST, SENTENCES, WARNINGS, ReviewReason
from schemas.text_layers import SENTENCES as LAYER_SENTENCES
from schemas.view_parts import FOLDER_AND_FILE_NAME, FROM_ANSWERS, IS_FIRST_TASK, IS_THERE, literal

DOUBTED_BELOW = 0.8
"""A confidence that every engine doubts: RapidOCR reads print that lies right at above 0.9, on its head at under 0.75.
RapidOCR itself doubts a page earlier, and says so."""

_PLACE_OF = {"sqlite": "instr", "postgresql": "strpos"}
_UNKNOWN = {"sqlite": "char(65533)", "postgresql": "chr(65533)"}  # U+FFFD
_IS_GRAVER = "coalesce(o.weight > o.score, 1 = 0)"
_IS_LAYER = "a.engine = 'text-layer'"


def review(dialect: str) -> str:
    place = _PLACE_OF[dialect]
    reasons = {  # reason → (when, score)
        ReviewReason.DEADLINE: ("a.finish_reason = 'deadline'", str(CUT_SCORES[ReviewReason.DEADLINE])),
        ReviewReason.REPETITION: ("a.finish_reason = 'repetition'", str(CUT_SCORES[ReviewReason.REPETITION])),
        ReviewReason.LENGTH: ("a.finish_reason = 'length'", str(CUT_SCORES[ReviewReason.LENGTH])),
        ReviewReason.EMPTY: (
            "a.finish_reason = 'empty' OR a.text = '' AND l.text IS NOT NULL",
            str(CUT_SCORES[ReviewReason.EMPTY]),
        ),
        ReviewReason.TEXT_LAYER: (f"{_IS_LAYER} AND coalesce(l.verdict, 'sound') <> 'sound'", "0.7"),
        ReviewReason.LOW_CONFIDENCE: (f"a.confidence < {DOUBTED_BELOW}", "1.0 - a.confidence"),
        ReviewReason.SMALL_PRINT: (
            f"p.print_px < {LEGIBLE_PX} AND NOT {_IS_LAYER}",
            f"1.0 - p.print_px / {LEGIBLE_PX}",
        ),
        ReviewReason.UNKNOWN_CHARACTERS: (f"{_IS_LAYER} AND {place}(a.text, {_UNKNOWN[dialect]}) > 0", "0.3"),
        ReviewReason.WARNING: ("p.warnings IS NOT NULL", str(NOTHING_LOST)),
    }
    found = " ".join(f"WHEN {when} THEN '{reason}'" for reason, (when, _) in reasons.items())
    score = " ".join(f"WHEN {when} THEN {score}" for when, score in reasons.values())
    weights = " ".join(
        f"WHEN {' OR '.join(f'{place}(p.warnings, {literal(part)}) > 0' for part in parts)} THEN {weight}"
        for weight, parts in WARNINGS.items()
    )
    details = " ".join(f"WHEN '{reason}' THEN {literal(text)}" for reason, text in SENTENCES.items())
    layers = " ".join(f"WHEN '{verdict}' THEN {literal(text)}" for verdict, text in LAYER_SENTENCES.items())
    return f"""
SELECT o.source_path AS source_path, o.document_id AS document_id, o.page_number AS page_number, o.prompt AS prompt,
       o.reason AS reason, CASE WHEN {_IS_GRAVER} THEN o.weight ELSE o.score END AS score,
       coalesce(CASE o.reason WHEN '{ReviewReason.WARNING}' THEN o.warnings
                     WHEN '{ReviewReason.TEXT_LAYER}' THEN CASE o.verdict {layers} END END,
                CASE o.reason {details} ELSE o.reason END)
       || CASE WHEN {_IS_GRAVER} AND o.reason <> '{ReviewReason.WARNING}' THEN '; ' || o.warnings ELSE '' END AS detail,
       o.finish_reason AS finish_reason, o.confidence AS confidence, o.folder AS folder, o.file_name AS file_name,
       o.batch_id AS batch_id, o.seen_at AS seen_at
FROM (
SELECT s.path AS source_path, {FOLDER_AND_FILE_NAME}, d.public_id AS document_id, p.page_index + 1 AS page_number,
       v.name AS prompt, a.finish_reason AS finish_reason, a.confidence AS confidence, b.public_id AS batch_id,
       p.warnings AS warnings, l.verdict AS verdict, k.seen_at AS seen_at,
       coalesce(a.review_reason, CASE {found} END) AS reason,
       CASE WHEN a.review_reason IS NOT NULL THEN coalesce(a.review_score, {ENGINE_SCORE})
            ELSE CAST(CASE {score} END AS DOUBLE PRECISION) END AS score,
       CAST(CASE {weights} END AS DOUBLE PRECISION) AS weight
{FROM_ANSWERS}
JOIN current_answers c ON c.page_id = p.id AND c.prompt = v.name AND c.answer_id = a.id
LEFT JOIN text_layers l ON l.page_id = p.id
LEFT JOIN seen_pages k ON k.page_id = p.id AND k.answer_id = a.id
WHERE {IS_THERE}
  AND {IS_FIRST_TASK}
) o WHERE o.reason IS NOT NULL
"""
