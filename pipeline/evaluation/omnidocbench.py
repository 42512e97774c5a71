"""OmniDocBench as it is published: a JSON of pages, each with the blocks that it shows and what stands in them.

    OmniDocBench.json   [{"page_info": {"image_path": "a.jpg", …}, "layout_dets": [{"category_type": "text_block",
    images/a.jpg, …       "text": "…", "order": 1, "ignore": false}, {"category_type": "table", "html": "…"}, …]}, …]

    text      the blocks in reading order against the answer without its tables: edit distance over the length. This is
              the benchmark's own `no_split`; its `quick_match`, by which leaderboards are made, looks for each block by
              itself, and gives lower distances where the order differs
    tables    TEDS, each with the table of the answer whose text is most like its own
    formulas  are not drawn: counted, and not judged

Page headers, footers, page numbers and what else is to be ignored: where an answer has them, they are taken out of it.
What the fields mean follows github.com/opendatalab/OmniDocBench.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from pipeline.errors import UsageError
from pipeline.evaluation.answers import PageAnswer
from pipeline.evaluation.evaluate import Item, JudgedPage, judged
from pipeline.evaluation.measures import normal, plain_text
from pipeline.evaluation.tables import matched, tables_of, without_tables
from pipeline.evaluation.truths import Truth

_TEXT = (
    *("text_block", "title", "code_txt", "code_algorithm", "code_txt_caption", "reference", "list_group"),
    *("figure_caption", "figure_footnote", "table_caption", "table_footnote", "equation_caption", "text_mask"),
)
_FORMULAS = ("equation_isolated", "equation_semantic", "equation_explanation")
_ALIKE = 80.0  # of 100: an ignored text is in the answer


Block = dict[str, Any]


@dataclass
class OmniDocBench:
    name: str
    files: list[Path]
    complaints: list[str]
    pages: dict[Path, list[Block]]
    kind: str = "omnidocbench"

    def judge(self, page: PageAnswer, files: list[Path], with_changes: bool) -> tuple[JudgedPage | None, list[Item]]:
        blocks = next((self.pages.pop(file) for file in files if file in self.pages), None)
        if blocks is None:
            return None, []
        kept = [block for block in blocks if not block.get("ignore")]
        of_blocks = [tables_of(str(block.get("html") or "")) for block in kept if _is(block, "table")]
        scores = matched([table for tables in of_blocks for table in tables], tables_of(page.text))
        without_html = sum(not tables for tables in of_blocks)
        items = [
            Item(
                f"{page.path} table {number}",
                "table (TEDS)",
                score,
                None if score is not None else "too large to compare",
                page.page_id,
            )
            for number, score in enumerate(scores, 1)
        ]
        items += [
            Item(f"{page.path} table", "table (TEDS)", None, "it is given without HTML", page.page_id)
        ] * without_html
        items += [
            Item(f"{page.path} formula {number}", "formula", None, "formulas are not drawn", page.page_id)
            for number, _ in enumerate((block for block in kept if _is(block, *_FORMULAS)), 1)
        ]
        text = "\n\n".join(filter(None, (_text_of(block) for block in _in_order(kept) if _is(block, *_TEXT))))
        ignored = [
            _text_of(block) for block in blocks if block.get("ignore") or not _is(block, *_TEXT, "table", *_FORMULAS)
        ]
        if not text.strip():
            return None, items
        read = _without(without_tables(page.text), ignored)
        known_scores = [score for score in scores if score is not None]
        mean = sum(known_scores) / len(known_scores) if known_scores else None
        return judged(page, Truth("omnidocbench", text), with_changes, mean, read), items

    def rest(self) -> list[Item]:
        return []


def _is(block: Block, *categories: str) -> bool:
    return block.get("category_type") in categories


def _text_of(block: Block) -> str:
    """Its own, else that of the blocks that were merged into it, else of its lines."""
    if isinstance(text := block.get("text"), str) and text.strip():
        return text
    for name, between in (("merge_list", "\n"), ("line_with_spans", " ")):
        parts = block.get(name)
        if isinstance(parts, list) and parts:
            return between.join(filter(None, (_text_of(part) for part in parts if isinstance(part, dict))))
    return ""


def _in_order(blocks: list[Block]) -> list[Block]:
    """Blocks without an order stand last, as in the file."""
    return sorted(blocks, key=lambda block: (block.get("order") is None, block.get("order") or 0))


def _without(text: str, ignored: list[str]) -> str:
    text = normal(plain_text(text))
    for one in sorted((normal(plain_text(some)) for some in ignored), key=len, reverse=True):
        found = fuzz.partial_ratio_alignment(one, text, score_cutoff=_ALIKE) if 2 < len(one) <= len(text) else None
        if found is not None:
            text = f"{text[: found.dest_start]} {text[found.dest_end :]}"
        elif one == text:
            text = ""
    return text


def open_omnidocbench(path: Path) -> OmniDocBench | None:
    """The benchmark in a folder, or its JSON; None where it is none.

    Raises:
        UsageError: it is called so, and is none; or no image of it is there.
    """
    file = path / "OmniDocBench.json" if path.is_dir() else path
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{file} is no JSON in UTF-8: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise UsageError(f"{file} is no OmniDocBench: that is a list of pages with layout_dets and page_info")
    pages: dict[Path, list[Block]] = {}
    wrong, missing = 0, []
    for entry in entries:
        info, blocks = entry.get("page_info"), entry.get("layout_dets")
        if not isinstance(info, dict) or not isinstance(blocks, list) or not info.get("image_path"):
            wrong += 1
            continue
        name = Path(str(info["image_path"])).name
        image = next((one for one in (file.parent / "images" / name, file.parent / name) if one.is_file()), None)
        if image is None:
            missing.append(name)
            continue
        pages[image] = [block for block in blocks if isinstance(block, dict)]
    complaints = [f"{file}: {wrong:,} entries have no layout_dets and page_info.image_path; left out"] if wrong else []
    if missing:
        complaints.append(
            f"{len(missing):,} images are not in {file.parent / 'images'}, such as {missing[0]}; left out"
        )
    if not pages:
        raise UsageError(f"{file} is no OmniDocBench whose images are there: {'; '.join(complaints) or 'it is empty'}")
    return OmniDocBench(path.name, sorted(pages), complaints, pages)
