"""Encrypted PDFs that need no password: which they are, and two kinds that MuPDF does not read by itself.

- Only attachments are encrypted (the crypt filter of streams is Identity): the pages are plain, and MuPDF asks for a
  password all the same.
- RC4 with a key under 128 bits in revision 4: Acrobat lengthens the key with zeros to 16 bytes before it uses it. No
  standard says so; pdf.js found out (its issue 19484). qpdf, pdfium and MuPDF read noise.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pymupdf as _pymupdf

from pipeline.errors import DocumentRejected

mupdf: Any = _pymupdf.mupdf
_KEY_BITS = 128
_RC4 = 1  # MuPDF's PDF_CRYPT_RC4
# The head of MuPDF's pdf_crypt: id, v, length, cf, then method and length for streams and for strings, r, o[48].
_HEAD = struct.Struct("=QiiQiiiii32s")
_BITS_AT = (12, 28, 36)  # of the whole, of streams, of strings


def unlock(document: Any, pdf: Any) -> bool:
    """Make a `pymupdf.Document` readable without a password; whether what is attached stays encrypted.

    Raises:
        DocumentRejected: `encrypted`: it needs a password.
    """
    encrypt = mupdf.pdf_dict_gets(mupdf.pdf_trailer(pdf), "Encrypt")
    if document.needs_pass:
        if not _are_streams_plain(encrypt):
            raise DocumentRejected("the PDF is encrypted; remove its password", cause="encrypted")
        document.is_encrypted = False  # PyMuPDF's own guard, past which MuPDF reads what is plain
        document.init_doc()
        return True
    if mupdf.pdf_is_dict(encrypt) and _lengthen_key(pdf, encrypt):
        mupdf.pdf_clear_xref(pdf)  # forget what was read with the short key
        document.init_doc()
    return False


def _are_streams_plain(encrypt: Any) -> bool:
    if not 4 <= mupdf.pdf_to_int(mupdf.pdf_dict_gets(encrypt, "V")) <= 5:  # without crypt filters all is encrypted
        return False
    name = mupdf.pdf_to_name(mupdf.pdf_dict_gets(encrypt, "StmF")) or "Identity"
    if name == "Identity":
        return True
    crypt_filter = mupdf.pdf_dict_gets(mupdf.pdf_dict_gets(encrypt, "CF"), name)
    return bool(mupdf.pdf_to_name(mupdf.pdf_dict_gets(crypt_filter, "CFM")) == "None")


def _lengthen_key(pdf: Any, encrypt: Any) -> bool:
    """Let MuPDF use 16 bytes of its key, of which it set the first few and left the rest at zero.

    There is no call for it. The two numbers are written where this build of MuPDF keeps them, and only if everything
    around them is what the file says; else nothing is touched.
    """
    version, revision = (mupdf.pdf_to_int(mupdf.pdf_dict_gets(encrypt, name)) for name in ("V", "R"))
    if (version, revision) != (4, 4) or pdf.m_internal.crypt is None:
        return False
    address = int(pdf.m_internal.crypt)
    _, v, bits, _, method, stream_bits, string_method, string_bits, r, owner = _HEAD.unpack(
        ctypes.string_at(address, _HEAD.size)
    )
    stated, _ = mupdf.pdf_to_string(mupdf.pdf_dict_gets(encrypt, "O"))
    is_as_stated = (v, r, owner) == (4, 4, stated.encode(errors="surrogateescape"))
    if not is_as_stated or (method, string_method) != (_RC4, _RC4) or not 40 <= bits < _KEY_BITS:
        return False
    if not bits == stream_bits == string_bits:
        return False
    for offset in _BITS_AT:
        ctypes.c_int.from_address(address + offset).value = _KEY_BITS
    return True
