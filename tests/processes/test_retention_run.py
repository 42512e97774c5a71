"""Page images go and come back in whole runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.running import done_pages, pagepack, processes_of, reconciles, rows, start, wait_until, write_pdf
from tests.s3 import Bucket, bucket, s3_endpoint

__all__ = ["bucket", "s3_endpoint"]


def ask_twice(tmp_path: Path, keep: str, num_left: Callable[[], int], left: int, **variables: str) -> None:
    folder, home = tmp_path / "docs", tmp_path / "home"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 3)
    variables |= {"PAGEPACK_KEEP_IMAGES": keep}
    variables |= {"PAGEPACK_MAX_WAITING_PAGES": "2"}  # fewer than wait for their images to be drawn again
    assert pagepack("run", folder, "--home", home, **variables).returncode == 0
    assert num_left() == left
    again = pagepack("run", folder, "--home", home, "--prompt", "describe", **variables)
    assert again.returncode == 0, again.stderr
    assert rows(home, "SELECT prompt, count(*) FROM page_text GROUP BY 1 ORDER BY 1") == [("describe", 3), ("ocr", 3)]
    assert rows(home, "SELECT DISTINCT attempts FROM page_tasks") == [(1,)]
    reconciles(home)


def test_a_second_prompt_is_answered_when_images_went_from_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    def num_left() -> int:
        return sum(key.endswith(".png") for key in bucket.keys("images/"))

    ask_twice(tmp_path, "until-read", num_left, 0, **bucket.variables, PAGEPACK_IMAGES_URL=f"{bucket.url}/images")


def test_a_second_prompt_is_answered_from_images_that_are_kept_for_days(tmp_path: Path) -> None:
    ask_twice(tmp_path, "30", lambda: len(list((tmp_path / "home" / "images").rglob("*.png"))), 3)


def test_what_a_crash_left_is_swept_at_the_end_of_the_batch(tmp_path: Path) -> None:
    folder, home = tmp_path / "docs", tmp_path / "home"
    folder.mkdir()
    write_pdf(folder / "a.pdf", 8)
    gate = tmp_path / "gate"
    held = {"engine": "HeldEngine", "PAGEPACK_INTERNAL_GATE": str(gate)}
    first = start("run", folder, "--home", home, **held)  # with keep: as if each reader died after storing
    wait_until(lambda: (home / "pagepack.db").exists() and done_pages(home) >= 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_until(lambda: processes_of(home) == [])
    assert len(list((home / "images").rglob("*.png"))) >= 5
    gate.touch()
    second = pagepack("run", folder, "--home", home, **held, PAGEPACK_KEEP_IMAGES="until-read")
    assert second.returncode == 0, second.stderr
    assert list((home / "images").rglob("*.png")) == []
    assert rows(home, "SELECT count(*) FROM pages WHERE image_freed_at IS NULL") == [(0,)]
    reconciles(home)
