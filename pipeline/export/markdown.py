"""A document as Markdown: front matter in YAML, then each page's text behind a marker."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator

from pipeline.export.rows import NOT_DRAWN, ExportedPage, ExportedSource, ReadBy


def markdown(
    source: ExportedSource,
    pages: Iterable[ExportedPage],
    read_by: Callable[[str], ReadBy],
    seen: Callable[[ExportedPage], None] = lambda page: None,
) -> Iterator[str]:
    """Front matter, then for each page a marker and its text, prompt after prompt.

    What was `read_by` whom under a prompt is that of the whole document. A text that itself holds such a marker at the
    start of a line gets a backslash before it.
    """
    groups = itertools.groupby(pages, key=lambda page: page.prompt)
    ahead = next(groups, None)
    first = next(ahead[1], None) if ahead else None
    head: dict[str, str | int | float | None]
    head = {"source_path": source.source_path, "document_id": source.document_id, "pages": source.page_count}
    if first is not None:
        by = read_by(str(first.prompt))
        head |= {"prompt": first.prompt, "engine": by.engine, "model": by.model, "confidence": by.confidence}
    yield "---\n" + "".join(f"{key}: {_yaml(value)}\n" for key, value in head.items()) + "---\n"
    if source.cause is not None:
        yield f"\n> **Not read** ({source.cause}): {_one_line(source.reason)}\n"
    if source.waits:
        yield f"\n> **Not read** (waiting): {NOT_DRAWN}\n"
    if ahead is None or first is None:
        return
    rest: Iterator[tuple[str, Iterable[ExportedPage]]] = itertools.chain(
        [(ahead[0], itertools.chain([first], ahead[1]))], groups
    )
    for number, (prompt, group) in enumerate(rest):
        if number or prompt != "ocr":
            yield f"\n<!-- prompt {_one_line(prompt)} -->\n"
        for page in group:
            seen(page)
            yield f"\n<!-- page {page.page_number} -->\n\n"
            if page.text is None:
                yield f"> **Page {page.page_number} not read** ({page.cause}): {_one_line(page.reason)}\n"
            else:
                yield re.sub(r"(?m)^(\\*<!-- (?:page|prompt) )", r"\\\1", page.text) + "\n"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("-->", "--&gt;")


def _yaml(value: str | float | None) -> str:
    """A double-quoted YAML scalar where it is text: what cannot be printed is escaped."""
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    return '"' + "".join(_yaml_character(character) for character in value) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
