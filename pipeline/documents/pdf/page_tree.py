"""The page tree of a PDF, walked here and made anew where MuPDF would lose pages over it.

MuPDF believes /Count: with too small a number it shows the first pages alone, with 0 none, and a cycle costs all pages
behind it. The walk takes what is there. A page is a dictionary below the root, whatever the numbers say:

    Pages /Count 1 ── Kids ── Page, Page, 99 0 R (not in the file), Pages ── Kids ── Page, Pages (the root again)
    found: page, page, a lost one, page       mended: "/Count says 1 …", "a part of the page tree holds itself"

Each inner node is visited once, so neither a cycle nor a tree of shared nodes that unfolds to 2^40 pages takes long.
Where the walk agrees with /Count and met nothing odd, the document stays untouched. Else it gets a flat tree: MuPDF
then draws by number as ever. Nothing is written to the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pymupdf as _pymupdf

mupdf: Any = _pymupdf.mupdf
_INHERITED = ("Resources", "MediaBox", "CropBox", "Rotate")
_OF_PAGES = ("Contents", "MediaBox", "Resources", "Parent", "Annots")
_MAX_SCANNED_OBJECTS = 1_000_000  # of a file whose tree is gone: about a second


@dataclass
class Tree:
    """What the walk found."""

    pages: list[Any] = field(default_factory=list)  # a dictionary for each page, in order; None for a lost one
    inherited: list[dict[str, Any]] = field(default_factory=list)  # for each page, what the nodes above it say
    notes: list[str] = field(default_factory=list)  # what is odd, in words
    missing: int = 0  # kids that are not in the file
    is_flat_needed: bool = False

    def note(self, text: str) -> None:
        self.is_flat_needed = True
        if text not in self.notes:
            self.notes.append(text)


def mend_page_tree(pdf: Any, max_pages: int) -> Tree:
    """Walk the tree of a `PdfDocument`, and replace it where pages would be lost.

    No more than `max_pages` + 1 pages are looked for: the document is refused then.
    """
    catalog = mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Root")
    root = mupdf.pdf_dict_gets(catalog, "Pages")
    tree = _walk(root, max_pages)
    stated = _stated_count(root)
    if not any(page is not None for page in tree.pages) or not _is_node(root):
        tree = _without_tree(pdf, tree, max_pages)
    elif tree.missing and len(tree.pages) - tree.missing >= (stated or 0):  # nobody counted them
        kept = [index for index, page in enumerate(tree.pages) if page is not None]
        tree.pages = [tree.pages[index] for index in kept]
        tree.inherited = [tree.inherited[index] for index in kept]
    if tree.pages and len(tree.pages) <= max_pages and stated != len(tree.pages) and _is_node(root):
        counts = "does not count its pages" if stated is None else f"counts {stated:,} pages"
        tree.note(f"the page tree {counts}; found: {len(tree.pages):,}")
    if tree.is_flat_needed and tree.pages and mupdf.pdf_is_dict(catalog):
        _replace(pdf, catalog, tree)
    return tree


def _walk(root: Any, max_pages: int) -> Tree:
    """Depth first, with a stack of our own: Python's would overflow long before the file ends."""
    tree = Tree()
    visited: set[int] = set()
    stack: list[tuple[Any, int, int, int, dict[str, Any]]] = []  # kids, next kid, their number, parent, inherited
    if not mupdf.pdf_is_dict(root):
        tree.note("the page tree is not in the file")
        return tree
    if not _is_node(root):
        tree.note("the root of the page tree is a page")
        if any(not mupdf.pdf_is_null(mupdf.pdf_dict_gets(root, name)) for name in _OF_PAGES):
            tree.pages.append(root)
            tree.inherited.append({})
        return tree
    _enter(root, {}, visited, stack, tree, is_root=True)
    while stack:
        kids, index, count, parent, inherited = stack.pop()
        if kids is None:  # behind all that lies below a node: how many pages there were before, and it counts
            found = len(tree.pages) - index
            if count != found and len(tree.pages) <= max_pages:
                tree.note(f"a part of the page tree counts {count:,} pages; found: {found:,}")
            continue
        if index + 1 < count:
            stack.append((kids, index + 1, count, parent, inherited))
        if len(tree.pages) > max_pages:
            break
        if index >= count:
            continue
        kid = mupdf.pdf_array_get(kids, index)
        if not mupdf.pdf_is_dict(kid):
            number = mupdf.pdf_to_num(kid)
            tree.note(f"the page tree names {f'object {number}' if number else 'what is no page'}: no page is there")
            tree.pages.append(None)
            tree.inherited.append({})
            tree.missing += 1
        elif _is_node(kid):
            _enter(kid, inherited, visited, stack, tree)
        else:
            tree.pages.append(kid)
            tree.inherited.append(inherited)
            _check_type(kid, "Page", tree)
            above = mupdf.pdf_dict_gets(kid, "Parent")
            if parent and mupdf.pdf_to_num(above) != parent and mupdf.pdf_to_num(above) not in visited:
                tree.note("a page does not name its place in the page tree")
    return tree


