"""hOCR, ALTO and PAGE XML: valid by their schemas, each word where it stands, in the order in which they are read."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from pipeline.errors import PageFailed, UsageError
from pipeline.export.export import FolderFormat, export
from pipeline.export.selection import Selection
from pipeline.export.where import Where
from pipeline.settings import Settings
from pipeline.store.pages import NewPage
from tests.conftest import Archive, answer, sha
from tests.placed import ReadPage, put

DATABASES = ("sqlite", "postgresql")
STANDARDS = Path(__file__).parents[1] / "standards"
XHTML = "{http://www.w3.org/1999/xhtml}"
HOSTILE = "a]]>b --> <script>alert(\"1\")</script> & \x01\x0b\ufffe\ud7ff \u202e 'q' é"

PAGE = ReadPage(
    [  # as they are found, from the top down: two columns
        [400, 20, 640, 50, 0.8, "right column one"],
        [20, 30, 260, 60, 0.9, "left column one"],
        [400, 80, 640, 110, 0.8, "right two"],
        [20, 90, 260, 120, 0.9, "left two-"],
        [700, 20, 730, 220, 0.7, "runs up the side", 90],
        [20, 200, 120, 230, None, "שלום עולם"],
        [30, 250, 330, 280, 0.5, HOSTILE],
        [500, 300, 500, 310, 0.5, "no area"],
        [790, 590, 900, 640, 0.5, "over the edge"],
    ],
    (800, 608),
    (400, 300.2),
    144,
    text="left column one left two\n\nright column one right two\n\nruns up the side\n\nשלום עולם\n\n" + HOSTILE,
)
ORDER = [
    ["left column one", "left two-"],
    ["right column one", "right two"],
    ["runs up the side"],
    ["שלום עולם"],
]


@pytest.fixture
def filled(archive: Archive, tmp_path: Path) -> Archive:
    path = tmp_path / 'in "quotes" & more.pdf'
    path.write_bytes(b"%PDF")
    put(archive, path, "pdf", [PAGE, ReadPage(None, (160, 160), text="without places", engine="pixtral")])
    broken = archive.see(str(tmp_path / "broken.pdf"))
    failed = PageFailed("it hangs --> -- <x>", cause="timeout")
    (page_id,) = archive.ingest(broken or 0, [NewPage(0, sha("w"), 160, 160), NewPage(1, error=failed)])
    archive.read(page_id, PageFailed("no answer -- at all"))
    return archive


def exported(archive: Archive, tmp_path: Path, form: FolderFormat) -> dict[str, etree._Element]:
    summary = export(archive.db, tmp_path / form, form)
    assert (summary.pages, summary.pages_failed, summary.pages_unplaced) == (4, 2, 1)
    found = {str(file.relative_to(tmp_path / form)): file for file in (tmp_path / form).rglob("*") if file.is_file()}
    assert summary.files == len(found)
    return {name: etree.parse(file).getroot() for name, file in found.items()}


def is_in_place(words: list[tuple[str, list[int]]]) -> None:
    """The words of `left column one`, which is 240 pixels wide."""
    assert [word for word, _ in words] == ["left", "column", "one"]
    (left, top, _, bottom), *_, (_, _, right, _) = (box for _, box in words)
    assert (left, top, right, bottom) == (20, 30, 260, 60)
    starts = [box[0] for _, box in words]
    assert starts == sorted(starts) and abs(starts[1] - 70) < 12 and abs(starts[2] - 200) < 15


def test_alto_fits_the_standard(filled: Archive, tmp_path: Path) -> None:
    schema = etree.XMLSchema(etree.parse(STANDARDS / "alto-4-4-part.xsd"))
    pages = exported(filled, tmp_path, "alto")
    folder = 'in "quotes" & more.pdf.alto'
    assert sorted(pages) == sorted(["broken.pdf.alto/00001.xml", f"{folder}/00001.xml", f"{folder}/00002.xml"])
    for root in pages.values():
        schema.assertValid(root)
    root = pages[f"{folder}/00001.xml"]
    space = {"a": root.nsmap[None]}
    page = root.find(".//a:Page", space)
    assert (page.get("WIDTH"), page.get("HEIGHT"), page.get("PHYSICAL_IMG_NR"), page.get("PC")) == (
        "800",
        "601",
        "1",
        "0.9000",
    )
    lines = root.findall(".//a:TextLine", space)
    told = [" ".join(word.get("CONTENT") for word in line.findall("a:String", space)) for line in lines]
    assert told[:6] == [line for block in ORDER for line in block] and told[7] == "over the edge" and len(told) == 8
    assert told[6].startswith('a]]>b --> <script>alert("1")</script> &')
    strings = lines[0].findall("a:String", space)
    boxes = [[int(word.get(name)) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")] for word in strings]
    is_in_place([(w.get("CONTENT"), [x, y, x + dx, y + dy]) for w, (x, y, dx, dy) in zip(strings, boxes, strict=True)])
    assert {word.get("WC") for word in strings} == {"0.9000"}
    turned = lines[4]
    assert turned.getparent().get("ROTATION") == "90"
    assert turned.find("a:Shape/a:Polygon", space).get("POINTS") == "700,220 700,20 730,20 730,220"
    ups = [int(word.get("VPOS")) for word in turned.findall("a:String", space)]
    assert ups == sorted(ups, reverse=True)
    right, left = (int(word.get("HPOS")) for word in lines[5].findall("a:String", space))
    assert right > left and lines[5].find("a:String", space).get("WC") is None
    edge = lines[7].findall("a:String", space)[-1]
    assert float(edge.get("HPOS")) + float(edge.get("WIDTH")) <= 800
    empty = etree.tostring(pages["broken.pdf.alto/00001.xml"]).decode()
    assert "not read (engine): no answer - at all" in empty and "<String" not in empty


def test_page_xml_fits_its_schema(filled: Archive, tmp_path: Path) -> None:
    schema = etree.XMLSchema(etree.parse(STANDARDS / "page-2019-07-15.xsd"))
    pages = exported(filled, tmp_path, "page-xml")
    for root in pages.values():
        schema.assertValid(root)
    root = pages['in "quotes" & more.pdf.page/00001.xml']
    space = {"p": root.nsmap[None]}
    page = root.find("p:Page", space)
    assert (page.get("imageWidth"), page.get("imageHeight"), page.get("imageXResolution")) == ("800", "601", "144.00")
    assert page.get("imageFilename").endswith('in "quotes" & more.pdf')
    ids = [one.get("regionRef") for one in root.findall(".//p:RegionRefIndexed", space)]
    regions = {one.get("id"): one for one in root.findall(".//p:TextRegion", space)}
    in_order = [
        [line.find("p:TextEquiv/p:Unicode", space).text for line in regions[one].findall("p:TextLine", space)]
        for one in ids
    ]
    assert in_order[:4] == ORDER and set(ids) == set(regions)
    line = regions[ids[0]].find("p:TextLine", space)
    assert line.find("p:TextEquiv", space).get("conf") == "0.9000"
    words = []
    for word in line.findall("p:Word", space):
        (left, top), _, (right, bottom), _ = (
            map(int, p.split(",")) for p in word.find("p:Coords", space).get("points").split()
        )
        words.append((word.find("p:TextEquiv/p:Unicode", space).text, [left, top, right, bottom]))
    is_in_place(words)


def test_hocr_says_what_its_specification_asks_for(filled: Archive, tmp_path: Path) -> None:
    pages = exported(filled, tmp_path, "hocr")
    assert sorted(pages) == ["broken.pdf.hocr", 'in "quotes" & more.pdf.hocr']
    root = pages['in "quotes" & more.pdf.hocr']
    assert root.tag == f"{XHTML}html"
    named = {meta.get("name"): meta.get("content") for meta in root.iter(f"{XHTML}meta")}
    used = {one.get("class") for one in root.iter() if isinstance(one.tag, str) and one.get("class")}
    assert used | {"ocrp_wconf"} == set(named["ocr-capabilities"].split()) and named["ocr-system"].startswith(
        "pagepack "
    )
    first, second = root.findall(f".//{XHTML}div[@class='ocr_page']")
    assert re.fullmatch(
        r'image ".*in \\"quotes\\" & more\.pdf"; bbox 0 0 800 601; ppageno 0; scan_res 144 144', first.get("title")
    )
    assert second.get("title").endswith("bbox 0 0 160 160; ppageno 1") and not len(second)
    lines = first.findall(f".//{XHTML}span[@class='ocr_line']")
    assert ["".join(line.itertext()) for line in lines][:6] == [line for block in ORDER for line in block]
    assert not root.findall(f".//{XHTML}script") and lines[4].get("title") == "bbox 700 20 730 220; textangle 90"
    words = lines[0].findall(f"{XHTML}span[@class='ocrx_word']")
    facts = [re.fullmatch(r"bbox (\d+) (\d+) (\d+) (\d+); x_wconf 90", word.get("title") or "") for word in words]
    is_in_place(
        [(word.text or "", [*map(int, found.groups())]) for word, found in zip(words, facts, strict=True) if found]
    )
    identities = [one.get("id") for one in root.iter() if isinstance(one.tag, str) and one.get("id")]
    assert len(identities) == len(set(identities))
    assert "not read (timeout): it hangs" in etree.tostring(pages["broken.pdf.hocr"]).decode()


@pytest.mark.parametrize("form", ["alto", "hocr"])
def test_nothing_is_written_outside_out(archive: Archive, tmp_path: Path, form: FolderFormat) -> None:
    """Names come from strangers' archives, and a link may lie in `out` already."""
    for path in (
        "/in/a.pdf",
        "/in/../../evil.pdf",
        "/in/a.pdf.alto/00001.xml",
        "/in/x.zip!/../../../up.pdf",
        "/in/A.PDF",
    ):
        archive.file(path, ["text"])
    summary = export(archive.db, tmp_path / "out", form)
    assert summary.files == 5 and summary.pages_unplaced == 5
    assert {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*") if file.is_file()} <= {"out", "home"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = tmp_path / "linked"
    out.mkdir()
    for ending in ("alto", "hocr"):
        (out / f"b.pdf.{ending}").symlink_to(elsewhere)
    archive.execute("UPDATE sources SET gone_at = seen_at")
    archive.file("/in/b.pdf", ["text"])
    if form == "alto":
        with pytest.raises(UsageError, match="leads out of"):
            export(archive.db, out, form)
    assert not list(elsewhere.iterdir())


def test_a_condition_chooses_pages(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    for name in ("a{0}'s.pdf", "b.pdf", "c.pdf"):
        archive.file(f"/in/{name}", [f"{name} tide", f"{name} gull"])
    archive.see("/in/locked.pdf", rejection="encrypted")

    def texts(where: str, form: Any = "markdown") -> str:
        out = tmp_path / f"{abs(hash((where, form)))}"
        summary = export(archive.db, out, form, where=where, settings=settings)
        files = [out] if out.is_file() else sorted(out.rglob("*.md"))
        said = "".join(file.read_text() for file in files)
        assert summary.pages == len(re.findall("tide|gull", said))
        return " ".join(re.findall(r"[abc][^ /\"]*\.pdf (?:tide|gull)", said))

    assert texts("text LIKE '%gull'") == "a{0}'s.pdf gull b.pdf gull c.pdf gull"
    assert texts("source_path LIKE '%b.pdf' OR page_number = 1 -- a comment") == (
        "a{0}'s.pdf tide b.pdf tide b.pdf gull c.pdf tide"
    )
    assert texts("document_id IN (SELECT document_id FROM page_text WHERE text LIKE 'c%')", "jsonl") == (
        "c.pdf tide c.pdf gull"
    )
    assert texts("1 = 0") == ""


@pytest.mark.parametrize(
    "where",
    [
        "1 = 1); DELETE FROM sources; --",
        "nonsense = 1",
        "",
        "(SELECT 1",
        "1 = 1) UNION SELECT path, path, 1, path FROM sources WHERE (1 = 1 LIMIT",
        "x" * 50_000,
        "text = 'a\0b'",
    ],
)
def test_a_condition_that_is_none_is_told(archive: Archive, settings: Settings, tmp_path: Path, where: str) -> None:
    archive.file("/in/a.pdf", ["tide"])
    with pytest.raises(UsageError, match=r"^--where "):
        export(archive.db, tmp_path / "out", "markdown", where=where, settings=settings)
    assert archive.scalar("SELECT count(*) FROM sources") == 1 and not (tmp_path / "out").exists()


def test_a_condition_without_an_end_is_stopped(
    archive: Archive, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.where.LIMIT_SECONDS", 0.3)
    archive.file("/in/a.pdf", ["tide"])
    endless = "(WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n) > 1"
    with pytest.raises(UsageError, match=r"stopped after 0\.3 seconds"):
        export(archive.db, tmp_path / "out", "markdown", where=endless, settings=settings)
    with pytest.raises(UsageError, match=r"^--where was stopped after 0\.1 seconds .* --seconds$"):
        export(archive.db, tmp_path / "out", "markdown", where=endless, seconds=0.1, settings=settings)


def test_a_condition_stays_within_the_files_that_are_asked_for(
    archive: Archive, settings: Settings, tmp_path: Path
) -> None:
    """Also one whose parentheses close what is around it."""
    archive.file("/in/a.pdf", ["tide"])
    archive.execute("UPDATE sources SET gone_at = seen_at")
    archive.file("/in/b.pdf", ["gull"])
    export(archive.db, tmp_path / "out", "markdown", where="1 = 0) OR (1 = 1", settings=settings)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b.pdf.md"]


def grow(archive: Archive, documents: int, pages: int) -> None:
    """Documents with so many pages each, all of which have the latest answer."""
    archive.execute(
        f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {documents})
        INSERT INTO documents (public_id, content_hash, kind, size_bytes, page_count, batch_id, state, token, attempts,
                               crashes, next_attempt_at, detail)
        SELECT 'd{pages}-' || i, 'h{pages}-' || i, 'pdf', 1, {pages}, 1, 'ready', 1, 0, 0, 0, 'auto' FROM n"""
    )
    new = f"page_count = {pages} AND id > 1"
    archive.execute(
        f"""INSERT INTO sources (path, location, document_id, size_bytes, modified_ns, seen_at)
        SELECT '/in/' || id, 'file:///in/' || id, id, 1, 1, '2026-01-01 00:00:00.000000' FROM documents WHERE {new}"""
    )
    archive.execute(
        f"""INSERT INTO batch_sources (batch_id, source_id, document_id, seen_at) SELECT 1, id, document_id, seen_at
        FROM sources WHERE document_id IN (SELECT id FROM documents WHERE {new})"""
    )
    archive.execute(
        f"""WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {pages})
        INSERT INTO pages (document_id, page_index, image_hash, width_px, height_px, created_at)
        SELECT d.id, n.i, 'x', 320, 480, '2026-01-01 00:00:00.000000' FROM documents d, n
        WHERE {new.replace("id", "d.id")}"""
    )
    archive.execute(
        """INSERT INTO current_answers (page_id, prompt, answer_id) SELECT id, 'ocr',
        (SELECT max(id) FROM answer_versions) FROM pages WHERE id NOT IN (SELECT page_id FROM current_answers)"""
    )


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.only("sqlite")
def test_memory_does_not_grow_with_the_archive(archive: Archive, settings: Settings, tmp_path: Path) -> None:
    """Neither with the pages of a document nor with the number of files, also under a condition."""
    line = [10, 10, 300, 30, 0.9, "tide"]
    (page_id,) = archive.ingest(archive.see("/in/0.pdf") or 0, [NewPage(0, sha("0"), 320, 480)])
    archive.read(page_id, lambda prompt: answer("tide", details={"lines": [line]}))

    def written(form: Any) -> int:
        """The memory that it took."""
        return peak_of(lambda: export(archive.db, tmp_path / form, form))

    def walked() -> int:
        chosen = Selection(archive.db, None, None, Where(settings, "page_number > 0"))
        return peak_of(lambda: sum(1 for _ in chosen.sources()))

    grow(archive, 1, 250)
    few = {form: max(written(form), 500_000) for form in ("jsonl", "hocr")}
    grow(archive, 1, 700)
    many = {form: written(form) for form in ("jsonl", "hocr")}
    assert all(many[form] < few[form] + 250_000 for form in few), (few, many)
    grow(archive, 250, 1)
    small = walked()
    grow(archive, 600, 2)
    assert walked() < small + 250_000, small
