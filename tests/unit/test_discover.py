"""Finding files: what is taken, what is refused with which cause, what is never counted."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.documents.discover import discover
from pipeline.documents.files import Found, Kind, display, is_skipped, kind_of
from pipeline.documents.identify import identify
from pipeline.errors import DocumentRejected, UsageError
from pipeline.settings import Settings

PDF = b"%PDF-1.7\nnot much more"


def files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PDF)
    return folder


def found(*paths: Path | str, home: Path = Path("/nowhere")) -> list[Found]:
    return list(discover(paths, Settings(home=home)))


def taken(*paths: Path | str, home: Path = Path("/nowhere")) -> list[str]:
    return [os.path.basename(one.path) for one in found(*paths, home=home) if one.rejection is None]


def causes(*paths: Path | str) -> dict[str, str]:
    return {os.path.basename(one.display_path): one.rejection.cause for one in found(*paths) if one.rejection}


def test_folders_are_walked_in_the_order_of_their_names(tmp_path: Path) -> None:
    files(tmp_path, "b.pdf", "a/z.pdf", "a/b/c.pdf", "c.pdf", "B.pdf")
    assert taken(tmp_path) == ["B.pdf", "c.pdf", "z.pdf", "b.pdf", "c.pdf"]
    assert found(tmp_path) == found(tmp_path)
    one = found(tmp_path)[0]
    assert (one.path, one.display_path, one.size_bytes) == (str(tmp_path / "B.pdf"),) * 2 + (len(PDF),)
    assert one.modified_ns == (tmp_path / "B.pdf").stat().st_mtime_ns


def test_what_the_rules_skip_is_never_counted(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf", ".hidden.pdf", ".git/x.pdf", "~$a.docx", "Thumbs.db", "sub/thumbs.db", "home/images/x")
    assert [os.path.basename(one.path) for one in found(tmp_path, home=tmp_path / "home")] == ["a.pdf"]
    assert taken(tmp_path / ".hidden.pdf") == [".hidden.pdf"], "named outright, it is meant"
    assert is_skipped("THUMBS.DB") and not is_skipped("thumbs.pdf")


def test_patterns_that_the_shell_left_alone_are_expanded(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf", "b.pdf", "sub/c.pdf", "[x].pdf")
    assert taken(f"{tmp_path}/*.pdf") == ["[x].pdf", "a.pdf", "b.pdf"]
    assert taken(f"{tmp_path}/**/*.pdf") == ["[x].pdf", "a.pdf", "b.pdf", "c.pdf"]
    assert taken(f"{tmp_path}/**") == ["[x].pdf", "a.pdf", "b.pdf", "c.pdf"], "folders and their files match: once each"
    assert taken(tmp_path / "[x].pdf") == ["[x].pdf"], "a name that exists is no pattern"
    assert taken(f"{tmp_path}/*.tiff") == []


def test_overlapping_paths_give_each_file_once(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf", "sub/b.pdf", ".hidden/c.pdf")
    assert taken(tmp_path, tmp_path / "sub", tmp_path / "sub/b.pdf", tmp_path / "a.pdf") == ["a.pdf", "b.pdf"]
    assert taken(tmp_path, tmp_path / ".hidden/c.pdf") == ["a.pdf", "b.pdf", "c.pdf"]


def test_a_missing_path_stops_before_anything_is_done(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf")
    with pytest.raises(UsageError, match=r"no such file or folder: .*nix\.pdf"):
        discover([tmp_path, tmp_path / "nix.pdf"], Settings())


def test_empty_large_and_special_files_are_refused(tmp_path: Path) -> None:
    files(tmp_path, "good.pdf")
    (tmp_path / "zero.pdf").touch()
    os.mkfifo(tmp_path / "pipe.pdf")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a socket's path may have 108 bytes
        server.bind("socket.pdf")
        assert causes(tmp_path) == {"pipe.pdf": "special", "socket.pdf": "special", "zero.pdf": "empty"}
    assert taken(tmp_path) == ["good.pdf"]
    assert causes("/dev/null") == {"null": "special"}
    with pytest.raises(DocumentRejected, match="fifo"):
        identify(tmp_path / "pipe.pdf")
    with pytest.raises(DocumentRejected, match="device"):
        identify("/dev/zero")
    [one] = discover([tmp_path / "good.pdf"], Settings(max_file_bytes=3))
    assert one.rejection is not None and one.rejection.cause == "too-large"


def test_links_stay_inside_the_folder(tmp_path: Path) -> None:
    inside, outside = files(tmp_path / "in", "a.pdf", "sub/b.pdf"), files(tmp_path / "out", "secret.pdf")
    (inside / "copy.pdf").symlink_to("sub/b.pdf")
    (inside / "again").symlink_to("sub")
    (inside / "round").symlink_to("..")
    (inside / "sub" / "up").symlink_to("..")
    (inside / "leak.pdf").symlink_to(outside / "secret.pdf")
    (inside / "leak").symlink_to(outside)
    (inside / "self").symlink_to("self")
    (inside / "gone.pdf").symlink_to("nothing.pdf")
    assert causes(inside) == {
        "round": "symlink",
        "leak.pdf": "symlink",
        "leak": "symlink",
        "self": "symlink",
        "gone.pdf": "missing",
    }
    shown = {one.display_path: one.path for one in found(inside) if one.rejection is None}
    assert shown == {
        f"{inside}/a.pdf": f"{inside}/a.pdf",
        f"{inside}/copy.pdf": f"{inside}/sub/b.pdf",
        f"{inside}/sub/b.pdf": f"{inside}/sub/b.pdf",
    }
    assert taken(inside / "leak") == ["secret.pdf"], "a link named outright is followed"
    with pytest.raises(DocumentRejected):
        identify(inside / "leak.pdf")


def test_unreadable_files_and_folders_have_a_reason(tmp_path: Path) -> None:
    """In a process of its own, as another user where the tests run as root, for whom everything is readable."""
    folder = files(tmp_path / "f", "locked.pdf", "open.pdf", "shut/x.pdf")
    (folder / "locked.pdf").chmod(0)
    (folder / "shut").chmod(0)
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest-of-" in str(parent):  # those of this run, closed to others
            parent.chmod(0o755)
    code = """if True:
        import os, sys
        from pathlib import Path
        from tests.unit.test_discover import found, verdict
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        print("\\n".join(map(verdict, found(Path(sys.argv[1])))))
    """
    root = Path(__file__).parents[2]
    seen = subprocess.run([sys.executable, "-c", code, folder], cwd=root, capture_output=True, text=True, check=True)
    (folder / "shut").chmod(0o700)
    assert seen.stdout.splitlines() == ["locked.pdf unreadable", "open.pdf pdf", "shut unreadable"]


def verdict(one: Found) -> str:
    name = os.path.basename(one.display_path)
    try:
        if one.rejection is not None:
            raise one.rejection
        return f"{name} {identify(one.path).kind}"
    except DocumentRejected as error:
        return f"{name} {error.cause}"


@pytest.mark.parametrize(
    "name", [b"two words.pdf", b"\"quoted'.pdf", b"new\nline.pdf", b"\xff\xfe caf\xe9.pdf", "報告.pdf".encode()]
)
def test_any_name_can_be_found_opened_and_stored(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    Path(os.fsdecode(path)).write_bytes(PDF)
    [one] = found(tmp_path)
    assert one.rejection is None and os.fsencode(one.path) == path
    assert identify(one.path).kind is Kind.PDF
    one.display_path.encode()
    if name.isascii() or name.startswith("報".encode()):
        assert one.display_path == os.fsdecode(path)
    else:
        assert one.display_path.endswith(r"\xff\xfe caf\xe9.pdf")


@given(st.binary(min_size=1, max_size=12), st.binary(min_size=1, max_size=12))
def test_two_names_never_look_the_same(first: bytes, second: bytes) -> None:
    shown = [display(os.fsdecode(name)) for name in (first, second)]
    assert (shown[0] == shown[1]) == (first == second)


def test_display_tells_a_byte_from_its_description() -> None:
    assert display(os.fsdecode(b"a\xff")) == r"a\xff" and display(r"a\xff") == r"a\x5cxff" and display("a\\b") == "a\\b"


def test_kinds_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    for kind, options in (
        (Kind.PNG, {}),
        (Kind.JPEG, {}),
        (Kind.TIFF, {}),
        (Kind.TIFF, {"big_tiff": True}),
        (Kind.WEBP, {}),
        (Kind.BMP, {}),
        (Kind.GIF, {}),
    ):
        image.save(tmp_path / "wrong.pdf", kind.upper(), **options)  # type: ignore[arg-type]
        assert identify(tmp_path / "wrong.pdf").kind is kind
    assert kind_of(b"junk before" + PDF) is Kind.PDF and kind_of(bytes(1024) + PDF) is None
    assert kind_of(b"BMW, a history") is None and kind_of(b"") is None
    started = time.process_time()
    assert kind_of(b"<!---->" * 25) is None and kind_of(b"<!-- a --><!--> -->\n<html>") is Kind.HTML
    assert time.process_time() - started < 0.5, "comments were parted in all ways"
    (tmp_path / "text.pdf").write_text("only text")
    with pytest.raises(DocumentRejected) as caught:
        identify(tmp_path / "text.pdf")
    assert caught.value.cause == "unsupported"


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf", "b.pdf")
    first, second = identify(tmp_path / "a.pdf"), identify(tmp_path / "b.pdf")
    assert first.content_hash == second.content_hash and len(first.content_hash) == 64
    assert first.size_bytes == len(PDF)


def test_a_folder_that_vanishes_on_the_way_is_one_rejection(tmp_path: Path) -> None:
    files(tmp_path, "a.pdf", "b.pdf")
    walk = discover([tmp_path], Settings())
    assert next(walk).rejection is None
    (tmp_path / "b.pdf").unlink()
    gone = next(walk)
    assert gone.rejection is not None and gone.rejection.cause == "missing"


def test_a_link_that_may_not_be_followed_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of /proc: nobody may read where they lead, not even root."""
    (files(tmp_path, "a.pdf") / "link").symlink_to("/proc/1/cwd")
    readlink = os.readlink

    def refuse(path: str, **how: Any) -> str:
        if path.endswith("link"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return readlink(path, **how)

    monkeypatch.setattr(os, "readlink", refuse)
    assert taken(tmp_path) == ["a.pdf"] and causes(tmp_path) == {"link": "symlink"}


class BrokenDisk(FileIO):
    """A file whose first block cannot be read."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_a_file_that_cannot_be_read_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.documents.identify.open_regular", lambda path, _: BrokenDisk(path))
    with pytest.raises(DocumentRejected, match="cannot be read: Input/output error") as raised:
        identify(files(tmp_path, "a.pdf") / "a.pdf")
    assert raised.value.cause == "unreadable"


@pytest.mark.parametrize("code", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_web_page_is_known_in_codes_of_one_and_two_bytes(code: str) -> None:
    assert kind_of("<!DOCTYPE html><html><body>Straße".encode(code)) is Kind.HTML
    assert kind_of("<note>no web page".encode(code)) is None
