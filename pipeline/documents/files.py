"""Files as they come from outside: which are opened, what kind their first bytes announce, how a path is shown."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from pathlib import Path

from pipeline.documents.code_of_html import utf16
from pipeline.errors import DocumentRejected

HEAD_BYTES = 1024
"""Of a file, which say its kind."""
_LONGEST_PATH_BYTES = 2_600  # a row of a PostgreSQL index holds 2,704


class Kind(StrEnum):
    """File kinds that are taken in, told by their content."""

    PDF = "pdf"
    PNG = "png"
    JPEG = "jpeg"
    TIFF = "tiff"
    WEBP = "webp"
    BMP = "bmp"
    GIF = "gif"
    PNM = "pnm"
    JP2 = "jp2"
    AVIF = "avif"
    HEIC = "heic"
    JXL = "jxl"
    EPUB = "epub"
    HTML = "html"
    DOCX = "docx"
    XLSX = "xlsx"
    PPTX = "pptx"
    ODT = "odt"
    ODS = "ods"
    ODP = "odp"
    ODG = "odg"
    DOC = "doc"
    XLS = "xls"
    PPT = "ppt"
    RTF = "rtf"
    EML = "eml"
    MSG = "msg"
    ZIP = "zip"
    TAR = "tar"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    SEVEN_ZIP = "7z"


CONTAINERS = frozenset({Kind.ZIP, Kind.TAR, Kind.GZIP, Kind.BZIP2, Kind.XZ, Kind.SEVEN_ZIP})
"""Kinds without pages of their own: their members are documents."""

HOLDERS = CONTAINERS | {Kind.EML, Kind.MSG}
"""Kinds that hold documents: a mail has pages of its own and attachments."""

OLD_OFFICE = frozenset({Kind.DOC, Kind.XLS, Kind.PPT, Kind.RTF})
"""Kinds that only LibreOffice reads, where it is installed."""

OFFICE = OLD_OFFICE | {Kind.DOCX, Kind.XLSX, Kind.PPTX, Kind.ODT, Kind.ODS, Kind.ODP, Kind.ODG}

FLOWING = frozenset({Kind.EPUB, Kind.HTML, Kind.EML, Kind.MSG}) | (OFFICE - OLD_OFFICE)
"""Kinds that are laid out on pages here: the letters of their text are known."""

UNSUPPORTED_FACT = "is no PDF, image, office document, mail or archive of a kind that is read"


_ALSO_KNOWN = {
    b"Rar!\x1a\x07": "is a RAR archive, which is not unpacked here; pack it as ZIP or 7z",
    b"\x28\xb5\x2f\xfd": "is packed with Zstandard, which is not unpacked here; pack it with gzip or xz",
    b"\x04\x22\x4d\x18": "is packed with LZ4, which is not unpacked here; pack it with gzip or xz",
    b"LZIP\x01": "is packed with lzip, which is not unpacked here; pack it with gzip or xz",
    b"\x1f\x9d": "is packed with compress, which is not unpacked here; pack it with gzip or xz",
    b"\x78\x9f\x3e\x22": "is what Outlook wrapped a mail's attachments in; they are read in the mail that it came with",
    b"From ": "begins as a mailbox of many mails, which is not read; save its mails as files of their own (.eml)",
    b"%!PS": "is PostScript, which is not read; convert it to PDF",
    b"AT&TFORM": "is a DjVu document, which is not read; convert it to PDF",
}


def unsupported(name: str, head: bytes) -> DocumentRejected:
    """Of a file of a kind that is not read; `head` is how it begins."""
    facts = (fact for magic, fact in _ALSO_KNOWN.items() if head.startswith(magic))
    return rejected("unsupported", name, next(facts, UNSUPPORTED_FACT))


@dataclass(frozen=True, slots=True)
class Found:
    """A file at the submitted paths."""

    # For opening: a URL, or an absolute path with undecodable bytes as surrogates (os.fsdecode) and links inside the
    # folder resolved.
    path: str
    display_path: str  # absolute, where it was found; valid UTF-8, other bytes as `\xNN`
    size_bytes: int  # 0 where it could not be asked
    modified_ns: int  # behind a URL: a number made from the ETag or time, another one when the file is
    rejection: DocumentRejected | None = None  # why it is not taken
    below: str = ""  # its path below the folder that was given, or its name where it was given itself; for patterns


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is, and its state when it was read."""

    kind: Kind
    content_hash: str  # SHA-256 of the bytes, in hex
    size_bytes: int
    modified_ns: int


