"""A folder of archives, mails and office documents, through the whole program."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.archives import mail, picture, seven_zipped, tarred, zipped
from tests.office_files import docx, words
from tests.running import pagepack, reconciles, rows, write_pdf


def test_what_lies_in_archives_is_read_and_the_rest_is_said(tmp_path: Path) -> None:
    docs, home = tmp_path / "docs", tmp_path / "home"
    docs.mkdir()
    pdf = write_pdf(tmp_path / "a.pdf", 2).read_bytes()
    letter = docx(words("Dear reader"))
    mails = mail("see the scan", scan_png=picture(1), again_pdf=pdf)
    (docs / "year.zip").write_bytes(
        zipped({"1913/a.pdf": pdf, "letter.docx": letter, "mail.eml": mails, "../x.png": picture(2)})
    )
    (docs / "scans.tgz").write_bytes(tarred({"b.png": picture(3), "link": tarfile.SYMTYPE}, "gz"))
    (docs / "comic.cb7").write_bytes(seven_zipped({"p1.png": picture(4), "ComicInfo.xml": b"<x/>"}))
    (docs / "cut.zip").write_bytes(zipped({"c.png": picture(5), "d.png": picture(6)})[:150])
    result = pagepack("run", docs, "--home", home, PAGEPACK_OFFICE="text")
    assert result.returncode == 1, result.stderr
    read = dict(rows(home, "SELECT source_path, count(*) FROM page_text GROUP BY 1"))
    assert {path.removeprefix(f"{docs}/"): count for path, count in read.items()} == {
        "comic.cb7!/p1.png": 1,
        "cut.zip!/c.png": 1,
        "scans.tgz!/b.png": 1,
        "year.zip!/1913/a.pdf": 2,
        "year.zip!/letter.docx": 1,
        "year.zip!/mail.eml": 1,
        "year.zip!/mail.eml!/again.pdf": 2,
        "year.zip!/mail.eml!/scan.png": 1,
    }
    failed = dict(rows(home, "SELECT source_path, cause FROM failures"))
    assert {path.removeprefix(f"{docs}/"): cause for path, cause in failed.items()} == {
        "comic.cb7!/ComicInfo.xml": "unsupported",
        "cut.zip": "damaged",
        "cut.zip!/d.png": "damaged",
        "scans.tgz!/link": "symlink",
        "year.zip!/../x.png": "special",
    }
    assert rows(home, "SELECT count(*) FROM attempts") == [(8,)], "the PDF that lies at two places is read once"
    [(layer,)] = rows(home, "SELECT text_layer FROM page_images WHERE source_path LIKE '%letter.docx'")
    assert layer.strip() == "Dear reader"
    kinds = dict(rows(home, "SELECT kind, state FROM files WHERE page_count = 0"))
    assert kinds == {"zip": "done", "gzip": "done", "7z": "done"}
    reconciles(home)
    assert not any(path.name.startswith("tmp") for path in home.iterdir()), "what was unpacked is gone"
