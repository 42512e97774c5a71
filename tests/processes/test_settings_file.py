"""What a pagepack.toml says reaches the workers: of a run, and of a host that was started elsewhere."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.running import PAGEPACK, environment, rows, wait_until, write_pdf


def start_in(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PAGEPACK, *map(str, arguments)],
        env=environment("InstantEngine"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def sizes(home: Path) -> list[tuple[int, int]]:
    return rows(home, "SELECT DISTINCT width_px, height_px FROM page_images")


def test_a_run_and_its_workers_follow_the_file_of_the_working_folder(tmp_path: Path) -> None:
    write_pdf(tmp_path / "docs" / "a.pdf", 2)
    (tmp_path / "pagepack.toml").write_text('home = "archive"\nmax_side_px = 64\n')
    run = start_in(tmp_path, "run", "docs")
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert sizes(tmp_path / "archive") == [(64, 64)]
    assert not (tmp_path / "pagepack-data").exists()


def test_a_worker_in_another_folder_follows_the_file_of_the_home(tmp_path: Path) -> None:
    home, other = tmp_path / "archive", tmp_path / "elsewhere"
    for folder in (home, other):
        folder.mkdir()
    (home / "pagepack.toml").write_text("max_side_px = 64\n")
    write_pdf(tmp_path / "docs" / "a.pdf", 2)
    submit = start_in(tmp_path, "submit", "docs", "--home", "archive")
    _, said = submit.communicate()
    assert submit.returncode == 0, said
    worker = start_in(other, "worker", "--home", home)
    try:
        wait_until(lambda: rows(home, "SELECT state, pages_done FROM batch_summary") == [("finished", 2)])
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate()
    assert sizes(home) == [(64, 64)]
