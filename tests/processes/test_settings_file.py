"""What a pagepack.toml says reaches the workers: of a run, and of a host that was started elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.running import rows, start, wait_until, write_pdf


def sizes(home: Path) -> list[tuple[int, int]]:
    return rows(home, "SELECT DISTINCT width_px, height_px FROM page_images")


def test_a_run_and_its_workers_follow_the_file_of_the_working_folder(tmp_path: Path) -> None:
    write_pdf(tmp_path / "docs" / "a.pdf", 2)
    (tmp_path / "pagepack.toml").write_text('home = "archive"\nmax_side_px = 64\n')
    run = start("run", "docs", engine="InstantEngine", folder=tmp_path)
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert sizes(tmp_path / "archive") == [(64, 16)]
    assert not (tmp_path / "pagepack-data").exists()


def test_a_worker_in_another_folder_follows_the_file_of_the_home(tmp_path: Path) -> None:
    home, other = tmp_path / "archive", tmp_path / "elsewhere"
    for folder in (home, other):
        folder.mkdir()
    (home / "pagepack.toml").write_text("max_side_px = 64\n")
    write_pdf(tmp_path / "docs" / "a.pdf", 2)
    submit = start("submit", "docs", "--home", "archive", engine="InstantEngine", folder=tmp_path)
    _, said = submit.communicate()
    assert submit.returncode == 0, said
    worker = start("worker", "--home", home, engine="InstantEngine", folder=other)
    try:
        wait_until(lambda: rows(home, "SELECT state, pages_done FROM batch_summary") == [("finished", 2)])
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate()
    assert sizes(home) == [(64, 16)]
