"""The name of an uploaded file, as whoever sends it wishes it: a path below the uploads, and never one outside."""

from __future__ import annotations

from pipeline.errors import UsageError

_MOST_PARTS = 16
_MOST_BYTES_A_PART = 200  # file systems have 255, and a file under way has a name of its own
_MOST_SHOWN = 80


def upload_name(sent: str) -> str:
    """`letters\\2024\\a.pdf` → `letters/2024/a.pdf`.

    What is no name on a disk, or would drive a terminal, is an underscore. So is what begins a name that walks over
    folders skip, as `.` and `~$` do.

    Raises:
        UsageError: no name, one that leads outside, or one that is too long.
    """
    shown = sent[:_MOST_SHOWN]
    parts = sent.replace("\\", "/").split("/")
    if sent.startswith(("/", "\\")) or ".." in parts:
        raise UsageError(f"the file name {shown!r} leads outside; send a relative one, such as letters/a.pdf")
    cleaned = [_cleaned(part) for part in parts if part not in ("", ".")]
    if not cleaned or not parts[-1]:
        raise UsageError(f"the file name {shown!r} names no file; send one, such as letters/a.pdf")
    if len(cleaned) > _MOST_PARTS:
        raise UsageError(
            f"the file name {shown!r} has {len(cleaned)} folders and a name; at most {_MOST_PARTS} together"
        )
    for part in cleaned:
        if len(part.encode()) > _MOST_BYTES_A_PART:
            raise UsageError(f"the file name {shown!r}… has a part of more than {_MOST_BYTES_A_PART} bytes; shorten it")
    return "/".join(cleaned)


def _cleaned(part: str) -> str:
    text = "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in part.strip())
    if text.startswith((".", "~$")) or text.lower() == "thumbs.db":
        text = "_" + text
    return text or "_"
