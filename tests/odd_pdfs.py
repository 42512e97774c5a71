"""Builders of PDFs that are odd and readable. Each returns the path that it wrote."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

from tests.hostile import pdf_of, stream

BOX = b"/MediaBox[0 0 400 300]"
FONT = b"/Resources<</Font<</T<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
KIDS = b"/Kids[3 0 R 4 0 R 5 0 R]"
PASSWORD_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def words(text: str) -> bytes:
    return b"BT /T 40 Tf 40 140 Td (%s) Tj ET" % text.encode()


def page_tree(path: Path, root: bytes, catalog: bytes = b"/Pages 2 0 R", box: bytes = BOX) -> Path:
    """Pages `alpha`, `bravo` and `charlie` are objects 3 to 5; object 2 is `root`, and object 9 a node with the
    second and third."""
    page = b"<</Type/Page/Parent 2 0 R%s/Contents %d 0 R>>"
    pages = [page % (box + FONT, number) for number in (6, 7, 8)]
    texts = [stream(words(text)) for text in ("alpha", "bravo", "charlie")]
    inner = b"<</Type/Pages/Parent 2 0 R/Kids[4 0 R 5 0 R 2 0 R]/Count 7>>"
    return pdf_of([b"<</Type/Catalog%s>>" % catalog, root, *pages, *texts, inner], path)


def one_page(
    path: Path, content: bytes, entries: bytes = BOX, objects: tuple[bytes, ...] = (), catalog: bytes = b""
) -> Path:
    """One page with this content; what it names in addition begins at object 5."""
    page = b"<</Type/Page/Parent 2 0 R/Contents 4 0 R%s%s>>" % (entries, b"" if b"/Resources" in entries else FONT)
    head = [b"<</Type/Catalog/Pages 2 0 R%s>>" % catalog, b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page]
    return pdf_of([*head, stream(content), *objects], path)


def cyclic_structure(path: Path) -> Path:
    """Marked content whose structure element is its own grandparent."""
    content = b"/P <</MCID 0>> BDC %s EMC" % words("structured")
    tree = (
        b"<</Type/StructTreeRoot/K 6 0 R/ParentTree<</Nums[0[7 0 R]]>>>>",
        b"<</Type/StructElem/S/Sect/P 7 0 R/K 7 0 R>>",
        b"<</Type/StructElem/S/P/P 6 0 R/Pg 3 0 R/K 0>>",
    )
    return one_page(path, content, BOX + b"/StructParents 0", tree, b"/StructTreeRoot 5 0 R/MarkInfo<</Marked true>>")


def image_page(path: Path, samples: bytes, entries: bytes, content: bytes = b"400 0 0 300 0 0 cm /I Do") -> Path:
    """A page that one image fills, or shows as `content` draws it; `entries` are those of the image."""
    image = stream(samples, b"/Type/XObject/Subtype/Image%s" % entries)
    return one_page(path, content, BOX + b"/Resources<</XObject<</I 5 0 R>>>>", (image,))


def flate_grey(width: int, height: int, samples: bytes) -> tuple[bytes, bytes]:
    entries = b"/Width %d/Height %d/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode" % (width, height)
    return zlib.compress(samples), entries


def rc4(key: bytes, data: bytes) -> bytes:
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) & 255
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) & 255
        j = (j + box[i]) & 255
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) & 255])
    return bytes(out)


def rc4_encrypted(path: Path, *, version: int, revision: int, key_bytes: int, used_bytes: int) -> Path:
    """Encrypted for an empty user password; the key is lengthened with zeros to `used_bytes` before it is used."""
    file_id, owner, permissions = bytes(range(16)), bytes(range(32, 64)), -3392
    seed = PASSWORD_PADDING + owner + struct.pack("<i", permissions) + file_id
    key = hashlib.md5(seed).digest()[:key_bytes]
    if revision == 2:
        user = rc4(key, PASSWORD_PADDING)
    else:
        for _ in range(50):
            key = hashlib.md5(key).digest()[:key_bytes]
        user = rc4(key, hashlib.md5(PASSWORD_PADDING + file_id).digest())
        for turn in range(1, 20):
            user = rc4(bytes(byte ^ turn for byte in key), user)
        user += bytes(16)
    used = key.ljust(used_bytes, b"\0")

    def encrypted(number: int, data: bytes) -> bytes:
        object_key = hashlib.md5(used + struct.pack("<I", number)[:3] + b"\0\0").digest()
        return rc4(object_key[: min(len(used) + 5, 16)], data)

    filters = b"/CF<</StdCF<</CFM/V2/AuthEvent/DocOpen/Length %d>>>>/StmF/StdCF/StrF/StdCF" % key_bytes
    encrypt = b"<</Filter/Standard/V %d/R %d/Length %d/P %d/O<%s>/U<%s>%s>>" % (
        version,
        revision,
        key_bytes * 8,
        permissions,
        owner.hex().encode(),
        user.hex().encode(),
        filters if version == 4 else b"",
    )
    one_page(path, encrypted(4, words("unlocked")), BOX, (encrypt,))
    trailer = b"trailer <</Encrypt 5 0 R/ID[<%s><%s>]" % ((file_id.hex().encode(),) * 2)
    path.write_bytes(path.read_bytes().replace(b"trailer <<", trailer))
    return path


def attachments_encrypted(path: Path, *, names: bool = False) -> Path:
    """A password opens what is attached; the pages are plain."""
    encrypt = (
        b"<</Filter/Standard/V 4/R 4/Length 128/P -4/O<%s>/U<%s>/StmF/Identity/StrF/Identity/EFF/StdCF"
        b"/CF<</StdCF<</CFM/AESV2/AuthEvent/EFOpen/Length 16>>>>>>" % (b"ab" * 32, b"cd" * 32)
    )
    file = (b"<</Type/Filespec/F(b.txt)/UF(b.txt)/EF<</F 7 0 R>>>>", stream(bytes(32)))
    catalog = b"/Names<</EmbeddedFiles<</Names[(b.txt) 6 0 R]>>>>" if names else b""
    one_page(path, words("plain"), BOX, (encrypt, *(file if names else ())), catalog)
    path.write_bytes(path.read_bytes().replace(b"trailer <<", b"trailer <</Encrypt 5 0 R/ID[<00><00>]"))
    return path
