"""A PPTX: each slide begins a page, with its texts, tables, pictures, charts and the speaker's notes."""

from __future__ import annotations

import html
from xml.etree.ElementTree import Element

from pipeline.documents.office.package import (
    Flowing,
    Package,
    attribute,
    local,
    on_pages_of_their_own,
    page,
    paragraph,
    remark,
    table,
)
from pipeline.documents.office.sheets import chart

_MAIN = "ppt/presentation.xml"


def read(package: Package) -> Flowing:
    main = package.main(_MAIN)
    deck = package.xml(main)
    if deck is None:
        raise KeyError(main)
    related = package.related(main)
    listed = [related.get(attribute(one, "id") or "", ("", ""))[1] for one in deck.iter() if local(one) == "sldId"]
    # `sldId` has an `id` of its own beside that of the relation.
    ids = [value for one in deck.iter() if local(one) == "sldId" for key, value in one.attrib.items() if "}" in key]
    names = [related[key][1] for key in ids if key in related] or [name for name in listed if name]
    slides = [_slide(package, name) for name in names or package.names("ppt/slides/slide")]
    return Flowing(page(on_pages_of_their_own(slides)), 842.0, 595.0)


def _slide(package: Package, name: str) -> str:
    tree = package.xml(name)
    if tree is None:
        return ""
    related = package.related(name)
    pieces = _shapes(package, tree, related)
    for kind, target in related.values():
        if kind in ("chart", "diagramData"):
            pieces.append(chart(package, target))
        elif kind == "comments" and (remarks := package.xml(target)) is not None:
            words = [one.text or "" for one in remarks.iter() if local(one) in ("text", "t")]
            pieces += [remark("", paragraph(html.escape(text))) for text in words if text.strip()]
        elif kind == "notesSlide" and (notes := package.xml(target)) is not None:
            words = [
                text
                for shape in notes.iter()
                if local(shape) == "sp" and _role(shape) == "body"
                for text in _texts(shape)
            ]
            pieces += ["<hr/>", *map(paragraph, words)] if words else []
    return "".join(pieces) or "&#160;"


def _shapes(package: Package, element: Element, related: dict[str, tuple[str, str]]) -> list[str]:
    pieces = []
    for one in element:
        name = local(one)
        if name == "sp":
            level = 2 if _role(one) in ("title", "ctrTitle") else 0
            pieces += [paragraph(text, level) for text in _texts(one)]
        elif name == "tbl":
            rows = [
                [" ".join(_texts(cell)) for cell in row if local(cell) == "tc"] for row in one if local(row) == "tr"
            ]
            pieces.append(table(rows))
        elif name == "blip":
            target = related.get(attribute(one, "embed") or "")
            pieces.append(package.picture(target[1]) if target else "")
        elif name != "Fallback":
            pieces += _shapes(package, one, related)
        if name == "sp":  # filled with a picture
            pieces += _shapes(package, one, related) if any(local(below) == "blip" for below in one.iter()) else []
    return pieces


def _role(shape: Element) -> str:
    return next((one.get("type", "body") for one in shape.iter() if local(one) == "ph"), "")


def _texts(element: Element) -> list[str]:
    """Its paragraphs that say something, as HTML."""
    found = []
    for part in (one for one in element.iter() if local(one) == "p"):
        pieces = [
            html.escape(one.text or "") if local(one) == "t" else "<br/>"
            for one in part.iter()
            if local(one) in ("t", "br")
        ]
        if "".join(pieces).strip():
            found.append("".join(pieces))
    return found
