"""A folder of everything that goes wrong, through the whole program: each gets its reason, the rest is stored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.hostile import encrypted, nested_forms, pages_of, png_claiming
from tests.humility import humble
from tests.running import HANGS_AFTER_SECONDS, PAGEPACK, call, environment, pagepack, reconciles, rows, write_pdf


def test_each_bad_file_gets_its_cause_and_the_good_ones_are_read(tmp_path: Path) -> None:
    folder, home = tmp_path / "docs", tmp_path / "home"
    folder.mkdir()
    expected = {
        encrypted(folder / "encrypted.pdf"): "encrypted",
        png_claiming(folder / "vast.png", 50_000, 50_000): "too-large",
        png_claiming(folder / "nothing.png", 0, 0): "damaged",
        pages_of(folder / "wall.pdf", (14_400, 14_400)): "too-large",
        nested_forms(folder / "bomb.pdf"): "timeout",
    }
    whole = write_pdf(tmp_path / "whole.pdf", 30).read_bytes()
    (folder / "cut.pdf").write_bytes(whole[:300])
    (folder / "zero.pdf").touch()
    (folder / "notes.pdf").write_text("a text that calls itself a PDF")
    os.mkfifo(folder / "fifo.pdf")
    (folder / "out.pdf").symlink_to(tmp_path / "whole.pdf")
    expected |= {
        folder / "cut.pdf": "damaged",
        folder / "zero.pdf": "empty",
        folder / "notes.pdf": "unsupported",
        folder / "out.pdf": "symlink",
    }
    good = [
        b"plain.pdf",
        b"with space.pdf",
        b"quote ' \" quote.pdf",
        b"new\nline.pdf",
        b"not utf8 \xff\xfe.pdf",
        "页.pdf".encode(),
    ]
    for index, name in enumerate(good):
        shutil.copy(write_pdf(tmp_path / f"good{index}.pdf", 1), os.path.join(os.fsencode(folder), name))
    result = pagepack("run", folder, "--home", home, PAGEPACK_RASTERIZE_SECONDS="2")
    assert result.returncode == 1, result.stderr
    causes = dict(rows(home, "SELECT source_path, cause FROM failures"))
    assert {Path(path).name: cause for path, cause in causes.items() if "fifo" not in path} == {
        path.name: cause for path, cause in expected.items()
    }
    assert any(path.endswith("fifo.pdf") for path in causes)
    for path, reason in rows(home, "SELECT source_path, reason FROM failures"):
        assert Path(path).name in reason or "page" in reason, reason
    read = {path for (path,) in rows(home, "SELECT source_path FROM page_text")}
    assert len([path for path in read if not path.endswith("bomb.pdf")]) == len(good)
    assert any(path.endswith(r"not utf8 \xff\xfe.pdf") for path in read)
    assert rows(home, "SELECT count(*) FROM page_text WHERE source_path LIKE '%bomb.pdf'") == [(2,)]  # its other pages
    reconciles(home)


def test_hundreds_of_pages_are_read_in_order(tmp_path: Path) -> None:
    pages_of(tmp_path / "long.pdf", *[(64.0, 64.0)] * 300, texts=False)
    result = pagepack("run", tmp_path / "long.pdf", "--home", tmp_path / "home", PAGEPACK_MAX_SIDE_PX="64")
    assert result.returncode == 0, result.stderr
    numbers = rows(tmp_path / "home", "SELECT page_number FROM page_text ORDER BY page_number")
    assert numbers == [(number,) for number in range(1, 301)]


def test_an_unreadable_file_and_a_read_only_home_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 1)
    write_pdf(folder / "secret.pdf", 1).chmod(0)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    # Root reads what it likes, unless it gives up that privilege.
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    with humble():  # nothing is started
        refused = call("run", folder, "--home", locked / "home")
    assert refused.returncode == 2 and "cannot be written" in refused.stderr
    open_home = tmp_path / "open"
    command = [*drop, *PAGEPACK, "run", str(folder), "--home", str(open_home)]
    told = environment("InstantEngine")
    result = subprocess.run(command, env=told, capture_output=True, text=True, timeout=HANGS_AFTER_SECONDS)
    assert result.returncode == 1, result.stderr
    assert rows(open_home, "SELECT cause FROM failures") == [("unreadable",)]
    assert rows(open_home, "SELECT count(*) FROM page_text") == [(1,)]


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """On a real file system of 12 MiB, in a mount namespace of its own: full when about half of the pages are drawn."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this system gives no mount namespaces (unshare -Urm), so no small disk can be made")
    folder, disk = tmp_path / "docs", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    write_pdf(folder / "a.pdf", 60, height_pt=200)
    run = " ".join([*PAGEPACK, "run", str(folder), "--home", str(disk / "home")])
    count = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(f'SELECT count(*) FROM {sys.argv[2]}'))"
    script = f"""
        mount -t tmpfs -o size=12m none {disk} || exit 99
        mkdir {disk}/home
        head -c 11200000 /dev/zero > {disk}/ballast
        {run}; echo "full: $?"
        rm {disk}/ballast
        echo "drawn: $({sys.executable} -c "$COUNT" {disk}/home/pagepack.db pages)"
        {run}; echo "again: $?"
        echo "stored after all: $({sys.executable} -c "$COUNT" {disk}/home/pagepack.db page_text)"
    """
    result = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", script],
        env=environment("InstantEngine", COUNT=count),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "full: 4" in result.stdout, result.stdout + result.stderr
    drawn = re.search(r"drawn: \((\d+),\)", result.stdout)
    assert drawn and 0 < int(drawn[1]) < 60, result.stdout + result.stderr
    assert "no room left" in result.stderr or "disk" in result.stderr
    assert "again: 0" in result.stdout, result.stdout + result.stderr
    assert "stored after all: (60,)" in result.stdout


def test_a_wheel_works_in_another_folder_without_the_source(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(
        root, source, ignore=shutil.ignore_patterns(".venv", ".git", "pagepack-data", ".*_cache", "__pycache__")
    )
    # As pip does with --no-build-isolation, in half of its time: what builds it is here already.
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path / "wheel"], cwd=source, check=True, capture_output=True)
    [wheel] = (tmp_path / "wheel").glob("pagepack-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(target)
    shutil.rmtree(source)
    folder = tmp_path / "elsewhere" / "workers"  # a folder of that name must not be taken for ours
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('not ours')")
    write_pdf(folder / "a.pdf", 1)
    variables = environment("InstantEngine") | {
        "PYTHONPATH": os.pathsep.join([str(target), str(root / "tests" / "..")])
    }
    code = "import pipeline, migrations; print(pipeline.__file__, migrations.__file__)"
    where = subprocess.run(
        [sys.executable, "-P", "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert where.stdout.count(str(target)) == 2
    result = subprocess.run(
        [*PAGEPACK, "run", "workers/a.pdf"],
        env=variables,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert rows(folder.parent / "pagepack-data", "SELECT count(*) FROM page_text") == [(1,)]
