"""PAGE XML 2019-07-15 (https://github.com/PRImA-Research-Lab/PAGE-XML): regions, lines and words. A file a page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pipeline import __version__
from pipeline.export.placed import PlacedPage
from pipeline.export.rows import ExportedSource
from pipeline.export.xml import Block, LineBox, attribute, blocks, comment, not_read, text

_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"


def page_xml(source: ExportedSource, page: PlacedPage) -> Iterator[str]:
    """Piece by piece; where the page was not read, a comment says why it is empty."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    width, height = page.shown_px
    dpi = f"{page.dpi:.2f}" if page.dpi else ""
    resolution = f' imageXResolution="{dpi}" imageYResolution="{dpi}" imageResolutionUnit="PPI"' if dpi else ""
    sure = "" if page.confidence is None else f' conf="{page.confidence:.4f}"'
    found = list(blocks(page))
    yield f"""<?xml version="1.0" encoding="UTF-8"?>
<PcGts xmlns="{_NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="{_NAMESPACE} {_NAMESPACE}/pagecontent.xsd">
<Metadata><Creator>pagepack {__version__}</Creator><Created>{now}</Created><LastChange>{now}</LastChange></Metadata>
<Page imageFilename={attribute(source.source_path)} imageWidth="{width}" imageHeight="{height}"\
{resolution}{sure}>
"""
    if page.text is None:
        yield comment(not_read(page)) + "\n"
    if found:
        yield '<ReadingOrder><OrderedGroup id="order">\n'
        for index, block in enumerate(found):
            yield f'<RegionRefIndexed index="{index}" regionRef="{block.id}"/>\n'
        yield "</OrderedGroup></ReadingOrder>\n"
    for block in found:
        yield from _region(block)
    yield "</Page>\n</PcGts>\n"


def _region(block: Block) -> Iterator[str]:
    left, top, right, bottom = block.box
    corners = f"{left},{top} {right},{top} {right},{bottom} {left},{bottom}"
    yield f'<TextRegion id="{block.id}"><Coords points="{corners}"/>\n'
    for line in block.lines:
        yield _line(line)
    yield f"{_said(chr(10).join(line.text for line in block.lines), None)}</TextRegion>\n"


def _line(line: LineBox) -> str:
    words = "".join(
        f'<Word id="{word.id}"><Coords points="{word.points}"/>{_said(word.text, line.confidence)}</Word>'
        for word in line.words
    )
    said = _said(line.text, line.confidence)
    return f'<TextLine id="{line.id}"><Coords points="{line.points}"/>{words}{said}</TextLine>\n'


def _said(value: str, confidence: float | None) -> str:
    sure = "" if confidence is None else f' conf="{confidence:.4f}"'
    return f"<TextEquiv{sure}><Unicode>{text(value)}</Unicode></TextEquiv>"
