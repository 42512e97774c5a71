"""hOCR 1.2 (https://kba.github.io/hocr-spec/1.2/): HTML that says where each word stands. A file a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline import __version__
from pipeline.export.placed import PlacedPage
from pipeline.export.rows import ExportedSource
from pipeline.export.xml import Block, Box, LineBox, attribute, blocks, comment, not_read, text

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<title>{title}</title>
<meta name="ocr-system" content="pagepack {version}"/>
<meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_line ocrx_word ocrp_wconf"/>
<meta name="ocr-number-of-pages" content="{pages}"/>
</head>
<body>
"""


def hocr(source: ExportedSource, pages: Iterable[PlacedPage]) -> Iterator[str]:
    """Piece by piece; a page that was not read is there, and a comment says why it is empty."""
    yield _HEAD.format(title=text(source.source_path), version=__version__, pages=source.page_count or 0)
    for page in pages:
        image = source.source_path.replace("\\", "\\\\").replace('"', '\\"')
        facts = [
            f'image "{image}"',
            f"bbox 0 0 {page.shown_px[0]} {page.shown_px[1]}",
            f"ppageno {page.page_number - 1}",
        ]
        if page.dpi:
            facts.append(f"scan_res {page.dpi:.0f} {page.dpi:.0f}")
        yield f'<div class="ocr_page" id="page_{page.page_number}" title={attribute("; ".join(facts))}>\n'
        if page.text is None:
            yield comment(not_read(page)) + "\n"
        for block in blocks(page):
            yield from _block(block)
        yield "</div>\n"
    yield "</body>\n</html>\n"


def _block(block: Block) -> Iterator[str]:
    yield f'<div class="ocr_carea" id="{block.id}" title="{_bbox(block.box)}">\n'
    for line in block.lines:
        yield _line(line)
    yield "</div>\n"


def _line(line: LineBox) -> str:
    facts = _bbox(line.box) + (f"; textangle {line.angle:g}" if line.angle else "")
    sure = "" if line.confidence is None else f"; x_wconf {100 * line.confidence:.0f}"
    words = " ".join(
        f'<span class="ocrx_word" id="{word.id}" title="{_bbox(word.box)}{sure}">{text(word.text)}</span>'
        for word in line.words
    )
    return f'<span class="ocr_line" id="{line.id}" title="{facts}">{words}</span>\n'


def _bbox(box: Box) -> str:
    return "bbox " + " ".join(map(str, box))
