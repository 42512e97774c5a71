"""Members of archives are documents of their own, whatever strangers packed; bombs cost what the limits allow."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.database.engine import Database
from pipeline.documents.containers.limits import Budget
from pipeline.documents.containers.members import MembersLost
from pipeline.documents.containers.opening import Sandbox, open_container, read_member
from pipeline.documents.files import Kind
from pipeline.documents.inputs import Inputs
from pipeline.errors import DocumentRejected
from pipeline.export.export import export
from pipeline.ingest.forget import find_known, forget
from pipeline.ingest.prune import find_gone
from pipeline.ingest.register import register
from pipeline.ingest.selection import select_files
from pipeline.ingest.submission import open_named_batch
from pipeline.settings import Settings
from pipeline.store.forget_plan import plan
from schemas.prompts import OCR
from tests.archives import encrypted, mail, outlook, picture, seven_zipped, tarred, zipped
from tests.conftest import Archive
from tests.running import write_pdf
from tests.s3 import Bucket, bucket, s3_endpoint

__all__ = ["bucket", "s3_endpoint"]

_MEMBERS = {"1.png": picture(1), "d/2.png": picture(2) + bytes(3_000), "t.txt": b"text"}
SOUND = [
    (Kind.ZIP, zipped(_MEMBERS)),
    (Kind.TAR, tarred(_MEMBERS)),
    (Kind.GZIP, tarred(_MEMBERS, "gz")),
    (Kind.BZIP2, tarred(_MEMBERS, "bz2")),
    (Kind.XZ, tarred(_MEMBERS, "xz")),
    (Kind.SEVEN_ZIP, seven_zipped(_MEMBERS)),
    (Kind.EML, mail("plain", "<p>rich</p>", a_png=picture(1), b_eml=mail("inner"))),
    (Kind.MSG, outlook({"__substg1.0_1000001F": b"x", "__attach_version1.0_#00000000/__substg1.0_37010102": b"y"})),
]
See = Callable[..., dict[str, str]]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


@pytest.fixture
def see(db: Database, settings: Settings, docs: Path, archive: Archive) -> See:
    """Registers the folder; path below it → kind, or the cause of what is not taken in."""

    def look(
        place: str | None = None, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), **limits: Any
    ) -> dict[str, str]:
        selection = select_files(include, exclude, False)
        place = place or str(docs)
        batch = open_named_batch(db, settings, [place], [OCR], None, "any", "", (), selection)
        chosen = settings.model_copy(update=limits)
        assert list(register(db, batch, [place], chosen, selection, forget_gone=True, is_stopping=lambda: False))
        query = "SELECT f.source_path, coalesce(s.cause, f.kind) FROM files f JOIN sources s ON s.path = f.source_path"
        return dict(archive.rows(f"{query} WHERE f.batch_id = :id ORDER BY 1", id=batch.public_id)) | {}

    def below(*arguments: Any, **given: Any) -> dict[str, str]:
        return {path.removeprefix(f"{docs}/"): what for path, what in look(*arguments, **given).items()}

    return below


def reasons(archive: Archive) -> dict[str, str]:
    return {path.rpartition("/docs/")[2]: reason for path, reason in archive.rows("SELECT path, reason FROM sources")}


def opened(archive: Archive, settings: Settings) -> dict[str, str]:
    """Path → hash of all that an ingest worker would open, in an order that no archive has."""
    query = """SELECT s.path, s.location, d.content_hash FROM sources s JOIN documents d ON d.id = s.document_id
               WHERE d.page_count IS NULL ORDER BY d.content_hash"""
    inputs, found = Inputs(settings), {}
    for path, location, content_hash in archive.rows(query):
        file, name = inputs.open(content_hash, {location: path})
        with file:
            file.seek(0)
            assert (sha256(file.read()).hexdigest(), name) == (content_hash, path)
        found[path.rpartition("/docs/")[2]] = content_hash
    return found


def test_members_are_files_under_paths_of_their_own(see: See, docs: Path, archive: Archive, settings: Settings) -> None:
    inner = tarred({"b/5.png": picture(5), "./6.png": picture(6)}, "gz")
    members = {
        "1913/04.png": picture(4),
        "sub/": b"",
        "1913/in.tgz": inner,
        "note.txt": b"no page",
        "__MACOSX/._4": b"x",
    }
    (docs / "letters.zip").write_bytes(zipped(members))
    (docs / "old.tar").write_bytes(tarred({"7.png": picture(7), "bad.zip": b"PK\3\4 and nothing more"}))
    for kind in ("bz2", "xz"):
        (docs / f"{kind}.tar").write_bytes(tarred({"4.png": picture(4)}, kind))
    (docs / "8.png.gz").write_bytes(gzip.compress(picture(8)[:20]) + gzip.compress(picture(8)[20:]))
    (docs / "comic.cbz").write_bytes(zipped({"p1.png": picture(1)}, zipfile.ZIP_STORED))
    expected = {
        "8.png.gz": "gzip",
        "8.png.gz!/8.png": "png",
        "bz2.tar": "bzip2",
        "bz2.tar!/4.png": "png",
        "comic.cbz": "zip",
        "comic.cbz!/p1.png": "png",
        "letters.zip": "zip",
        "letters.zip!/1913/04.png": "png",
        "letters.zip!/1913/in.tgz": "gzip",
        "letters.zip!/1913/in.tgz!/6.png": "png",
        "letters.zip!/1913/in.tgz!/b/5.png": "png",
        "letters.zip!/note.txt": "unsupported",
        "old.tar": "tar",
        "old.tar!/7.png": "png",
        "old.tar!/bad.zip": "damaged",
        "xz.tar": "xz",
        "xz.tar!/4.png": "png",
    }
    assert see() == expected
    states = dict(archive.rows("SELECT state, count(*) FROM files GROUP BY 1"))
    assert states == {"done": 7, "pending": 8, "rejected": 2}, "containers are done as soon as they are seen"
    found = opened(archive, settings)
    assert sorted(found) == [path for path, kind in expected.items() if kind == "png"]
    assert len(set(found.values())) == len(found) - 2, "the same picture in three archives is one document"
    assert see() == expected, "and so it stays"
    export(archive.db, settings.home / "out", "markdown")
    written = sorted(str(path.relative_to(settings.home / "out")) for path in (settings.home / "out").rglob("*.md"))
    assert written == sorted(f"{path}.md" for path, kind in expected.items() if kind in ("png", "damaged"))


def test_a_member_is_not_unpacked_again_while_its_archive_is_as_it_was(see: See, docs: Path, archive: Archive) -> None:
    path = docs / "a.zip"
    for shade, moved, changes in ((1, 0, True), (2, 0, False), (3, 10**9, True)):
        before = path.stat().st_mtime_ns if path.exists() else 10**18
        path.write_bytes(zipped({"p.png": picture(shade)}, zipfile.ZIP_STORED))
        os.utime(path, ns=(before + moved,) * 2)
        see()
        query = "SELECT d.content_hash FROM sources s JOIN documents d ON d.id = s.document_id WHERE path LIKE '%.png'"
        assert (archive.scalar(query) == sha256(picture(shade)).hexdigest()) is changes


def test_an_archive_that_is_as_it_was_is_not_opened_again(see: See, docs: Path, archive: Archive) -> None:
    inner = tarred({"2.png": picture(2), "note.txt": b"text"}, "gz")
    path = docs / "a.zip"
    path.write_bytes(zipped({"1.png": picture(1), "in.tgz": inner, "3.txt": b"text"}))
    first, status = see(), path.stat()
    path.write_bytes(bytes(status.st_size))  # nothing of it could be read any more
    os.utime(path, ns=(status.st_mtime_ns,) * 2)
    assert see() == first and len(first) == 6
    assert see() == first, "also from what was told so"
    assert see(exclude=("*.txt",))["a.zip"] == "damaged", "by other rules it is opened"
    path.write_bytes(zipped({"1.png": picture(1), "in.tgz": inner, "3.txt": b"text"}))
    assert see(exclude=("*.txt",)) == {name: kind for name, kind in first.items() if not name.endswith(".txt")}
    assert see() == first, "what other rules left out is told"
    path.write_bytes(zipped({"1.png": picture(1)}))
    assert see() == {"a.zip": "zip", "a.zip!/1.png": "png"} and see() == {"a.zip": "zip", "a.zip!/1.png": "png"}
    path.write_bytes(zipped({"4.png": picture(4)}))
    for _ in range(2):
        assert see(max_container_bytes=10)["a.zip"] == "too-large"
    assert see() == {"a.zip": "zip", "a.zip!/4.png": "png"}


def test_odd_names_and_kinds_of_members_do_no_harm(see: See, docs: Path, archive: Archive, settings: Settings) -> None:
    odd = [
        ("../../up.png", picture(1)),
        ("/etc/abs.png", picture(2)),
        ("C:\\scans\\win.png", picture(3)),
        ("twice.png", picture(4)),
        ("twice.png", picture(5)),
        ("cafX.png", picture(6)),
        ("!/#!/%2e.png", picture(7)),
    ]
    (docs / "odd.zip").write_bytes(zipped(odd).replace(b"cafX", b"caf\x82"))  # in the code page of DOS
    special = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE, "dev": tarfile.CHRTYPE}
    (docs / "odd.tar").write_bytes(tarred({**special, "a.png": picture(8)}))
    seen = see()
    assert seen == {
        "odd.tar": "tar",
        "odd.tar!/a.png": "png",
        "odd.tar!/dev": "special",
        "odd.tar!/fifo": "special",
        "odd.tar!/hard": "symlink",
        "odd.tar!/link": "symlink",
        "odd.zip": "zip",
        "odd.zip!/!/#!/%2e.png": "png",
        "odd.zip!/../../up.png": "special",
        "odd.zip!/etc/abs.png": "png",
        "odd.zip!/scans/win.png": "png",
        "odd.zip!/twice.png": "png",
        "odd.zip!/twice.png (2)": "png",
        "odd.zip!/café.png": "png",
    }
    assert len(opened(archive, settings)) == 7


def test_what_lies_before_a_cut_is_read_and_the_rest_is_said(see: See, docs: Path, archive: Archive) -> None:
    many = {f"{number}.png": picture(number) for number in range(9)}
    whole = zipped(many)
    (docs / "cut.zip").write_bytes(whole[: whole.index(b"6.png") + 60])
    stream = io.BytesIO()
    with zipfile.ZipFile(Unseekable(stream), "w", zipfile.ZIP_DEFLATED) as written:  # sizes follow each member
        for name, data in many.items():
            written.writestr(name, data)
    (docs / "streamed.zip").write_bytes(stream.getvalue()[: stream.getvalue().index(b"5.png") + 50])
    plain, packed = tarred(many), tarred(many, "gz")
    (docs / "cut.tar").write_bytes(plain[:5000])
    (docs / "overwritten.tar").write_bytes(plain[:4096] + b"x" * 512 + plain[4608:])
    (docs / "cut.tgz").write_bytes(packed[: len(packed) // 2])
    seen = see()
    for name in ("cut.zip", "streamed.zip", "cut.tar", "overwritten.tar", "cut.tgz"):
        read = [path for path, kind in seen.items() if path.startswith(f"{name}!/") and kind == "png"]
        assert seen[name] == "damaged" and 3 <= len(read) < 9, (name, seen)
        assert "cut short" in reasons(archive)[name]


class Unseekable(io.RawIOBase):
    def __init__(self, file: io.BytesIO) -> None:
        self.file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self.file.write(data)


def test_attachments_of_mails_are_members(see: See, docs: Path, archive: Archive, settings: Settings) -> None:
    inner = mail("inner", d_png=picture(4))
    packed = {"1.png": picture(1), "fwd": inner, "c_zip": zipped({"2.png": picture(2)}), "e_txt": b"text"}
    (docs / "a.eml").write_bytes(mail("outer", "<p>rich</p>", **packed))
    attached = "__attach_version1.0_#0000000{}/__substg1.0_{}"
    wide = {"__substg1.0_0037001F": "About", "__substg1.0_1000001F": "what it says"}
    wide |= {attached.format(0, "3707001F"): "scan.png", attached.format(1, "3701000D/__substg1.0_0037001F"): "In/ner"}
    streams = {name: text.encode("utf-16-le") for name, text in wide.items()}
    streams[attached.format(0, "37010102")] = picture(3)
    streams[attached.format(1, "3701000D/" + attached.format(0, "37010102"))] = picture(5)
    (docs / "b.msg").write_bytes(outlook(streams))
    (docs / "c.zip").write_bytes(zipped({"mails/x.eml": mail("zipped", f_png=picture(6))}))
    (docs / "d.eml").write_bytes(mail("without"))
    expected = {
        "a.eml": "eml",
        "a.eml!/1.png": "png",
        "a.eml!/c.zip": "zip",
        "a.eml!/c.zip!/2.png": "png",
        "a.eml!/e.txt": "unsupported",
        "a.eml!/Überweisung.eml": "eml",
        "a.eml!/Überweisung.eml!/d.png": "png",
        "b.msg": "msg",
        "b.msg!/In-ner.eml": "eml",
        "b.msg!/In-ner.eml!/part-1": "png",
        "b.msg!/scan.png": "png",
        "c.zip": "zip",
        "c.zip!/mails/x.eml": "eml",
        "c.zip!/mails/x.eml!/f.png": "png",
        "d.eml": "eml",
    }
    assert see() == expected
    assert len(opened(archive, settings)) == 12, "mails have pages, and are opened like others"
    assert see() == expected
    seen = see(max_container_members=2)
    assert seen["a.eml"] == "too-large", "what is left out is said"
    assert archive.rows("SELECT state FROM documents WHERE kind = 'eml' AND state <> 'pending'") == []
    assert archive.scalar("SELECT count(*) FROM sources WHERE path LIKE '%/a.eml' AND document_id IS NOT NULL") == 1


def test_a_7z_is_read_block_by_block(see: See, docs: Path, archive: Archive, settings: Settings) -> None:
    big = picture(1) + bytes(500_000)
    whole = seven_zipped(
        {"1913/1.png": big, "sub/": b"", "none.png": b"", "../up.png": picture(2), "ö.png": picture(3)}
    )
    (docs / "a.7z").write_bytes(whole)
    (docs / "cut.7z").write_bytes(whole[:-40])
    (docs / "empty.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24))
    (docs / "aes.7z").write_bytes(seven_zipped({"ö.png": picture(3)}, b"\x24\x06\xf1\x07\x01\x01\x10"))
    flipped = bytearray(whole)
    flipped[whole.index(zlib.crc32(picture(3)).to_bytes(4, "little"))] ^= 1
    (docs / "sum.7z").write_bytes(flipped)
    seen = see()
    assert {path: kind for path, kind in seen.items() if path.startswith("a.7z")} == {
        "a.7z": "7z",
        "a.7z!/../up.png": "special",
        "a.7z!/1913/1.png": "png",
        "a.7z!/none.png": "empty",
        "a.7z!/ö.png": "png",
    }
    assert seen["cut.7z"] == "damaged" and seen["empty.7z"] == "empty"
    assert seen["aes.7z"] == seen["aes.7z!/ö.png"] == "encrypted"
    assert seen["sum.7z!/ö.png"] == "damaged" and seen["sum.7z!/1913/1.png"] == "png"
    assert len(opened(archive, settings)) == 3
    assert see(max_container_bytes=100_000)["a.7z"] == "too-large"


@given(st.data())
def test_a_broken_archive_is_read_as_far_as_it_goes(data: st.DataObject) -> None:
    """Whatever is cut or overwritten: members, then MembersLost, and nothing else."""
    kind, whole = data.draw(st.sampled_from(SOUND))
    broken = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    file, budget, settings = io.BytesIO(broken), Budget(100, 10**6), Settings(home=Path("/nowhere"))
    container = open_container(file, kind, "a", settings, budget, Sandbox(settings).rasterizer)
    try:
        for member in container.members():
            budget.spend_member()
            if member.refusal is None and not member.is_folder:
                with contextlib.suppress(DocumentRejected):
                    read_member(member, member.name, budget, settings, lambda kind: None)
    except MembersLost as lost:
        assert lost.cause and lost.fact
    finally:
        container.close()


def test_files_attached_to_a_pdf_are_documents_where_they_are_wanted(
    see: See, docs: Path, archive: Archive, settings: Settings
) -> None:
    annex = write_pdf(docs.parent / "annex.pdf", 1).read_bytes()
    with pymupdf.open() as document:
        page = document.new_page(width=200, height=200)
        for name, data in {"annex.pdf": annex, "note.txt": b"text", "../up.png": picture(1)}.items():
            document.embfile_add(name, data, filename=name)
        page.add_file_annot((10, 10), picture(2), "pinned.png")
        portfolio = document.tobytes()
    (docs / "a.pdf").write_bytes(portfolio)
    (docs / "b.zip").write_bytes(zipped({"in.pdf": portfolio}))
    (docs / "c.pdf").write_bytes(b"%PDF-1.7 and nothing")
    assert see() == {"a.pdf": "pdf", "b.zip": "zip", "b.zip!/in.pdf": "pdf", "c.pdf": "pdf"}
    attached = {"../up.png": "special", "annex.pdf": "pdf", "note.txt": "unsupported", "pinned.png": "png"}
    members = {f"{at}!/{name}": kind for at in ("a.pdf", "b.zip!/in.pdf") for name, kind in attached.items()}
    whole = {"a.pdf": "pdf", "b.zip": "zip", "b.zip!/in.pdf": "pdf", "c.pdf": "pdf", **members}
    assert see(attachments=True) == whole
    assert len(opened(archive, settings)) == 7
    assert see(attachments=True) == whole
    assert see() == {"a.pdf": "pdf", "b.zip": "zip", "b.zip!/in.pdf": "pdf", "c.pdf": "pdf"}
    assert archive.scalar("SELECT count(*) FROM sources WHERE gone_at IS NOT NULL") == 0, "nobody looked at them"
    cut = see(attachments=True, max_container_bytes=len(annex) + 10)
    assert cut["a.pdf"] == "too-large" and cut["a.pdf!/annex.pdf"] == "pdf", "its pages are read all the same"
    assert archive.scalar("SELECT document_id FROM sources WHERE path LIKE '%/a.pdf'") is not None


def test_an_archive_of_which_nothing_is_read_says_so(see: See, docs: Path, archive: Archive) -> None:
    (docs / "empty.zip").write_bytes(zipped({}))
    (docs / "texts.zip").write_bytes(zipped({"a.txt": b"text", "b.txt": b"text"}))
    (docs / "secret.zip").write_bytes(encrypted(zipped({"a.png": picture(1)})))
    (docs / "ppmd.zip").write_bytes(zipped({"a.png": picture(1)}).replace(b"\x08\0", b"\x62\0"))
    (docs / "none.zip").write_bytes(b"PK\3\4" + bytes(500))
    (docs / "comic.cbr").write_bytes(b"Rar!\x1a\x07\1\0")
    assert see() == {
        "comic.cbr": "unsupported",
        "empty.zip": "empty",
        "none.zip": "damaged",
        "ppmd.zip": "unreadable",
        "ppmd.zip!/a.png": "unreadable",
        "secret.zip": "encrypted",
        "secret.zip!/a.png": "encrypted",
        "texts.zip": "unsupported",
        "texts.zip!/a.txt": "unsupported",
        "texts.zip!/b.txt": "unsupported",
    }
    assert "1 encrypted" in reasons(archive)["secret.zip"]
    assert "RAR" in reasons(archive)["comic.cbr"]
    assert "PPMd" in reasons(archive)["ppmd.zip!/a.png"]


def test_limits_bound_what_an_archive_costs_and_the_rest_goes_on(see: See, docs: Path, archive: Archive) -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)  # a thousandth, packed
    (docs / "a.zip").write_bytes(zipped({"1.png": picture(1), "bomb.png": bomb, "2.png": picture(2)}))
    (docs / "b.tgz").write_bytes(tarred({"1.png": picture(1), "bomb.png": bomb, "2.png": picture(2)}, "gz"))
    nested = zipped({"bomb.png": bomb, "3.png": picture(3)})
    (docs / "c.zip").write_bytes(zipped({"bomb.zip": nested, "4.png": picture(4)}))
    (docs / "d.zip").write_bytes(zipped({f"{number}.png": picture(5) for number in range(30)}))
    deep = zipped({"5.png": picture(5)})
    for _ in range(6):
        deep = zipped({"deeper.zip": deep, "6.png": picture(6)})
    (docs / "e.zip").write_bytes(deep)
    (docs / "f.png").write_bytes(picture(9))
    mails = mail("outer", fwd=mail("middle", fwd=mail("inner")))
    (docs / "g.zip").write_bytes(zipped({"g.eml": mails.replace(b"=?utf-8?q?=C3=9Cberweisung?=", b"")}))
    seen = see(max_container_bytes=1_000_000, max_container_members=20, max_container_depth=3)
    read = {path for path, kind in seen.items() if kind == "png"}
    assert seen["a.zip"] == seen["b.tgz"] == seen["c.zip!/bomb.zip"] == seen["d.zip"] == "too-large"
    assert {"a.zip!/1.png", "b.tgz!/1.png", "c.zip!/4.png", "f.png"} <= read, "the rest goes on"
    assert seen["c.zip"] == seen["e.zip"] == "zip"
    assert sum(path.startswith("d.zip!/") for path in read) == 20
    assert seen["e.zip!/deeper.zip!/deeper.zip!/deeper.zip"] == "too-large"
    assert seen["g.zip!/g.eml!/message-1.eml!/message-1.eml"] == "too-large", "it has pages, but may have attachments"
    said = reasons(archive)
    assert "1,000,000 bytes" in said["a.zip"] and "PAGEPACK_MAX_CONTAINER_BYTES" in said["b.tgz"]
    assert "PAGEPACK_MAX_CONTAINER_MEMBERS" in said["d.zip"]
    assert "PAGEPACK_MAX_CONTAINER_DEPTH" in said["e.zip!/deeper.zip!/deeper.zip!/deeper.zip"]
    mended = see()
    assert "unsupported" not in mended.values() and "too-large" in mended.values(), "depth stays"
    assert mended["a.zip"] == "zip" and mended["a.zip!/2.png"] == "png", "a raised limit is tried at once"


def test_entries_that_overlap_and_headers_that_lie_cost_no_more_than_the_limits(see: See, docs: Path) -> None:
    data = zipped({"a.png": b"\x89PNG\r\n\x1a\n" + bytes(1_000_000)})
    directory = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry, count = data[directory:end], 500
    tail = bytearray(data[end:])
    tail[12:16] = (count * len(entry)).to_bytes(4, "little")
    (docs / "overlapping.zip").write_bytes(data[:directory] + entry * count + tail)
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    (docs / "header.tar").write_bytes(info.tobuf() + bytes(10_000))
    started = time.process_time()
    seen = see(max_container_bytes=20_000_000)
    assert seen["overlapping.zip"] == "too-large" and seen["header.tar"] == "damaged"
    assert time.process_time() - started < 20, "bytes past the limit were unpacked"


def test_patterns_look_into_archives_as_into_folders(see: See, docs: Path) -> None:
    (docs / "a.zip").write_bytes(zipped({"keep/1.png": picture(1), "drop/2.png": picture(2)}))
    assert see(exclude=("drop/",)) == {"a.zip": "zip", "a.zip!/keep/1.png": "png"}
    assert see(include=("*.zip",)) == {"a.zip": "zip", "a.zip!/keep/1.png": "png", "a.zip!/drop/2.png": "png"}
    assert see(exclude=("*.png",)) == {"a.zip": "zip"}, "what is left out is no reason to refuse the rest"


def test_members_are_forgotten_and_gone_with_their_archive(
    see: See, docs: Path, archive: Archive, settings: Settings, db: Database
) -> None:
    inner = zipped({"2.png": picture(2)})
    (docs / "a.zip").write_bytes(zipped({"x/1.png": picture(1), "b.zip": inner}))
    (docs / "keep.png").write_bytes(picture(3))
    see()
    assert find_gone(db, [docs]) == {} and find_gone(db, []) == {}
    (docs / "a.zip").rename(docs / "c.zip")
    gone = sorted(path.rpartition("/docs/")[2] for path in find_gone(db, [docs]).values())
    assert gone == ["a.zip", "a.zip!/b.zip", "a.zip!/b.zip!/2.png", "a.zip!/x/1.png"]
    assert sorted(find_gone(db, [])) == sorted(find_gone(db, [docs]))
    assert set(see()) == {"c.zip", "c.zip!/b.zip", "c.zip!/b.zip!/2.png", "c.zip!/x/1.png", "keep.png"}
    archive.execute("UPDATE batches SET state = 'finished', finished_at = started_at")
    forget(db, settings, plan(db, find_known(db, [docs / "a.zip", docs / "c.zip"])))
    assert archive.rows("SELECT path FROM sources") == [(f"{docs}/keep.png",)]
    assert archive.scalar("SELECT count(*) FROM documents") == 1


def test_an_archive_behind_a_url_is_read_and_its_members_are_opened_from_there(
    see: See, bucket: Bucket, archive: Archive, settings: Settings
) -> None:
    bucket.put("docs/a.zip", zipped({"1.png": picture(1), "in.tgz": tarred({"2.png": picture(2)}, "gz")}))
    url = f"{bucket.url}/docs"
    assert see(url) == {
        f"{url}/a.zip": "zip",
        f"{url}/a.zip!/1.png": "png",
        f"{url}/a.zip!/in.tgz": "gzip",
        f"{url}/a.zip!/in.tgz!/2.png": "png",
    }
    assert sorted(opened(archive, settings)) == ["a.zip!/1.png", "a.zip!/in.tgz!/2.png"]


def test_members_are_copied_for_workers_that_do_not_see_the_archive(
    see: See, docs: Path, tmp_path: Path, archive: Archive, settings: Settings
) -> None:
    (docs / "a.zip").write_bytes(zipped({"1.png": picture(1), "in.tgz": tarred({"2.png": picture(2)}, "gz")}))
    for _ in range(2):
        see(inputs_url=str(tmp_path / "inputs"))
    copies = sorted(path.name for path in (tmp_path / "inputs").rglob("*.*") if path.is_file())
    hashes = [sha256(picture(shade)).hexdigest() for shade in (1, 2)]
    assert copies == sorted(f"{one}.png" for one in hashes)
    (docs / "a.zip").unlink()
    assert len(opened(archive, settings)) == 2


def test_a_member_that_is_gone_from_its_archive_is_said(
    see: See, docs: Path, archive: Archive, settings: Settings
) -> None:
    path = docs / "a.zip"
    path.write_bytes(zipped({"1.png": picture(1), "2.png": picture(2)}))
    see()
    path.write_bytes(zipped({"1.png": picture(1)}))
    with pytest.raises(DocumentRejected, match="not in its container any more") as raised:
        opened(archive, settings)
    assert raised.value.cause == "changed"
    assert set(see()) == {"a.zip", "a.zip!/1.png"}
    path.unlink()
    with pytest.raises(DocumentRejected, match="not on this machine"):
        opened(archive, settings)
