"""`pagepack eval` as a user calls it: pixels are read whatever text a page carries, and pages show what they did."""

from __future__ import annotations

import json
from pathlib import Path

import pymupdf
import pytest
from PIL import Image, ImageDraw

from tests.running import pagepack, rows

TEXT = "The harbour office keeps its tide tables in a tin box beside the window, where the light is best."


def born_digital(path: Path) -> None:
    with pymupdf.open() as document:
        page = document.new_page(width=420, height=300)
        for line in range(8):
            page.insert_text((30, 40 + 24 * line), f"{line} {TEXT}"[:70], fontsize=11)
        document.save(path)


def picture(path: Path) -> None:
    image = Image.new("L", (160, 96), 255)
    ImageDraw.Draw(image).text((20, 30), f"picture {path.stem}")
    image.save(path)


def test_an_engine_reads_what_carries_its_text_and_pages_show_what_they_did(tmp_path: Path) -> None:
    folder, home = tmp_path / "in", tmp_path / "home"
    folder.mkdir()
    born_digital(folder / "a.pdf")
    for name in ("b", "c", "d", "e"):
        picture(folder / f"{name}.png")
    (folder / "b.gt.txt").write_text("what b says")
    (folder / "c.gt.txt").write_bytes("größer".encode("latin-1"))
    (folder / "d.gt.txt").write_text("")
    (folder / "notes.txt").write_text("no document")
    assert pagepack("run", folder / "a.pdf", "--text-layer", "auto", "--home", home).returncode == 0
    shown = "SELECT engine, substr(text, 1, 13) FROM page_text WHERE file_name = 'a.pdf'"
    assert rows(home, shown) == [("text-layer", "0 The harbour")]

    done = pagepack("eval", folder, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    judged = {Path(page["source_path"]).name: page["truth"] for page in found["worst_pages"]}
    assert judged == {"a.pdf": "text-layer", "b.png": "truth-file"}
    assert sorted(Path(name).name for name in found["not_judged"]) == ["c.png", "d.png", "e.png"]
    assert [line.partition(" is ")[2][:13] for line in sorted(found["complaints"])] == [
        "no UTF-8 text",
        "empty; its pa",
    ]
    read = "SELECT engine, character_error_rate > 0.5 FROM evaluated_pages WHERE file_name = 'a.pdf'"
    assert rows(home, read) == [("instant", 1)], "its picture was read, as badly as that"
    assert rows(home, shown) == [("text-layer", "0 The harbour")], "and is not shown"
    assert rows(home, "SELECT count(*) FROM page_text WHERE file_name = 'e.png'") == [(1,)]

    attempts = rows(home, "SELECT count(*) FROM task_attempts")
    again = pagepack("eval", folder, "--home", home, "--worst", "1")
    assert again.returncode == 0 and "evaluation 2: in, model:instant/1" in again.stdout
    assert rows(home, "SELECT count(*) FROM task_attempts") == attempts, "nothing is read twice"

    empty = tmp_path / "empty"
    empty.mkdir()
    picture(empty / "f.png")
    nothing = pagepack("eval", empty, "--home", home)
    assert nothing.returncode == 3 and "no page could be judged" in nothing.stderr


@pytest.mark.xdist_group("rapidocr")
def test_the_default_engine_is_measured_on_a_page_that_carries_its_text(tmp_path: Path) -> None:
    born_digital(tmp_path / "a.pdf")
    told = ("--changes", "--plot", tmp_path / "plot.html", "--json", "--home", tmp_path / "home")
    done = pagepack("eval", tmp_path / "a.pdf", *told, PAGEPACK_INTERNAL_ENGINE="")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answers"].startswith("model:PP-OCR") and found["words"] > 80
    assert found["recall"] > 0.95 and found["character_error_rate"] < 0.05
    engines = "SELECT DISTINCT engine, truth FROM evaluated_pages"
    assert rows(tmp_path / "home", engines) == [("rapidocr", "text-layer")]
    assert "a.pdf:1" in (tmp_path / "plot.html").read_text()
