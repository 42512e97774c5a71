"""ALTO 4.4 (https://www.loc.gov/standards/alto/): what libraries keep beside their scans. A file a page."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline import __version__
from pipeline.export.placed import PlacedPage
from pipeline.export.rows import ExportedSource
from pipeline.export.xml import Box, LineBox, attribute, blocks, comment, not_read, text

_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"


def alto(source: ExportedSource, page: PlacedPage) -> Iterator[str]:
    """Piece by piece; where the page was not read, a comment says why it is empty."""
    width, height = page.shown_px
    engine = ", ".join(filter(None, (page.engine, page.model)))
    yield f"""<?xml version="1.0" encoding="UTF-8"?>
<alto xmlns="{_NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="{_NAMESPACE} https://www.loc.gov/standards/alto/v4/alto-4-4.xsd" SCHEMAVERSION="4.4">
<Description>
<MeasurementUnit>pixel</MeasurementUnit>
<sourceImageInformation><fileName>{text(source.source_path)}</fileName></sourceImageInformation>
<Processing ID="reading"><processingStepDescription>{text(engine or "none")}</processingStepDescription>\
<processingSoftware><softwareName>pagepack</softwareName><softwareVersion>{__version__}</softwareVersion>\
</processingSoftware></Processing>
</Description>
<Layout>
"""
    sure = "" if page.confidence is None else f' PC="{page.confidence:.4f}"'
    sides = f'WIDTH="{width}" HEIGHT="{height}"'
    yield f'<Page ID="page_{page.page_number}" PHYSICAL_IMG_NR="{page.page_number}" {sides}{sure}>\n'
    yield f'<PrintSpace HPOS="0" VPOS="0" {sides}>\n'
    if page.text is None:
        yield comment(not_read(page)) + "\n"
    for block in blocks(page):
        turned = f' ROTATION="{block.angle:g}"' if block.angle else ""
        yield f'<TextBlock ID="{block.id}" {_place(block.box)}{turned}>\n'
        for line in block.lines:
            yield _line(line)
        yield "</TextBlock>\n"
    yield "</PrintSpace>\n</Page>\n</Layout>\n</alto>\n"


def _line(line: LineBox) -> str:
    sure = "" if line.confidence is None else f' WC="{line.confidence:.4f}"'
    shape = f'<Shape><Polygon POINTS="{line.points}"/></Shape>' if line.angle else ""
    words = "<SP/>".join(
        f'<String ID="{word.id}" {_place(word.box)} CONTENT={attribute(word.text)}{sure}/>' for word in line.words
    )
    return f'<TextLine ID="{line.id}" {_place(line.box)}>{shape}{words}</TextLine>\n'


def _place(box: Box) -> str:
    left, top, right, bottom = box
    return f'HPOS="{left}" VPOS="{top}" WIDTH="{right - left}" HEIGHT="{bottom - top}"'
