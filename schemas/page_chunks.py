"""Current answers in pieces for retrieval: the view `chunks`. It is SQL alone, so no table can fall behind the answers.

A piece has at most N characters. It ends at the last break, of the first of these kinds that its second half has:

    before a heading · between paragraphs · at a line's end · at a sentence's end · between words or clauses

else between two words of its first half, and after all N characters where they hold no blank. So a word is cut only
where it is longer than N, and a piece is shorter than half of N only at a text's end or before a word that is longer.
Pieces do not overlap; blanks around them are left out. Offsets count characters, from 0.

A piece's box is that of its lines. A text in reading order does not say where lines ended, so they are looked for in
it. A line counts where what it says stands once on the page: `3` or `Total` may be anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.view_parts import (
    FOLDER_AND_FILE_NAME,
    IS_LINE,
    IS_THERE,
    fraction_of_page,
    lines_of,
    number_of_line,
    text_of_line,
)

MAX_CHARACTERS = 1_000
"""About 250 tokens of English; of Chinese as many as small embedding models take at once."""

_ENDS = (".", "!", "?", "…", "।", "؟", "۔", '."', ".”", ".)", "!”", "?”")  # of a sentence, before a blank
_WIDE_ENDS = ("。", "！", "？")  # that no blank follows
_CLAUSES = ("，", "、", "；", "：")
_ALL = 1_000_000  # of a LIMIT that keeps what stands before it from being computed again for each use
_OTHER_BLANKS = (0x0A, 0x0D, 0x09, 0x0C, 0x3000)
_BOX = {"x0": ("left", "width"), "y0": ("top", "height"), "x1": ("right", "width"), "y1": ("bottom", "height")}

_CHARACTER = {"sqlite": "char({})", "postgresql": "chr({})"}
_OCTETS = {"sqlite": "length(CAST({} AS BLOB))", "postgresql": "octet_length({})"}
_PLACE = {"sqlite": "instr({}, {})", "postgresql": "strpos({}, {})"}


def chunks(dialect: str, max_characters: int = MAX_CHARACTERS) -> str:
    """The view's SELECT; with another length, from 2 characters on, it may stand as a subquery."""
    columns = ("number", "start", "length", *_BOX)
    of = {name: f"k.{name}" for name in columns}
    if dialect == "sqlite":
        of = {name: f"json_extract(k.value, '$[{place}]')" for place, name in enumerate(columns)}
    box = [f"CAST(round({of[name]}) AS INTEGER) AS {side}_px" for name, (side, _) in _BOX.items()]
    box += [
        f"CASE WHEN {of[name]} IS NOT NULL THEN {fraction_of_page(dialect, along, of[name])} END AS {side}_fraction"
        for name, (side, along) in _BOX.items()
    ]
    return f"""
SELECT s.path AS source_path, d.public_id AS document_id, p.page_index + 1 AS page_number, c.prompt AS prompt,
       {of["number"]} AS chunk_number, substr(a.text, {of["start"]}, {of["length"]}) AS text,
       {of["start"]} - 1 AS start_offset, {of["start"]} - 1 + {of["length"]} AS end_offset,
       {", ".join(box)},
       {FOLDER_AND_FILE_NAME}, a.engine AS engine, a.model AS model, a.confidence AS confidence,
       a.created_at AS created_at, a.id AS answer_id
FROM sources s
JOIN documents d ON d.id = s.document_id
JOIN pages p ON p.document_id = d.id
JOIN current_answers c ON c.page_id = p.id
JOIN answer_versions a ON a.id = c.answer_id
CROSS JOIN {_pieces(dialect, max_characters, columns)} k
WHERE {IS_THERE}
"""


def _pieces(dialect: str, most: int, columns: Sequence[str]) -> str:
    """The pieces of `a.text` as rows of these columns. SQLite has no LATERAL, but takes a JSON array apart."""
    text = f"(SELECT rtrim(a.text, {_blanks(dialect)}) AS text LIMIT 1) t"  # the LIMIT: once a page, not for each use
    pieces = _cut(dialect, most)
    if dialect == "sqlite":
        in_one = f"SELECT json_group_array(json_array({', '.join(columns)})) FROM ({pieces})"
        return f"json_each((SELECT ({in_one}) FROM {text}))"
    return f"LATERAL (SELECT o.* FROM {text} CROSS JOIN LATERAL ({pieces}) o)"


def _cut(dialect: str, most: int) -> str:
    """A row for each piece of `t.text`. A line is told to the piece that holds its beginning, and to that of its end:
    all are walked through in the order of the text, and pieces counted."""
    blanks = _blanks(dialect)
    no_box = ", ".join(f"CAST(NULL AS DOUBLE PRECISION) AS {name}" for name in _BOX)
    sides = ", ".join(f"{'min' if name in ('x0', 'y0') else 'max'}(o.{name}) AS {name}" for name in _BOX)
    return f"""
   WITH RECURSIVE cut (start, taken) AS (
     SELECT 1, {_taken(dialect, "1", most)}
     UNION ALL
     SELECT start + taken, {_taken(dialect, "start + taken", most)} FROM cut WHERE start + taken <= length(t.text)
   ), met AS (
     SELECT o.start + length(o.text) - length(ltrim(o.text, {blanks})) AS start,
            length(rtrim(ltrim(o.text, {blanks}), {blanks})) AS length, 1 AS is_piece, {no_box}
     FROM (SELECT start, substr(t.text, start, taken) AS text FROM cut) o WHERE ltrim(o.text, {blanks}) <> ''
     UNION ALL
     SELECT o.start + e.is_end * (o.length - 1), 0, 0, {", ".join(f"o.{name}" for name in _BOX)}
     FROM ({_lines(dialect)}) o CROSS JOIN (SELECT 0 AS is_end UNION ALL SELECT 1) e
   )
   SELECT o.number AS number, min(o.start) AS start, max(o.length) AS length, {sides}
   FROM (SELECT m.*, sum(m.is_piece) OVER (ORDER BY m.start, m.is_piece DESC) AS number FROM met m) o
   WHERE o.number > 0
   GROUP BY o.number"""