def _enter(
    node: Any, inherited: dict[str, Any], visited: set[int], stack: list[Any], tree: Tree, *, is_root: bool = False
) -> None:
    number = mupdf.pdf_to_num(node)
    if number:
        if number in visited:
            tree.note("a part of the page tree holds itself, or occurs twice")
            return
        visited.add(number)
    _check_type(node, "Pages", tree)
    own = {name: mupdf.pdf_dict_gets(node, name) for name in _INHERITED}
    kids = mupdf.pdf_dict_gets(node, "Kids")
    if not mupdf.pdf_is_array(kids):  # one page, without its brackets
        tree.note("the kids of the page tree are no list")
        kid, kids = kids, mupdf.pdf_new_array(mupdf.pdf_get_bound_document(node), 1)
        mupdf.pdf_array_push(kids, kid)
    if not is_root and (stated := _stated_count(node)) is not None:
        stack.append((None, len(tree.pages), stated, 0, {}))
    above = inherited | {name: value for name, value in own.items() if not mupdf.pdf_is_null(value)}
    stack.append((kids, 0, mupdf.pdf_array_len(kids), number, above))


def _check_type(entry: Any, name: str, tree: Tree) -> None:
    if mupdf.pdf_to_name(mupdf.pdf_dict_gets(entry, "Type")) != name:  # MuPDF goes by it
        tree.note("an entry of the page tree does not say what it is")


def _is_node(entry: Any) -> bool:
    """Does it hold kids rather than content? A page that calls itself a node, and the reverse, are told by what they
    hold."""
    kids = mupdf.pdf_dict_gets(entry, "Kids")
    if not mupdf.pdf_is_array(kids) and not mupdf.pdf_is_dict(kids):
        return False
    return bool(mupdf.pdf_is_null(mupdf.pdf_dict_gets(entry, "Contents")))


def _stated_count(root: Any) -> int | None:
    count = mupdf.pdf_dict_gets(root, "Count")
    return int(mupdf.pdf_to_int(count)) if mupdf.pdf_is_int(count) else None


def _without_tree(pdf: Any, tree: Tree, max_pages: int) -> Tree:
    """The tree that the pages of the file say they belong to; else all of them, in the order of their numbers."""
    found = _scan(pdf, max_pages)
    top = _top(found[0]) if found else None
    if top is not None:
        above = _walk(top, max_pages)
        numbers = {mupdf.pdf_to_num(page) for page in above.pages if page is not None}
        if numbers.issuperset(mupdf.pdf_to_num(page) for page in found):
            return Tree(above.pages, above.inherited, [*tree.notes, *above.notes], above.missing, True)
    if len(found) <= sum(page is not None for page in tree.pages):
        return tree
    inherited = [
        {name: mupdf.pdf_dict_get_inheritable(page, mupdf.pdf_new_name(name)) for name in _INHERITED} for page in found
    ]
    note = f"{len(found):,} pages were found without it, in the order of their numbers"
    return Tree(found, inherited, [*tree.notes, note], 0, True)


def _top(page: Any) -> Any | None:
    """The uppermost node over a page, by what each says of its parent."""
    top, seen = None, set()
    while mupdf.pdf_is_dict(page := mupdf.pdf_dict_gets(page, "Parent")) and mupdf.pdf_to_num(page) not in seen:
        seen.add(mupdf.pdf_to_num(page))
        top = page if _is_node(page) else top
    return top


def _scan(pdf: Any, max_pages: int) -> list[Any]:
    """Every page object of the file, whether a tree leads there or not."""
    found = []
    for number in range(1, min(mupdf.pdf_xref_len(pdf), _MAX_SCANNED_OBJECTS)):
        entry = mupdf.pdf_new_indirect(pdf, number, 0)
        if mupdf.pdf_is_dict(entry) and mupdf.pdf_to_name(mupdf.pdf_dict_gets(entry, "Type")) == "Page":
            found.append(entry)
            if len(found) > max_pages:
                break
    return found


def _replace(pdf: Any, catalog: Any, tree: Tree) -> None:
    kids = mupdf.pdf_new_array(pdf, len(tree.pages))
    root = mupdf.pdf_add_object(pdf, mupdf.pdf_new_dict(pdf, 4))
    mupdf.pdf_dict_puts(root, "Type", mupdf.pdf_new_name("Pages"))
    for index, (page, inherited) in enumerate(zip(tree.pages, tree.inherited, strict=True)):
        if page is None:  # so that the others keep their numbers
            page = mupdf.pdf_new_dict(pdf, 2)
        mupdf.pdf_dict_puts(page, "Type", mupdf.pdf_new_name("Page"))
        for name, value in inherited.items():
            if mupdf.pdf_is_null(mupdf.pdf_dict_gets(page, name)) and not mupdf.pdf_is_null(value):
                mupdf.pdf_dict_puts(page, name, value)
        if not mupdf.pdf_is_indirect(page):
            page = mupdf.pdf_add_object(pdf, page)
        mupdf.pdf_dict_puts(page, "Parent", root)
        mupdf.pdf_array_push(kids, page)
        if tree.pages[index] is not None:
            tree.pages[index] = page
    mupdf.pdf_dict_puts(root, "Kids", kids)
    mupdf.pdf_dict_puts(root, "Count", mupdf.pdf_new_int(len(tree.pages)))
    mupdf.pdf_dict_puts(catalog, "Pages", root)
