"""The lines of the current answers, out of the JSON that the engine left: the view `page_lines`.

An engine with boxes stores `details.lines`, for each line [x0, y0, x1, y1, confidence, text] in pixels of the page's
image. That image may be padded; a fraction is of the page itself where its size is known.
"""

from __future__ import annotations

from schemas.view_parts import FOLDER_AND_FILE_NAME, IS_THERE

_LINES = {
    "sqlite": "json_each(a.details, '$.lines') l",
    "postgresql": """LATERAL json_array_elements(CASE WHEN json_typeof(a.details -> 'lines') = 'array'
   THEN a.details -> 'lines' END) WITH ORDINALITY l (value, key)""",
}
_IS_LINE = {"sqlite": "l.type = 'array'", "postgresql": "json_typeof(l.value) = 'array'"}
_NUMBER = {"sqlite": "CAST(l.key AS INTEGER) + 1", "postgresql": "CAST(l.key AS INTEGER)"}
_PART = {"sqlite": "json_extract(l.value, '$[{}]')", "postgresql": "l.value ->> {}"}
_LEAST = {"sqlite": "min", "postgresql": "least"}
_MOST = {"sqlite": "max", "postgresql": "greatest"}

_SIDES = {"left": ("width", 0), "top": ("height", 1), "right": ("width", 2), "bottom": ("height", 3)}


def page_lines(dialect: str) -> str:
    def number(index: int) -> str:
        return f"CAST({_PART[dialect].format(index)} AS DOUBLE PRECISION)"

    def fraction(side: str, index: int) -> str:
        of_page = f"coalesce(p.{side}_pt * p.dpi / 72, p.{side}_px)"
        return f"{_MOST[dialect]}(0.0, {_LEAST[dialect]}(1.0, {number(index)} / {of_page}))"

    boxes = [f"CAST(round({number(index)}) AS INTEGER) AS {name}_px" for name, (_, index) in _SIDES.items()]
    boxes += [f"{fraction(side, index)} AS {name}_fraction" for name, (side, index) in _SIDES.items()]
    return f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       {_NUMBER[dialect]} AS line_number, {_PART[dialect].format(5)} AS text, {number(4)} AS confidence,
       {", ".join(boxes)},
       {FOLDER_AND_FILE_NAME}
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN current_answers c ON c.page_id = p.id
JOIN answer_versions a ON a.id = c.answer_id
CROSS JOIN {_LINES[dialect]}
WHERE {_IS_LINE[dialect]} AND {IS_THERE}
"""