def _lines(dialect: str) -> str:
    """The lines of `a` whose text stands once in `t.text`, and where."""
    hyphens = f"'-' || {_CHARACTER[dialect].format(0xAD)}"  # at a line's end: the text joins the word
    quad = ", ".join(f"{number_of_line(dialect, index)} AS {name}" for index, name in enumerate(_BOX))
    octets = _OCTETS[dialect].format
    return f"""
     SELECT {_PLACE[dialect].format("t.text", "o.said")} AS start, length(o.said) AS length,
            {", ".join(f"o.{name} AS {name}" for name in _BOX)}
     FROM (SELECT rtrim(trim({text_of_line(dialect)}), {hyphens}) AS said, {quad}
           FROM {lines_of(dialect)} WHERE {IS_LINE[dialect]} LIMIT {_ALL}) o
     WHERE o.said <> ''
       AND {octets("t.text")} - {octets("replace(t.text, o.said, '')")} = {octets("o.said")}"""


def _taken(dialect: str, start: str, most: int) -> str:
    """How many characters the piece of `t.text` takes that begins at `start`, with the blanks around it.

    Breaks become a mark of one character, and the last one stands before all that may be cut off from the right.
    """
    half, mark, newline = most // 2, _CHARACTER[dialect].format(1), _CHARACTER[dialect].format(10)
    paragraph, marks = f"{newline} || {newline}", f"{mark} || {mark}"
    sentence = {f"'{end} '": f"'{end}' || {mark}" for end in _ENDS} | {f"'{end}'": mark for end in _WIDE_ENDS}
    blanks = ["' '", *(_CHARACTER[dialect].format(code) for code in _OTHER_BLANKS)]
    words = dict.fromkeys([*blanks, *(f"'{clause}'" for clause in _CLAUSES)], mark)
    kinds = {
        "headed": ("tail", {f"{paragraph} || '#'": f"{marks} || '#'"}),
        "parted": ("tail", {paragraph: marks}),
        "lined": ("tail", {newline: mark}),
        "ended": ("tail", sentence),
        "spaced": ("tail", words),
        "began": ("first", words),
    }
    parts = [
        f"part AS (SELECT o.rest AS rest, substr(o.rest, {half + 1}, {most - half}) AS tail, "
        f"substr(o.rest, 1, {half}) AS first FROM (SELECT substr(t.text, {start}, {most + 1}) AS rest LIMIT 1) o)"
    ]
    last, cases = "part", ""
    for kind, (text, replaced) in kinds.items():
        for at, (found, mark_of) in enumerate(replaced.items()):  # a step each: SQLite's parser takes few in each other
            before = f"{kind}{at - 1}" if at else text
            parts.append(
                f"{kind}{at}_ AS (SELECT o.*, replace(o.{before}, {found}, {mark_of}) AS {kind}{at} FROM {last} o)"
            )
            last = f"{kind}{at}_"
        name = f"{kind}{len(replaced) - 1}"
        offset = half if text == "tail" else 0
        cases += f"""
           WHEN {_PLACE[dialect].format(name, mark)} > 0
           THEN {offset} + length(rtrim({name}, replace({name}, {mark}, '')))"""
    return f"""(WITH {", ".join(parts)}
       SELECT CASE WHEN length(rest) <= {most} THEN length(rest){cases} ELSE {most} END FROM {last})"""


def _blanks(dialect: str) -> str:
    return " || ".join(["' '", *(_CHARACTER[dialect].format(code) for code in _OTHER_BLANKS)])


CHUNK_COLUMNS: dict[str, str] = {
    "source_path": "path of the file",
    "document_id": "one content, one id",
    "page_number": "from 1",
    "prompt": "name of the prompt",
    "chunk_number": "from 1 on each page",
    "text": "at most 1,000 characters, cut before a heading, or between paragraphs, lines, sentences or words",
    "start_offset": "characters before it in the page's text",
    "end_offset": "of the character after its last one",
    "left_px": "of the box of its lines, in pixels of the page's image; null where the engine finds no lines",
    "top_px": "from the upper edge",
    "right_px": "from the left edge",
    "bottom_px": "from the upper edge",
    "left_fraction": "the same as a share of the page's width, 0 to 1",
    "top_fraction": "of the page's height",
    "right_fraction": "of the page's width",
    "bottom_fraction": "of the page's height",
    "folder": "of the file",
    "file_name": "of the file",
    "engine": "that read the page",
    "model": "fingerprint of what read the page",
    "confidence": "of the whole answer, or null",
    "created_at": "UTC, of the answer",
    "answer_id": "as in `page_text`; with `chunk_number` the key of a piece, new where the page is read anew",
}