def open_regular(path: str | Path, name: str | None = None) -> FileIO:
    """Open a regular, non-empty file for reading, never waiting on a fifo and never following a link.

    Raises:
        DocumentRejected: it is something else, or away, or not ours to read.
    """
    name = name or display(os.fspath(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise rejected("missing", name, "is gone") from error
    except OSError as error:
        raise rejected("unreadable", name, f"cannot be opened: {error.strerror}") from error
    rejection = judge(name, os.fstat(descriptor), max_file_bytes=None)
    if rejection is not None:
        os.close(descriptor)
        raise rejection
    return os.fdopen(descriptor, "rb", buffering=0)


def kind_of(head: bytes) -> Kind | None:
    """The kind that a file's first HEAD_BYTES announce; `look_inside.py` tells those apart that begin alike.

    PDF readers accept the header anywhere in the first 1,024 bytes (ISO 32000-1, Annex H.3, note 13), so it is
    looked for last. `BM` alone also begins words: the size of the second header must be one that BMP has.
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Kind.PNG
    if head.startswith(b"\xff\xd8\xff"):
        return Kind.JPEG
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # the second pair is BigTIFF
        return Kind.TIFF
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind.WEBP
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Kind.GIF
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in {12, 16, 40, 52, 56, 64, 108, 124}:
        return Kind.BMP
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        brands = head[8 : min(int.from_bytes(head[:4], "big"), 256)]
        return Kind.AVIF if b"avif" in brands or b"avis" in brands else Kind.HEIC if _HEIC.search(brands) else None
    if _PNM.match(head):
        return Kind.PNM
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return Kind.BZIP2
    if _is_tar(head):
        return Kind.TAR
    if _is_mail(head.removeprefix(b"\xef\xbb\xbf")):
        return Kind.EML
    if _HTML.match(head) or ((code := utf16(head)) and _HTML.match(head.decode(code, "replace").encode())):
        return Kind.HTML
    return Kind.PDF if b"%PDF-" in head[:HEAD_BYTES] or _OLD_PDF.match(head) else None


_OLD_PDF = re.compile(rb"%!PS-Adobe-\d\.\d PDF-\d|%PDF \d|\s*\d{1,6} \d{1,5} obj\b")  # the last: its first line is lost
_HEIC = re.compile(rb"hei[cxms]|hev[cx]|mif1|msf1")
_PNM = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d{1,9}\s+(?:#[^\n]*\n\s*)*\d{1,9}\s")
_MAGIC = {
    b"\0\0\0\x0cjP  \r\n\x87\n": Kind.JP2,
    b"\xff\x4f\xff\x51": Kind.JP2,  # without a container
    b"\0\0\0\x0cJXL \r\n\x87\n": Kind.JXL,
    b"\xff\x0a": Kind.JXL,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Kind.MSG,  # OLE, in which old office documents lie too
    b"PK\3\4": Kind.ZIP,
    b"PK\5\6": Kind.ZIP,  # without a member
    b"PK\7\x08PK\3\4": Kind.ZIP,  # of parts, of which it needed one
    b"PK00PK\3\4": Kind.ZIP,
    b"\x1f\x8b\x08": Kind.GZIP,
    b"{\\rtf": Kind.RTF,
    b"\xfd7zXZ\0": Kind.XZ,
    b"7z\xbc\xaf\x27\x1c": Kind.SEVEN_ZIP,
}


def _is_tar(head: bytes) -> bool:
    """Old ones have no mark, but each header of 512 bytes has its own sum."""
    if len(head) < 512 or not head[0]:
        return False
    try:
        wanted = int(head[148:156].strip(b"\0 "), 8)
    except ValueError:
        return False
    return wanted == sum(head[:148]) + 8 * 0x20 + sum(head[156:512])


_HEADER = re.compile(rb"([!-9;-~]+):[ \t]?[^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*(?:\r?\n|$)")
_OF_SENDERS = {b"from", b"received", b"return-path", b"message-id", b"delivered-to"}
_OF_MAILS = _OF_SENDERS | {b"to", b"subject", b"date", b"mime-version", b"content-type", b"reply-to", b"cc", b"sender"}
_HTML = re.compile(  # a comment is passed over once: tried in all ways, 20 of them take 0.1 s, and each more twice that
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?><!--.*?-->\s*)*+"
    rb"<(?:!doctype\s+html|html|head|title|body|h1|div|p|table|font|br)[\s/>]",  # of a page without its frame, too
    re.IGNORECASE | re.DOTALL,
)


def _is_mail(head: bytes) -> bool:
    """Two headers of mails at its beginning, one of which says whose it is, or that it has parts: a web page kept as
    one file."""
    names, at, has_parts = set[bytes](), 0, False
    while (found := _HEADER.match(head, at)) is not None and found.end() > at:
        names.add(name := found[1].lower())
        has_parts |= name == b"content-type" and b"multipart/" in found[0].lower()
        at = found.end()
    return len(names & _OF_MAILS) >= 2 and (bool(names & _OF_SENDERS) or (has_parts and b"mime-version" in names))


def display(path: str) -> str:
    """A path as the database stores it: valid UTF-8, and two different paths never look the same.

    A byte that is not UTF-8 becomes `\\xNN`; a name that itself holds the four characters `\\xNN` has its backslash
    written as `\\x5c`. Newlines, quotes and all else stay. Of a path that is longer than a server's index takes, the
    middle is replaced by a hash of the whole; it is opened by its location, which stays whole.
    """
    raw = re.sub(rb"\\(?=x[0-9a-f]{2})", rb"\\x5c", os.fsencode(path))
    return shortened(raw.decode("utf-8", "backslashreplace"))


def shortened(text: str) -> str:
    """A path that `display` made, no longer than the database takes."""
    if len(whole := text.encode()) <= _LONGEST_PATH_BYTES:
        return text
    first, last = whole[:1800].decode(errors="ignore"), whole[-600:].decode(errors="ignore")
    return f"{first}[… {hashlib.sha256(whole).hexdigest()[:16]} …]{last}"


def on_disk(path: str) -> str:
    """The path that `display` shows so, as the system takes it; not of one whose middle it left out."""
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), path.encode())
    return os.fsdecode(raw)


def is_skipped(name: str) -> bool:
    """Names that are never documents: hidden ones, Office's lock files, Windows' thumbnail cache."""
    return name.startswith((".", "~$")) or name.casefold() == "thumbs.db"


def judge(name: str, status: os.stat_result, max_file_bytes: int | None) -> DocumentRejected | None:
    """Why a file with this status is not taken, or None."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        return rejected("special", name, f"is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    if status.st_size == 0:
        return rejected("empty", name, "has zero bytes")
    if max_file_bytes is not None and status.st_size > max_file_bytes:
        limit = f"over the limit of {max_file_bytes:,}; raise PAGEPACK_MAX_FILE_BYTES or split it"
        return rejected("too-large", name, f"has {status.st_size:,} bytes, {limit}")
    return None


def rejected(cause: str, name: str, fact: str) -> DocumentRejected:
    return DocumentRejected(f"{name} {fact}", cause=cause)
