"""What a mail says and carries, and the page that shows it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.documents.code_of_html import codec_of

SHOWN_HEADERS = ("From", "To", "Cc", "Date", "Subject")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Body(NamedTuple):
    """A part of what a mail says."""

    is_html: bool
    text: str


@dataclass(slots=True)
class Mail:
    """A mail that was read."""

    headers: dict[str, str]
    bodies: list[Body] = field(default_factory=list)  # in the order in which they are shown
    attachments: list[tuple[str, Callable[[], bytes]]] = field(default_factory=list)  # name, content

    def attach(self, name: str, content: Callable[[], bytes], *, word: str = "part", ending: str = "") -> None:
        """Under a safe name: programs leave whole paths in it, and where those lead says nothing."""
        name = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
        if not name:
            name = f"{word}-{len(self.attachments) + 1}{ending}"
        elif word != "part" and not name.lower().endswith(ending):
            name += ending
        self.attachments.append((name, content))


def decoded(text: bytes, charset: str | None) -> str:
    """Text in the code that its part names, else UTF-8, else that of Western Windows."""
    stated = codec_of(charset or "")
    is_ascii = (charset or "").strip().lower() in ("ascii", "us-ascii")  # said by many who send UTF-8
    for name in ("utf-8",) if is_ascii or not stated else (stated, "utf-8"):
        try:
            return text.decode(name)
        except (LookupError, UnicodeError):
            continue
    try:  # some of it is damaged, or cut
        return text.decode(stated or "cp1252", "replace")
    except (LookupError, UnicodeError):
        return text.decode("cp1252", "replace")


def as_html(mail: Mail) -> bytes:
    """The mail as a page shows it: who, to whom, when, about what, what is attached, and what it says."""
    lines = [(name, mail.headers[name]) for name in SHOWN_HEADERS if mail.headers.get(name)]
    if mail.attachments:
        lines.append(("Attached", ", ".join(name for name, _ in mail.attachments)))
    head = "".join(f"<p><b>{name}:</b> {html.escape(text)}</p>" for name, text in lines) + "<hr/>"
    text = "".join(body.text if body.is_html else _paragraph(body.text) for body in mail.bodies)
    found = re.search(r"<body[^>]*>", text, re.IGNORECASE) if mail.bodies and mail.bodies[0].is_html else None
    at = found.end() if found else 0
    text = text[:at] + head + text[at:] if found else f"<html><body>{head}{text}</body></html>"
    # Whatever the HTML says of its own encoding was of the bytes that it came in.
    text = re.sub(r"<meta[^>]*charset[^>]*>", "", text, flags=re.IGNORECASE)
    return BYTE_ORDER_MARK + text.encode("utf-8", "replace")


def _paragraph(text: str) -> str:
    lines = html.escape(text).expandtabs().splitlines()
    return "<p>" + "<br/>".join(re.sub("  +", lambda run: "\u00a0" * len(run[0]), line) for line in lines) + "</p>"
