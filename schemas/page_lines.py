"""The lines of the current answers, out of the JSON that the engine left: the view `page_lines`."""

from __future__ import annotations

from schemas.view_parts import (
    FOLDER_AND_FILE_NAME,
    IS_LINE,
    IS_THERE,
    fraction_of_page,
    lines_of,
    number_of_line,
    text_of_line,
)

_NUMBER = {"sqlite": "CAST(l.key AS INTEGER) + 1", "postgresql": "CAST(l.key AS INTEGER)"}
_SIDES = {"left": ("width", 0), "top": ("height", 1), "right": ("width", 2), "bottom": ("height", 3)}


def page_lines(dialect: str) -> str:
    boxes = [
        f"CAST(round({number_of_line(dialect, index)}) AS INTEGER) AS {name}_px" for name, (_, index) in _SIDES.items()
    ]
    boxes += [
        f"{fraction_of_page(dialect, side, number_of_line(dialect, index))} AS {name}_fraction"
        for name, (side, index) in _SIDES.items()
    ]
    return f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       {_NUMBER[dialect]} AS line_number, {text_of_line(dialect)} AS text,
       {number_of_line(dialect, 4)} AS confidence,
       {", ".join(boxes)},
       {FOLDER_AND_FILE_NAME}
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN current_answers c ON c.page_id = p.id
JOIN answer_versions a ON a.id = c.answer_id
CROSS JOIN {lines_of(dialect)}
WHERE {IS_LINE[dialect]} AND {IS_THERE}
"""
