"""Mails: headers and body are a document's text, attachments are members."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, BinaryIO

from pipeline.documents.containers.eml import read_eml
from pipeline.documents.containers.mail import BYTE_ORDER_MARK, Mail
from pipeline.documents.containers.members import UNPACK_ERRORS, Member, MembersLost, Names, leads_out
from pipeline.documents.containers.outlook import read_msg
from pipeline.documents.files import Kind

MOST_MAIL_BYTES = 256 * 2**20  # it is held in memory, and its parts a second time


class MailMembers:
    """The attachments of a mail."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        self._file, self._kind = file, kind

    def members(self) -> Iterator[Member]:
        mail, names = read_mail(self._file, self._kind), Names()
        for raw, content in mail.attachments:
            name = names.name(raw)
            yield Member(name, partial(_opened, content), None, leads_out(name))

    def close(self) -> None:
        pass


def _opened(content: Callable[[], bytes]) -> IO[bytes]:
    return io.BytesIO(content())


def read_mail(file: BinaryIO, kind: str) -> Mail:
    """Raises MembersLost where it is broken, or larger than what memory is spent on."""
    if (size := file.seek(0, 2)) > MOST_MAIL_BYTES:
        raise MembersLost("too-large", f"is a mail of {size:,} bytes, over the limit of {MOST_MAIL_BYTES:,}")
    file.seek(0)
    if file.read(3) != BYTE_ORDER_MARK:
        file.seek(0)
    try:
        return read_eml(file) if kind == Kind.EML else read_msg(file)
    except MembersLost:
        raise
    except (*UNPACK_ERRORS, AttributeError, TypeError) as error:
        raise MembersLost("damaged", f"is a broken mail: {str(error)[:200] or type(error).__name__}") from error
