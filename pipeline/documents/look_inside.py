"""Kinds that the first bytes do not tell apart: a ZIP may be an office document, and an OLE file a mail."""

from __future__ import annotations

import re
from itertools import islice
from typing import BinaryIO

from pipeline.documents.containers.members import UNPACK_ERRORS, MembersLost
from pipeline.documents.containers.zip_files import ZipMembers
from pipeline.documents.files import Kind, rejected
from pipeline.errors import DocumentRejected

NEED_A_LOOK = frozenset({Kind.ZIP, Kind.MSG})
_MOST_LOOKED_AT = 1_000  # an office document has its main part among the first
_MAIN_PARTS = {"word/document": Kind.DOCX, "xl/workbook": Kind.XLSX, "ppt/presentation": Kind.PPTX}
_MAIN_PART = re.compile(r"(word/document|xl/workbook|ppt/presentation)\d*\.xml", re.IGNORECASE)
_NOT_READ = {
    "xl/workbook.bin": "is a binary workbook (XLSB), which is not read; save it as XLSX",
    "fixeddocseq.fdseq": "is an XPS document, which is not read; convert it to PDF",
    "fixeddocumentsequence.fdseq": "is an XPS document, which is not read; convert it to PDF",
}
_MIMETYPES = {
    b"application/epub+zip": Kind.EPUB,
    b"application/vnd.oasis.opendocument.text": Kind.ODT,
    b"application/vnd.oasis.opendocument.spreadsheet": Kind.ODS,
    b"application/vnd.oasis.opendocument.presentation": Kind.ODP,
    b"application/vnd.oasis.opendocument.graphics": Kind.ODG,
}
_OUTLOOK = bytes.fromhex("0b0d020000000000c000000000000046")  # class of the root of a message
_PROPERTIES = "__properties_version1.0".encode("utf-16-le")
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_MAIN_STREAMS = {
    "WordDocument": Kind.DOC,
    "Workbook": Kind.XLS,
    "PowerPoint Document": Kind.PPT,
}
_DIRECTORY_BYTES = 1 << 16


def kind_inside(kind: Kind, file: BinaryIO, name: str) -> Kind | None:
    """The kind of a file that begins as one of `NEED_A_LOOK`; None where it is of none that is read.

    Raises:
        DocumentRejected: it is an office document with a password, or of a kind that is not read.
    """
    return _of_zip(file, name) if kind is Kind.ZIP else _of_ole(file, name) if kind is Kind.MSG else kind


def _of_zip(file: BinaryIO, name: str) -> Kind:
    has_types, has_book, has_package, main = False, False, False, None
    try:
        for member in islice(ZipMembers(file).members(), _MOST_LOOKED_AT):
            if member.name == "mimetype" and (member.size_bytes or 0) < 100 and member.refusal is None:
                with member.open() as stream:
                    said = stream.read(100).strip()
                for mimetype, kind in _MIMETYPES.items():
                    if said in (mimetype, mimetype + b"-template"):
                        return kind
            has_types |= member.name == "[Content_Types].xml"
            has_book |= member.name == "META-INF/container.xml"
            has_package |= member.name.endswith(".opf")
            if found := _MAIN_PART.fullmatch(member.name):
                main = main or _MAIN_PARTS[found[1].lower()]
            if has_types and (fact := _NOT_READ.get(member.name.lower())):
                raise rejected("unsupported", name, fact)
    except (MembersLost, *UNPACK_ERRORS) as error:  # its members will say what is wrong with it
        if isinstance(error, DocumentRejected):
            raise
    if has_book and has_package:  # without what it should begin with
        return Kind.EPUB
    return main if has_types and main is not None else Kind.ZIP


def _of_ole(file: BinaryIO, name: str) -> Kind | None:
    file.seek(0)
    header = file.read(512)
    sector_bytes = 1 << min(int.from_bytes(header[30:32], "little"), 16)
    file.seek((int.from_bytes(header[48:52], "little") + 1) * sector_bytes)
    directory = file.read(_DIRECTORY_BYTES)  # its first sectors mostly lie together
    if _ENCRYPTED in directory:
        raise rejected("encrypted", name, "is an office document with a password; remove the password")
    if directory[80:96] == _OUTLOOK or _PROPERTIES in directory:
        return Kind.MSG
    return next((kind for stream, kind in _MAIN_STREAMS.items() if stream.encode("utf-16-le") in directory), None)
