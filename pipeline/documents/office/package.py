"""The ZIP of an office document: its XML parts, what they refer to, and pictures as HTML."""

from __future__ import annotations

import base64
import html
import posixpath
import zipfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from pipeline.errors import DocumentRejected

MOST_PART_BYTES = 256 * 2**20  # of one XML part, unpacked; its tree takes some times as much
MOST_PICTURE_BYTES = 64 * 2**20
MOST_HTML_CHARACTERS = 64 * 2**20
_PICTURES = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


@dataclass(frozen=True, slots=True)
class Flowing:
    """HTML and the size of the pages on which it is laid out."""

    html: bytes
    width_pt: float = 595.0  # A4
    height_pt: float = 842.0
    notes: tuple[str, ...] = ()  # what is missing, in words


class Package:
    """An open document."""

    def __init__(self, path: str | IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(path)
        # Parts are named without regard to case, and some programs part their names with `\\`.
        self._parts = {_key(name): name for name in reversed(self._zip.namelist())}
        self._picture_bytes = 0

    def names(self, start: str) -> list[str]:
        return sorted((name for name in self._parts if name.startswith(start)), key=lambda name: (len(name), name))

    def main(self, name: str) -> str:
        """The part that the package names as its document; some programs call it otherwise than most."""
        tree = self.xml("_rels/.rels")
        for one in tree if tree is not None else ():
            target = one.get("Target", "").lstrip("/")
            if one.get("Type", "").endswith("/officeDocument") and _key(target) in self._parts:
                return target
        return name

    def data(self, name: str) -> bytes | None:
        """The part of this name; None where there is none."""
        part = self._parts.get(_key(name))
        if part is None:
            return None
        if (size := self._zip.getinfo(part).file_size) > MOST_PART_BYTES:
            raise DocumentRejected(f"its part {name} unpacks to {size:,} bytes: too many", cause="too-large")
        if self._zip.getinfo(part).flag_bits & 1:
            raise DocumentRejected("the document is encrypted; remove its password", cause="encrypted")
        return self._zip.read(part)

    def xml(self, name: str) -> Element | None:
        """The part of this name as a tree; None where there is none."""
        data = self.data(name)
        return None if data is None else ElementTree.fromstring(data)

    def related(self, name: str) -> dict[str, tuple[str, str]]:
        """Id → type and name of the parts that this one refers to."""
        folder, _, last = name.rpartition("/")
        tree = self.xml(f"{folder}/_rels/{last}.rels")
        if tree is None:
            return {}
        return {
            one.get("Id", ""): (
                one.get("Type", "").rpartition("/")[2],
                posixpath.normpath(posixpath.join("/", folder, one.get("Target", ""))).lstrip("/"),
            )
            for one in tree
            if one.get("TargetMode") != "External"
        }

    def picture(self, name: str) -> str:
        """An `<img>`; what MuPDF does not draw, such as EMF, is said in words."""
        part = self._parts.get(_key(name))
        if part is None:
            return ""
        self._picture_bytes += (size := self._zip.getinfo(part).file_size)
        if size > MOST_PICTURE_BYTES or self._picture_bytes > 4 * MOST_PICTURE_BYTES:
            return f"<p>[picture {html.escape(name.rpartition('/')[2])} of {size:,} bytes: too large]</p>"
        data = self._zip.read(part)
        kind = next((kind for magic, kind in _PICTURES.items() if data.startswith(magic)), None)
        if kind is None:
            return f"<p>[picture {html.escape(name.rpartition('/')[2])}: of a kind that is not drawn]</p>"
        return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}"/>'

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()


def _key(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").casefold()


def page(pieces: list[str], style: str = "") -> bytes:
    """HTML of a whole document."""
    if sum(map(len, pieces)) > MOST_HTML_CHARACTERS:
        raise DocumentRejected("the document holds more text than is laid out", cause="too-large")
    css = "td, th { border: 0.5pt solid #888; padding: 2pt 5pt; } td p { margin: 0; } " + style
    head = f'<!DOCTYPE html><html><head><meta charset="utf-8"/><style>{css}</style></head><body>'
    return "".join([head, *pieces, "</body></html>"]).encode("utf-8", "replace")


def on_pages_of_their_own(parts: list[str]) -> list[str]:
    """Parts of which each begins a page; MuPDF knows no break before."""
    breaks = [' style="page-break-after: always"'] * (len(parts) - 1) + [""]
    return [f"<div{ends}>{part}</div>" for part, ends in zip(parts, breaks, strict=False)]


def local(element: Element) -> str:
    """The name of an element without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Element, name: str) -> str | None:
    """The value of an attribute, whatever its namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return None


def paragraph(text: str, level: int = 0) -> str:
    """Of text that is HTML already; `level` is that of a heading, from 1."""
    tag = f"h{min(level, 6)}" if level else "p"
    return f"<{tag}>{text or '&#160;'}</{tag}>"


def remark(author: str, text: str) -> str:
    """What somebody wrote beside the text, which is HTML already."""
    return f"<div><p>[{html.escape(' '.join(['comment', *author.split()]))}]</p>{text}</div>"


def table(rows: list[list[str]]) -> str:
    """Of cells that are HTML already; a cell may begin with `<td`, and then is one."""
    cells = ("".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) for row in rows)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
