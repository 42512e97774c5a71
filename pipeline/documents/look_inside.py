"""Kinds that the first bytes do not tell apart: a ZIP may be an office document, and an OLE file a mail."""

from __future__ import annotations

from itertools import islice
from typing import BinaryIO

from pipeline.documents.containers.members import UNPACK_ERRORS, MembersLost
from pipeline.documents.containers.zip_files import ZipMembers
from pipeline.documents.files import Kind, rejected

NEED_A_LOOK = frozenset({Kind.ZIP, Kind.MSG})
_MOST_LOOKED_AT = 1_000  # an office document has its main part among the first
_MAIN_PARTS = {"word/document.xml": Kind.DOCX, "xl/workbook.xml": Kind.XLSX, "ppt/presentation.xml": Kind.PPTX}
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
        DocumentRejected: it is an office document with a password.
    """
    return _of_zip(file) if kind is Kind.ZIP else _of_ole(file, name) if kind is Kind.MSG else kind


def _of_zip(file: BinaryIO) -> Kind:
    has_types, main = False, None
    try:
        for member in islice(ZipMembers(file).members(), _MOST_LOOKED_AT):
            if member.name == "mimetype" and (member.size_bytes or 0) < 100 and member.refusal is None:
                with member.open() as stream:
                    said = stream.read(100).strip()
                for mimetype, kind in _MIMETYPES.items():
                    if said in (mimetype, mimetype + b"-template"):
                        return kind
            has_types |= member.name == "[Content_Types].xml"
            main = main or _MAIN_PARTS.get(member.name)
    except (MembersLost, *UNPACK_ERRORS):  # its members will say what is wrong with it
        pass
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
