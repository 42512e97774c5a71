"""olmOCR-bench and OmniDocBench in their published forms; tables with their spans, and TEDS."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.evaluation.datasets import find_dataset
from pipeline.evaluation.olmocr_bench import Test as Fact
from pipeline.evaluation.olmocr_bench import judge, open_olmocr_bench
from pipeline.evaluation.omnidocbench import open_omnidocbench
from pipeline.evaluation.tables import Placed, matched, table_rows, tables_of, teds, without_tables
from pipeline.settings import Settings
from pipeline.store.sources import SeenFile, record_files
from tests.conftest import Archive, answer, sha
from tests.running import call

HTML = (
    "<table><tr><th rowspan=2>Year</th><th colspan=2>Visitors</th></tr><tr><td>men</td><td>women</td></tr>"
    "<tr><td>1913</td><td>12</td><td>15</td></tr></table>"
)
MARKDOWN = "| Year | men | women |\n|---|---|---|\n| 1913 | 12 | 15 |"


def verdict(read: str, kind: str, fields: dict[str, Any]) -> float | None:
    return judge(Fact("id", "c", Path("a.pdf"), 1, kind, {"max_diffs": 0} | fields), read)[0]


def test_a_table_s_cells_stand_where_their_spans_put_them() -> None:
    (table,) = tables_of(f"before\n\n{HTML}\n\nafter")
    placed = Placed.of(table)
    women = next(cell for cell in placed.cells if cell[4] == "women")
    assert placed.beside(women, "up") == ["Visitors"] and placed.beside(women, "left") == ["men"]
    assert placed.beside(women, "down") == ["15"] and placed.beside(women, "right") == []
    fifteen = next(cell for cell in placed.cells if cell[4] == "15")
    assert placed.beside(fifteen, "top_heading") == ["Visitors", "women"]
    assert placed.beside(fifteen, "left_heading") == ["1913", "12"]


def test_a_cell_takes_no_more_places_than_its_table_has_rows() -> None:
    rows = "<tr><td rowspan=1000 colspan=100>a</td></tr>" * 50
    began = time.process_time()
    placed = Placed.of(tables_of(f"<table>{rows}</table>")[0])
    assert max(cell[2] for cell in placed.cells) == 49
    assert time.process_time() - began < 2, "50 × 50 × 100 places and not 50 × 1,000 × 100"
    assert [len(row) for row in table_rows(f"<table><tr><td colspan={10**9}>a</td></tr></table>")] == [100]


def test_markdown_s_tables_are_runs_of_rows_with_a_rule() -> None:
    text = f"a | b\n\n{MARKDOWN}\n\nend"
    assert [[cell.text for cell in row] for (table) in tables_of(text) for row in table] == [
        ["Year", "men", "women"],
        ["1913", "12", "15"],
    ]
    assert without_tables(f"{text}\n{HTML}").split() == ["a", "|", "b", "end"]


def test_teds_is_that_of_its_paper() -> None:
    (true,) = tables_of(MARKDOWN)
    assert teds(true, true) == 1.0
    (lacking,) = tables_of("| Year | men |\n|---|---|\n| 1913 | 12 |")
    assert teds(true, lacking) == pytest.approx(1 - 2 / 8), "8 nodes: two rows, six cells; two cells are missing"
    (wrong,) = tables_of(MARKDOWN.replace("women", "wonen"))
    assert teds(true, wrong) == pytest.approx(1 - (1 / 5) / 8)
    (spanned,) = tables_of("<table><tr><td colspan=2>a</td></tr></table>")
    (plain,) = tables_of("<table><tr><td>a</td></tr></table>")
    assert teds(spanned, plain) == 0.5
    assert matched([true, plain], [plain]) == [0.0, 1.0]
    assert teds([[true[0][0]] * 1_000] * 2, true) is None


@pytest.mark.parametrize(
    ("text", "kind", "fields", "score"),
    [
        ("The **tide** rose “four” feet—late", "present", {"text": 'tide rose "four" feet-late'}, 1),
        ("The tlde rose", "present", {"text": "The tide rose"}, 0),
        ("The tlde rose", "present", {"text": "The tide rose", "max_diffs": 2}, 1),
        (" ", "present", {"text": "The tide rose"}, 0),
        ("THE TIDE", "present", {"text": "the tide", "case_sensitive": False}, 1),
        ("body text and Page 7", "absent", {"text": "Page 7", "first_n": 9}, 1),
        ("body text and Page 7", "absent", {"text": "Page 7", "last_n": 9}, 0),
        ("first words, then last ones", "order", {"before": "first", "after": "last"}, 1),
        ("last ones, then first words", "order", {"before": "first", "after": "last"}, 0),
        ("f1rst words, then lost ones", "order", {"before": "first", "after": "last", "max_diffs": 1}, 1),
        ("only first", "order", {"before": "first", "after": "last"}, 0),
        (HTML, "table", {"cell": "15", "top_heading": "Visitors", "left": "12"}, 1),
        (MARKDOWN, "table", {"cell": "15", "up": "women", "left_heading": "1913"}, 1),
        (MARKDOWN, "table", {"cell": "15", "up": "men", "max_diffs": 0}, 0),
        ("no table, but 15", "table", {"cell": "15"}, 0),
        ("a sum $x^2$ here", "math", {"math": "x^2"}, 1),
        ("a sum $x^{2}$ here", "math", {"math": "x^2"}, 1),
        (r"\[ \int_a^b 3 x ^ {2} \, dx \]", "math", {"math": "3x^2"}, 1),
        (r"$$\dfrac{a}{b} + c$$", "math", {"math": r"\frac{a}{b}"}, 1),
        (r"$\frac{b}{a}$", "math", {"math": r"\frac{a}{b}"}, 0),
        ("$x_2$", "math", {"math": "x^2"}, 0),
        ("$3x$", "math", {"math": "3x^2"}, 0),
        (r"$\begin{matrix} 1 & 2 \end{matrix}$", "math", {"math": "x^2"}, None),
        ("$x$", "math", {"math": r"\begin{align} x \end{align}"}, None),
        ("no formula", "math", {"math": "x^2"}, 0),
        ("plain words", "baseline", {}, 1),
        ("...", "baseline", {}, 0),
        ("words and ha" + "ha" * 40, "baseline", {}, 0),
        ("Wörter 字", "baseline", {}, 0),
        ("字", "baseline", {"check_disallowed_characters": False}, 1),
        ("12", "baseline", {"max_length": 2}, 1),
        ("# A heading", "format", {"text": "A heading", "format": "heading"}, None),
    ],
)
def test_facts_of_a_page_are_judged(text: str, kind: str, fields: dict[str, Any], score: float | None) -> None:
    assert verdict(text, kind, fields) == score


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    pdfs = tmp_path / "bench" / "bench_data" / "pdfs" / "tables"
    pdfs.mkdir(parents=True)
    for name in ("a", "b"):
        (pdfs / f"{name}.pdf").write_bytes(b"%PDF-1.4")
    tests = [
        {"pdf": "tables/a.pdf", "page": 1, "id": "t1", "type": "table", "cell": "15", "up": "women", "checked": None},
        {"pdf": "tables/a.pdf", "page": 1, "id": "t2", "type": "present", "text": "absent\u2028words", "max_diffs": 2},
        {"pdf": "tables/b.pdf", "page": 1, "id": "t3", "type": "absent", "text": "x", "max_diffs": 0},
        {"pdf": "tables/gone.pdf", "page": 1, "id": "t4", "type": "absent", "text": "x"},
        {"pdf": "../../../etc/passwd", "page": 1, "id": "t5", "type": "absent", "text": "x"},
        {"pdf": "tables/a.pdf", "page": 1, "id": "t6", "type": "order", "before": "x"},
    ]
    lines = [json.dumps(test, ensure_ascii=False) for test in tests] + ["{broken", "[]"]
    (tmp_path / "bench" / "bench_data" / "table_tests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "bench" / "bench_data" / "latin.jsonl").write_bytes("größer".encode("latin-1"))
    return tmp_path / "bench"


def seen(archive: Archive, path: Path) -> int:
    """A file whose location is where it lies; the id of its page."""
    if "b" not in archive.batches:
        archive.batch()
    file = SeenFile(str(path), path.as_uri(), 10, 1, kind="pdf", content_hash=sha(str(path)))
    record_files(archive.db, archive.batches["b"], [file])
    document = archive.scalar("SELECT id FROM documents WHERE content_hash = :h", h=sha(str(path)))
    (page,) = archive.ingest(document, [f"{path}#0"])
    return page


def test_a_folder_of_facts_is_judged_by_category(archive: Archive, bench: Path, settings: Settings) -> None:
    found = open_olmocr_bench(bench)
    assert found and [file.name for file in found.files] == ["a.pdf", "b.pdf"]
    assert [complaint.partition(" ")[0].rpartition("/")[2] for complaint in found.complaints] == [
        "latin.jsonl",
        "table_tests.jsonl",
        "table_tests.jsonl:",
    ]
    assert "line 5: '../../../etc/passwd' leads out of" in found.complaints[1] and "3 more lines" in found.complaints[1]
    assert "such as tables/gone.pdf" in found.complaints[2]
    archive.read(seen(archive, found.files[0]), MARKDOWN)
    plots = [word for kind in ("png", "html") for word in ("--plot", bench / f"plot.{kind}")]
    done = call("eval", bench, "--answers", "rapidocr", "--json", *plots, "--home", settings.home)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["kind"] == "olmocr-bench" and shown["overall"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert [(one["category"], one["questions"], round(one["mean_score"], 2)) for one in shown["categories"]] == [
        ("table_tests", 3, 0.33),
        ("baseline", 2, 0.5),
    ]
    view = "SELECT item, category, score, detail, page_number FROM evaluated_items ORDER BY category, item"
    assert archive.rows(view) == [
        ("tables/a.pdf_baseline", "baseline", 1.0, None, 1),
        ("tables/b.pdf_baseline", "baseline", 0.0, "b.pdf page 1 was not read", None),
        ("t1", "table_tests", 1.0, None, 1),
        ("t2", "table_tests", 0.0, "the best place has 0.417 of it, needed 0.833", 1),
        ("t3", "table_tests", 0.0, "b.pdf page 1 was not read", None),
    ]
    assert archive.rows("SELECT items, items_judged, pages FROM evaluations") == [(5, 5, 0)]
    assert (bench / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert "<td>table_tests<td class=n>3<td class=n>0<td class=n>0.3333" in (bench / "plot.html").read_text()


def omni(folder: Path, pages: list[dict[str, Any]]) -> Path:
    (folder / "images").mkdir(parents=True)
    for page in pages:
        (folder / "images" / page["page_info"]["image_path"]).write_bytes(b"image")
    (folder / "OmniDocBench.json").write_text(json.dumps(pages, ensure_ascii=False), encoding="utf-8")
    return folder


def block(category: str, order: int | None, ignore: bool = False, **fields: Any) -> dict[str, Any]:
    return {"category_type": category, "order": order, "ignore": ignore, "anno_id": 0, "poly": [0] * 8, **fields}


def test_blocks_are_held_against_an_answer_without_its_tables_and_headers(
    archive: Archive, tmp_path: Path, settings: Settings
) -> None:
    blocks = [
        block("header", None, text="THE COASTAL REVIEW"),
        block(
            "text_block", 2, merge_list=[{"text": "The tide rose"}, {"line_with_spans": [{"text": "by four feet."}]}]
        ),
        block("title", 1, text="Tides"),
        block("table", 3, html=HTML),
        block("equation_isolated", 4, latex="$$x^2$$"),
        block("text_block", 5, True, text="scribbled in the margin"),
        block("page_number", None, text="31"),
        block("table", 6, latex="\\begin{tabular}"),
    ]
    info = {"image_path": "a.jpg", "page_no": 0, "page_attribute": {"language": "english"}}
    folder = omni(tmp_path / "omni", [{"layout_dets": blocks, "page_info": info, "extra": {}}])
    text = f"THE COASTAL REVIEW\n\n# Tides\n\nThe tide rose by five feet.\n\n{HTML.replace('15', '16')}\n\n"
    archive.read(seen(archive, folder / "images" / "a.jpg"), lambda _: answer(f"{text}scribbled in the margin"))
    done = call("eval", folder, "--answers", "rapidocr", "--json", "--changes", "--home", settings.home)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["kind"] == "omnidocbench" and (shown["pages"], shown["character_errors"]) == (1, 3)
    assert shown["worst_pages"][0]["changes"] == "Tides The tide rose by [-four-]{+five+} feet."
    score = 1 - (1 / 2) / 10
    assert shown["table_score"] == pytest.approx(score), "10 nodes: three rows, seven cells"
    assert archive.rows("SELECT category, score FROM evaluated_items ORDER BY category, score DESC") == [
        ("formula", None),
        ("table (TEDS)", pytest.approx(score)),
        ("table (TEDS)", None),
    ]


def test_what_is_no_benchmark_is_one_line(tmp_path: Path, settings: Settings) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"rows": []}')
    with pytest.raises(UsageError, match="is no OmniDocBench: that is a list of pages"):
        find_dataset(other)
    other.write_text("größer", encoding="latin-1")
    with pytest.raises(UsageError, match="is no JSON in UTF-8"):
        find_dataset(other)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("{}")
    with pytest.raises(UsageError, match="is the data of no benchmark that is known"):
        find_dataset(lines)
    folder = omni(tmp_path / "omni", [{"layout_dets": [], "page_info": {"image_path": "a.jpg"}}])
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(UsageError, match=r"whose images are there: 1 images are not in .*images, such as a.jpg"):
        open_omnidocbench(folder)
    assert find_dataset(tmp_path) is None and find_dataset(tmp_path / "nothing") is None
    done = call("eval", other, "--home", settings.home)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
