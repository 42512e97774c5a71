"""Uploads on their way to the disk: however the network cuts them, and where the disk is full."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DiskFull, UsageError
from pipeline.web.v1.uploads import Receiver, TooLarge, clear_parts

KIND = "multipart/form-data; boundary=frontier"
FILES = {
    "letters/a.pdf": b"%PDF-1.7\r\n--frontie",
    "b.png": b"",
    "Grüße.txt": b"\r\n\r\n--frontier-not\r\n" + bytes(70),
}


def part(name: str, data: bytes, field: str = "file") -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    return head.encode() + b"Content-Type: application/pdf\r\n\r\n" + data + b"\r\n"


FIELD = b'--frontier\r\nContent-Disposition: form-data; name="batch"\r\n\r\nletters\r\n'
BODY = FIELD + b"".join(part(*file) for file in FILES.items()) + b"--frontier--\r\n"


def received(uploads: Path, *pieces: bytes, most: int = 10_000_000) -> dict[str, bytes]:
    receiver = Receiver(uploads, KIND, most)
    try:
        for piece in pieces:
            receiver.feed(piece)
        files = receiver.finish()
        assert receiver.fields.get("batch", ["letters"]) == ["letters"]
    finally:
        receiver.close()
    return {file.name: file.path.read_bytes() for file in files}


def parts_left(uploads: Path) -> list[Path]:
    return list(uploads.glob(".parts/*"))


def test_files_are_the_same_wherever_the_network_cuts_them(tmp_path: Path) -> None:
    for at in range(1, len(BODY), 7):
        assert received(tmp_path, BODY[:at], BODY[at:]) == FILES
    assert received(tmp_path, *(BODY[at : at + 1] for at in range(len(BODY)))) == FILES
    assert not parts_left(tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(FILES)


def test_what_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    for at in range(1, len(BODY) - 4, 31):
        with pytest.raises(UsageError, match="ends in the middle"):
            received(tmp_path, BODY[:at])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_many_bytes_or_files_are_refused_as_they_come(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"more than 600 bytes.*PAGEPACK_MAX_UPLOAD_BYTES"):
        received(tmp_path, BODY[:500], bytes(101), most=600)
    with pytest.raises(UsageError, match="more than 1,000 files"):
        received(tmp_path, b"".join(part(f"{number}.pdf", b"") for number in range(1_001)))
    assert not parts_left(tmp_path)


def test_a_full_disk_is_told_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkstemp

    def on_a_full_disk(**given: Any) -> tuple[int, str]:
        descriptor, path = make(**given)
        os.close(descriptor)
        return os.open("/dev/full", os.O_WRONLY), path

    monkeypatch.setattr(tempfile, "mkstemp", on_a_full_disk)
    with pytest.raises(DiskFull, match="no room left for uploads"):
        received(tmp_path, BODY)
    assert not parts_left(tmp_path)


def test_a_name_of_a_folder_that_was_sent_is_another_file(tmp_path: Path) -> None:
    received(tmp_path, part("a/b.pdf", b"same") + b"--frontier--\r\n")
    with pytest.raises(UsageError, match="one is a folder of the other"):
        received(tmp_path, part("a", b"same") + b"--frontier--\r\n")
    with pytest.raises(UsageError, match="one is a folder of the other"):
        received(tmp_path, part("a/b.pdf/c.pdf", b"same") + b"--frontier--\r\n")
    assert received(tmp_path, part("a", b"other") + b"--frontier--\r\n") == {"a": b"other"}
    assert not parts_left(tmp_path)


def test_where_one_file_cannot_be_put_in_place_none_is(tmp_path: Path) -> None:
    """The last one's name clashes with a folder; a file that lay there before, and its folder, stay."""
    received(tmp_path, part("kept/b.pdf", b"known") + part("a/b.pdf", b"same") + b"--frontier--\r\n")
    before = sorted(tmp_path.rglob("*"))
    files = part("kept/b.pdf", b"known") + part("kept/c.pdf", b"known") + part("deep/new.pdf", b"new")
    with pytest.raises(UsageError, match="one is a folder of the other"):
        received(tmp_path, files + part("deep/b/c.pdf", b"also new") + part("a", b"same") + b"--frontier--\r\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_server_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    clear_parts(tmp_path)
    (tmp_path / ".parts").mkdir()
    old, new = tmp_path / ".parts" / "old", tmp_path / ".parts" / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    clear_parts(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)
