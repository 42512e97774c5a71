"""Builders of archives, sound and hostile. Each returns their bytes."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence

from PIL import Image


def picture(shade: int) -> bytes:
    """A small PNG; each shade is other content."""
    file = io.BytesIO()
    Image.new("L", (16, 16), shade).save(file, "PNG")
    return file.getvalue()


def zipped(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = zipfile.ZipInfo(name)  # as it is: writestr would mend some names
            info.filename, info.compress_type = name, method
            with warnings.catch_warnings(action="ignore"):  # of a name that is there already
                archive.writestr(info, data)
    return file.getvalue()


def tarred(members: Mapping[str, bytes], kind: str = "") -> bytes:
    """`kind` is gz, bz2 or xz. A member of type bytes(1) is a special one: its content is the type."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if len(data) == 1:
                info.type, info.linkname = data, "/etc/passwd"
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def encrypted(archive: bytes) -> bytes:
    """A ZIP of one member that says that it is encrypted."""
    data = bytearray(archive)
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)
